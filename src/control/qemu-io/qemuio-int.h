/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the qemu-io language share. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "control/qemu-io/qemuio.h"
#include "graph/node.h"
#include "loop/co.h"

/* What is known of a name that aio commands ran on. */
struct qemuio_target {
    char *name;
    unsigned running; /* aio requests */
    struct co_queue idle;
    GString *done; /* what they printed */
};

struct qemuio {
    struct graph *graph;
    struct co_latch busy; /* commands and aio requests */
    bool stopping;
    GHashTable *targets; /* name -> struct qemuio_target */
};

/* One command under way. */
struct qemuio_run {
    struct qemuio *q;
    struct qemuio_target *target;
    struct node *node;
    struct backend *backend; /* made for this command */
    bool keep_backend;       /* an aio request took it over */
    GString *out;
};

/* Its words, after the options have been taken out. */
struct qemuio_args {
    const char *option[128]; /* value, "" for a flag, NULL: not given */
    char **word;
    unsigned n;
};

struct qemuio_command {
    const char *name, *alias; /* @alias may be NULL */
    int min, max;             /* words after the name; max -1: any number */
    const char *options;      /* letters, ':' after those with a value */
    const char *params, *help;
    /* Prints to @run->out, errors too. */
    CO_FN_PTR void (*co_run)(struct qemuio_run *run,
                             const struct qemuio_command *cmd,
                             const struct qemuio_args *a);
    unsigned flags; /* of co_run's own */
};

/* qemuio-rw.c */
enum {
    QEMUIO_WRITE = 1,
    QEMUIO_AIO = 2,
    QEMUIO_VECTOR = 4,
    QEMUIO_DISCARD = 8
};
CO_FN void qemuio_co_rw(struct qemuio_run *run,
                        const struct qemuio_command *cmd,
                        const struct qemuio_args *a);
CO_FN void qemuio_co_aio_flush(struct qemuio_run *run,
                               const struct qemuio_command *cmd,
                               const struct qemuio_args *a);
/* Free a command's backend; what it did counts for the device @name, if there
 * is one. */
CO_FN void qemuio_co_backend_done(struct qemuio *q, const char *name,
                                  struct backend *u);

/* qemuio-text.c */
void qemuio_print_usage(const struct qemuio_command *cmd, GString *out);
/* A size with suffix. False after the complaint was printed. */
bool qemuio_parse_size(const char *word, uint64_t *ret, GString *out);
/* "4 KiB", "1.500 MiB", "3 bytes". */
void qemuio_print_size(GString *out, double bytes);
