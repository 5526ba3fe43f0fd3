/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluiced: what its parts share.
 *
 * The main thread runs the control loop, a second one the data loop, and each
 * iothread (control/iothread.h) one more.  main()
 * reads the command line twice: first what is about the process itself, then,
 * when the loops run, the rest strictly in order.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"
#include "control/control.h"
#include "loop/co.h"
#include "loop/loop.h"

struct option;
struct io_file;

/* One option as it stood on the command line. */
struct option_use {
    const struct option *option;
    const char *arg; /* NULL for those that take none */
};

/* What the first pass found. */
struct settings {
    bool help, version, trace_help, daemonize, print_uris;
    bool object_help; /* it was printed */
    const char *pidfile, *state_dir, *beneath, *release_hook;
    bool resume_jobs;
    enum io_engine_kind engine;
    enum backing_policy policy;
    unsigned chain_limit;        /* 0: as it is by default */
    uint64_t memory;             /* 0: as it is by default */
    struct loop_polling polling; /* of the data loop */
};

struct daemon {
    struct settings set;
    GArray *uses; /* struct option_use, in order */
    struct loop *loop;
    struct control *control;
    GHashTable *chardevs; /* id -> struct chardev */
    struct co_queue wake; /* main's coroutine waits for the end */
    bool quit;
    bool signals_ended;
    int signal_fd;
    int verdict_fd; /* to the parent of --daemonize, or -1 */
    struct io_file *pidfile;
    int status; /* exit code */
};

/* --- options.c --- */
/* First pass: fill d->set and d->uses. -EINVAL names option and reason. */
int options_parse(struct daemon *d, int argc, char **argv, GError **err);
void options_print_help(void);
void options_print_trace_events(void);
/* Second pass: apply all uses in order; stops when d->quit. */
CO_FN int options_co_apply(struct daemon *d, GError **err);

/* --- chardev.c --- */
int chardev_add(struct daemon *d, const char *arg, GError **err);
CO_FN int monitor_co_add(struct daemon *d, const char *arg, GError **err);
/* Of a struct daemon. */
extern const struct chardev_ops chardevs_ops;
/* Stop listening. */
void chardevs_stop(struct daemon *d);
/* Wait (bounded) for output on its way to a terminal; free all. */
void chardevs_free(struct daemon *d);

/* --- process.c --- */
/* Descriptors as many as permitted; signals blocked for signalfd. */
int process_prepare(struct daemon *d, GError **err);
/* Fork; the parent waits for the verdict and exits with it. */
int process_daemonize(struct daemon *d, GError **err);
/* Tell the parent that all is well and let go of the terminal. */
void process_release_parent(struct daemon *d);
CO_FN int pidfile_co_write(struct daemon *d, GError **err);
CO_FN void pidfile_co_remove(struct daemon *d);
/* Waits for SIGTERM, SIGINT, SIGHUP; asks for the end. */
void signals_start(struct daemon *d);
CO_FN void signals_co_stop(struct daemon *d);
/* The end may take so long; then the process is ended hard, status 1. */
void process_watch_shutdown(void);
