/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control API as tables, made by tools/gen-schema from schema/, and what
 * is done with them: check arguments, turn the strings of a command line into
 * the types that the API wants.  A handler is only called with arguments that
 * passed schema_check(), so it may rely on presence and types.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct control;

enum schema_kind {
    SCHEMA_STR,
    SCHEMA_INT,
    SCHEMA_NUMBER,
    SCHEMA_BOOL,
    SCHEMA_NULL,
    SCHEMA_ANY,
    SCHEMA_ENUM,
    SCHEMA_ARRAY,
    SCHEMA_OBJECT,
    SCHEMA_ALTERNATE
};
struct schema_type {
    const char *name;
    enum schema_kind kind;
    int64_t min, max;                      /* INT */
    const char *const *values;             /* ENUM; NULL-terminated */
    const struct schema_type *element;     /* ARRAY */
    const struct schema_member *members;   /* OBJECT; branches of ALTERNATE */
    const char *tag;                       /* OBJECT that is a union, or NULL */
    const struct schema_variant *variants; /* members by value of the tag */
};
/* What the string of a member names, where that says on which data loop the
 * command runs (control/route.h). */
enum schema_refers {
    SCHEMA_REFERS_NOTHING,
    SCHEMA_REFERS_BLOCK, /* a node or a device */
    SCHEMA_REFERS_JOB,
    SCHEMA_REFERS_EXPORT,
    SCHEMA_REFERS_IOTHREAD
};
struct schema_member {
    const char *name; /* NULL ends a table */
    const struct schema_type *type;
    bool optional;
    enum schema_refers refers;
};
struct schema_variant {
    const char *value; /* NULL ends a table */
    const struct schema_type *type;
};

/* Where a command runs: on a data loop, on the loop of the sockets, or inside the
 * session itself. */
enum schema_context { SCHEMA_ON_DATA, SCHEMA_ON_CONTROL, SCHEMA_ON_SESSION };

struct schema_command {
    const char *name; /* NULL ends the table */
    const struct schema_type *args;
    enum schema_context context;
    bool gather; /* it runs on each data loop, the answers are put together */
    /* @args: checked, never NULL. *@ret: what "return" carries, owned by the
     * caller; left alone for {}. NULL for SCHEMA_ON_SESSION. */
    CO_FN_PTR int (*co_handler)(struct control *c, const json_t *args,
                                json_t **ret, GError **err);
};
struct schema_event {
    const char *name; /* NULL ends the table */
    const struct schema_type *data;
};

/* A human command: how its words become the arguments of a QMP command. */
struct hmp_arg {
    const char *name; /* NULL ends the table */
    char flag;        /* 'f': -f means true, or @value; 0: a word */
    char unit;        /* 'M': size, MiB unless it says */
    bool optional;
    const char *value; /* without a flag: what it is unless a flag says */
};
struct hmp_command {
    const char *name; /* "info block"; NULL ends */
    const char *params, *help;
    const struct hmp_arg *args;
    const char *command; /* QMP name; NULL: @co_run, or done in hmp.c */
    /* Turns the answer into text; NULL: prints nothing. @only: the word after
     * the command, or NULL. */
    void (*print)(const json_t *result, const char *only, GString *out);
    /* Of a command without a QMP form: what it prints is appended to @out. On
     * the control loop. */
    CO_FN_PTR int (*co_run)(struct control *c, const json_t *args, GString *out,
                            GError **err);
};

extern const struct schema_type *const schema_types[];
extern const struct schema_command schema_commands[];
extern const struct schema_event schema_events[];
extern const struct hmp_command hmp_commands[];
/* The answer to query-qmp-schema, as JSON text. */
extern const char schema_introspection[];

/* NULL when there is none of that name. */
const struct schema_command *schema_find_command(const char *name);
const struct schema_event *schema_find_event(const char *name);
const struct schema_type *schema_find_type(const char *name);
/* The struct that a union's tag value adds, or NULL. */
const struct schema_type *schema_find_variant(const struct schema_type *t,
                                              const char *value);

/* Does @v fit @t? -EINVAL with the first misfit, named by its path:
 * "Parameter 'file.driver' is missing", "Invalid parameter type for
 * 'device', expected: string", "Parameter 'x' is unexpected". @v NULL counts
 * as {}. */
int schema_check(const struct schema_type *t, const json_t *v, GError **err);

/* A copy of @v, which came from a command line, where every string that @t
 * wants as a number or a switch has become one ("64k", "on"). What does not
 * fit stays as it is, for schema_check() to name. Caller owns. */
json_t *schema_convert(const struct schema_type *t, const json_t *v);
