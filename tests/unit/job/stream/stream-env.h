/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The world of one test of streams: QED overlays on raw files in a folder of its
 * own, a base that may fail, and what a guest must read.
 */
#pragma once
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include "base/err.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/reference.h"
#include "job/stream/stream.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define SIZE (5 * MIB + 64 * KIB)
#define CLUSTER (64 * KIB)

extern struct loop *loop;
extern struct graph *graph;
extern struct jobs *jobs;
extern GString *trail;   /* states and events */
extern json_t *last_end; /* data of the last COMPLETED or CANCELLED */
extern uint8_t *want;    /* SIZE bytes: what a guest reads */
extern guint32 seed;

/* Filter "flaky". */
struct flaky {
    uint64_t fail_from, fail_to;
    int errnum;
    uint64_t delay_ns;
    unsigned reads;
};

extern struct flaky flaky;
/* Driver "stuck": QED whose header cannot be written while this is set. */
extern bool header_stuck;
/* Driver "moody": raw; while this is set the second MiB is a hole. */
extern bool moody_hole;

#define GOOD \
    "created running waiting pending BLOCK_JOB_COMPLETED concluded null"

/* A macro, so that @err is looked at after the call. */
#define must(call, err) \
    do { \
        int ret_ = (call); \
        g_assert_no_error(err); \
        g_assert_cmpint(ret_, >=, 0); \
    } while (0)

#define TOP \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'}}"
#define TOP_NAMED \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'},'backing':{'driver':'qed','node-name':'mid'," \
    "'file':{'driver':'file','filename':'DIR/mid.qed'},'backing':{'driver':" \
    "'raw','node-name':'base','file':{'driver':'file','filename':" \
    "'DIR/base.raw'}}}}"
#define TOP_FLAKY \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'},'backing':{'driver':'flaky','node-name':'fl'," \
    "'file':{'driver':'qed','file':{'driver':'file','filename':" \
    "'DIR/mid.qed'}}}}"

/* A member of the last COMPLETED or CANCELLED. */
int64_t end_int(const char *key);
/* These are the states and events since the last call. */
void expect(const char *text);
/* A file in the folder of the test; owned. */
char *path(const char *name);
/* Open what @json says; DIR in it is the folder. */
CO_FN struct node *open_co(const char *json);
CO_FN void make_co_sized(const char *name, const char *backing, const char *fmt,
                         uint64_t size);
CO_FN void make_co_qed(const char *name, const char *backing, const char *fmt);
/* Write as a guest. */
CO_FN void write_co(struct node *n, uint64_t off, uint64_t len, int c);
/* A guest reads what it must; @what is for the failure. */
CO_FN void check_co(struct node *n, const char *what);
/* base.raw: random data, zeroes in the second MiB and in cluster 60. */
void make_base(void);
/* base.raw <- mid.qed <- top.qed, data in each. */
CO_FN void make_co_chain(void);
struct node *named(const char *name);
/* Start a stream, "j" if it has no name. */
CO_FN struct job *start_co(struct stream_params p);
/* ... and wait for its end. */
CO_FN void stream_co(struct stream_params p);
/* A call failed with this text. */
void refuse(int ret, GError **err, const char *text);
CO_FN void until_co_state(struct job *j, enum job_state s);
void remove_file(const char *name);
/* Open top.qed anew: what a start after this moment would see. */
CO_FN void reopen_co_check(const char *backing);

struct world {
    CO_FN_PTR void (*test)(void);
    bool ended;
};

/* For g_test_add_data_func(): a struct world. */
void stream_test_run(gconstpointer data);
