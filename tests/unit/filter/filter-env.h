/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A chain of three RAM disks for tests of filters, whose base can be held, and
 * requests on them.
 */
#pragma once
#include <errno.h>
#include <glib.h>
#include <jansson.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/loop.h"
#include "coro.h"
#include "ram.h"

#define KIB 1024u
#define CLUSTER (64 * KIB)
#define SIZE (4 * CLUSTER)

struct env {
    struct graph *g;
    struct ram_disk *d_top, *d_mid, *d_base;
    struct node *top, *mid, *base;
    struct latch base_latch;
};

CO_FN void env_co_init(struct env *e);
CO_FN void env_co_done(struct env *e);
/* Open what @json says; it must end as @expect. NULL: it failed. */
CO_FN struct node *co_open(struct env *e, const char *json, int expect);
/* A guest of @n; @perm: besides reading. */
CO_FN struct backend *co_backend_perm(struct node *n, unsigned perm);
CO_FN struct backend *co_backend(struct node *n);

/* A request of a backend, in a coroutine of its own. */
struct req {
    struct backend *u;
    bool is_write, done;
    uint64_t off;
    size_t len;
    uint8_t *buf;
    int result;
    GString *log; /* gets @tag when it ends */
    char tag;
    struct co_latch latch;
};

struct req *req_start(struct backend *u, bool is_write, uint64_t off,
                      size_t len, GString *log, char tag);
/* Wait for it, and free it; it must succeed. */
CO_FN void req_co_finish(struct req *r);
CO_FN void co_request(struct backend *u, bool is_write, uint64_t off,
                      size_t len);
/* Run @entry, a coroutine, as test @name. */
void filter_test_add(const char *name, void (*entry)(void *arg));
