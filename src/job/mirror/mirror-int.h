/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the mirror share; see mirror.h. */
#pragma once
#include "base/dirty-map.h"
#include "graph/watch.h"
#include "job/copy/checkpoint.h"
#include "job/copy/copy.h"
#include "graph/ranges.h"
#include "graph/transfer.h"
#include "job/hold.h"
#include "job/mirror/mirror.h"

struct mirror {
    struct job job; /* first */
    struct graph *graph;

    /* mirror-graph.c */
    struct node *source; /* no filter; "file" of @filter */
    struct node *target;
    struct node *bottom;   /* or NULL */
    struct node *replaces; /* or NULL */
    struct node *filter;
    struct job_hold hold;
    struct backend *source_backend, *target_backend; /* of @hold */
    bool is_commit, frozen, target_made_writable, switched;
    bool source_below; /* the target is to stand on the source */

    /* mirror-copy.c */
    struct dirty_map *dirty;
    struct ranges ranges;
    struct transfer transfer;
    bool write_blocking, target_is_zero;
    /* The target lacks its backing file until the end: it is written to in
     * whole units of this many bytes, or what it lacks of them would read as
     * zeroes. 0: any. */
    uint32_t whole;
    bool no_zeroes; /* of it, because there is no marker for zeroes, either */
    bool first;     /* round: everything, by status; else what is dirty */
    bool ending;    /* requests that were let go are not repeated */
    uint64_t first_bytes;  /* how far the first round is */
    uint64_t later_bytes;  /* what has been copied after it */
    struct ranges changes; /* by guests, under way */
    struct checkpoint_keeper keeper;

    /* mirror.c */
    uint64_t buf_size;
    enum on_error on_source_error, on_target_error;
    bool only_new;
    bool completing;      /* the end was asked for ... */
    bool stay;            /* ... without the switch */
    bool skipped;         /* an error was ignored in this round */
    unsigned lost_rounds; /* that left about as much as they found */
    struct co_queue wake;
};

/* --- mirror-graph.c --- */

/* On failure mirror_co_release() follows. */
CO_FN int mirror_co_hold(struct mirror *m, const char *filter_node_name,
                         GError **err);
/* Between drain and its end: whoever used the source uses the target. */
CO_FN int mirror_co_switch(struct mirror *m, GError **err);
CO_FN void mirror_co_release(struct mirror *m);

/* --- mirror-checkpoint.c --- */

/* Before guests' changes pass through the filter, and once they do. */
CO_FN int mirror_co_open_checkpoint(struct mirror *m,
                                    const struct job_params *p, GError **err);
CO_FN int mirror_co_begin_checkpoint(struct mirror *m, GError **err);

/* --- mirror-copy.c --- */

extern const struct watch_ops mirror_watch_ops;
/* Marks are taken away from whole units of that many bytes alone. */
uint32_t mirror_unit(const struct mirror *m);
/* For copy_ops. */
CO_FN int mirror_co_scan(void *arg, uint64_t off, uint64_t max, bool *ret_need,
                         bool *ret_zero, uint64_t *ret_len);
CO_FN int mirror_co_copy(void *arg, uint64_t off, uint64_t len, bool zero,
                         struct copy_result *res);
/* The filter is drained: copy all that is dirty. */
CO_FN int mirror_co_copy_rest(struct mirror *m);
/* Tell the job how far it is. */
void mirror_show_progress(struct mirror *m);
