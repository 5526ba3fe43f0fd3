/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The subcommands, one file each (cmd-NAME.c); see struct subcommand. */
#pragma once

int cmd_add(int argc, char **argv);
int cmd_amend(int argc, char **argv);
int cmd_backup(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bitmap(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_commit(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_create(int argc, char **argv);
int cmd_dd(int argc, char **argv);
int cmd_graph(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_job(int argc, char **argv);
int cmd_jobs(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_measure(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_monitor(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_rebase(int argc, char **argv);
int cmd_remove(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_switch(int argc, char **argv);

/* The forms of commit and snapshot for a disk of a running daemon. */
int live_commit(int argc, char **argv);
int live_snapshot(int argc, char **argv);
