/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The inside of the simulated machine.  Private to sim/. */
#pragma once
#include <pthread.h>
#include "loop/engine.h"
#include "sim/sim.h"

/* An open file. */
struct sim_handle {
    uint64_t file;
    int flags;
    char *path;
};

/* A lock on bytes [start, end) of @file, held through descriptor @fd. */
struct sim_lock {
    int fd;
    uint64_t file;
    uint64_t start, end;
    int type;
};

/* A request under way. */
struct sim_pending {
    struct io_req *req;
    struct sim_record *rec;
    bool logged; /* @rec belongs to the log */
    uint64_t due_ns;
    int64_t fault;    /* 0, else the result */
    bool lands;       /* it takes place all the same */
    size_t short_len; /* 0, else the most to move */
};

struct sim {
    uint64_t now_ns;
    uint64_t rng;
    unsigned shuffle; /* percent of coroutines that run first */
    uint64_t shuffle_state;
    GPtrArray *pending; /* struct sim_pending */

    struct sim_image *live;
    uint64_t last_file;
    uint32_t block;      /* of O_DIRECT */
    GHashTable *handles; /* fd -> struct sim_handle */
    int last_fd;
    GArray *locks; /* struct sim_lock */

    bool log_on;
    uint64_t instant;
    GPtrArray *log; /* struct sim_record */
    GArray *faults; /* struct sim_fault */
    bool shares;    /* clones succeed */
    uint64_t count[SIM_OP_COUNT];
    struct {
        uint64_t min_ns, max_ns;
    } latency[SIM_OP_COUNT];

    struct sim_disk disk;
    uint64_t channel_free_ns[SIM_CHANNELS_MAX];

    pthread_mutex_t wake_lock;
    pthread_cond_t wake_cond;
    bool woken;
};

struct sim_handle *sim_handle(struct sim *s, int fd);
/* Carry out @p->req on the files. Returns its result. */
int64_t sim_apply(struct sim *s, struct sim_pending *p);

struct sim_record *sim_record_new(struct sim *s, struct io_req *r);
void sim_record_free(void *rec);
