/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The options of all commands that start a job in a running daemon and follow
 * it: --socket, --speed, --latency-target, --floor, --finish-by, --on-error,
 * --job-id, --no-wait, --output.
 */
#pragma once
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "cli/follow.h"
#include "cli/limit-options.h"

struct job_options {
    const char *device, *target; /* the words behind the options */
    const char *socket, *on_error, *job_id;
    uint64_t speed;
    json_t *limits; /* object; made by job_options_init() */
    bool no_wait, json;
};

/* For an array of struct option; "s:" stands in the option string. */
enum { OPT_SPEED = 640, OPT_ON_ERROR, OPT_JOB_ID, OPT_NO_WAIT, OPT_JOB_OUTPUT };
#define JOB_OPTIONS \
    { "help", no_argument, NULL, 'h' }, \
        { "socket", required_argument, NULL, 's' }, \
        { "speed", required_argument, NULL, OPT_SPEED }, \
        { "on-error", required_argument, NULL, OPT_ON_ERROR }, \
        { "job-id", required_argument, NULL, OPT_JOB_ID }, \
        { "no-wait", no_argument, NULL, OPT_NO_WAIT }, \
        { "output", required_argument, NULL, OPT_JOB_OUTPUT }, LIMIT_OPTIONS

void job_options_init(struct job_options *o);
void job_options_clear(struct job_options *o);

/* An option of one command alone, and what it sets: a text, or a flag to true;
 * neither, if it is enough that it is allowed. */
struct job_own_option {
    int c; /* as getopt_long() returns it; 0 ends a table */
    const char **text;
    bool *flag;
};
/* How the command line of @command looks. */
struct job_command_line {
    const char *command, *letters; /* for getopt_long() */
    const struct option *options;
    const struct job_own_option *own;
    bool target; /* a target follows the device */
};
/* 0; 1 after a usage error; -1 after help. */
int job_options_parse(const struct job_command_line *l, int argc, char **argv,
                      struct job_options *o);

/* --speed alone. 0, or 1 after a usage error of @command. */
int job_option_speed(const char *command, const char *text, uint64_t *ret);

/* Run @command with @args (taken over), and what the options say; then follow the job with @f, of which the socket and the form of the output
 * are filled in here. Returns the exit status. */
int job_options_run(const struct job_options *o, const char *command,
                    json_t *args, struct follow_options *f);

/* Does @argv of a command that works on images at rest, too, ask for a running
 * daemon: -s, --socket, --live? */
bool wants_daemon(int argc, char **argv);
/* @name as the daemon, which has another folder, finds it: paths are absolute.
 * Owned. */
char *name_for_daemon(const char *name);
