/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of graph/ share.
 *
 * Everything belongs to the graph's loop.  Changes of the graph (edges,
 * permissions) happen under graph_co_lock(), which the same coroutine may take
 * again; requests never take it.  A change that requests could notice is made
 * while the nodes are drained.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "graph/driver.h"
#include "graph/admission.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/track.h"
#include "loop/co.h"

struct drain;

struct graph {
    struct loop *loop;
    const struct node_driver *const *drivers;
    GHashTable *by_name;    /* name -> node, borrowed */
    GPtrArray *nodes;       /* in order of opening */
    GPtrArray *devices;
    struct backend *backends;
    struct drain *drains;   /* latest first */
    struct co_mutex lock;
    struct co *lock_owner;
    unsigned lock_depth;
    unsigned next_auto_name;
    struct admission admission;       /* of background copying */
    unsigned max_depth;
    unsigned debuggers;     /* nodes that hear debug events */
    enum backing_policy policy;
    char *beneath;
    void (*event_fn)(const char *name, json_t *data, void *arg);
    void *event_arg;
    GHashTable *secrets;    /* id -> GBytes; NULL: none yet; secret.c */
    void (*notice)(const char *text); /* NULL: nobody listens */
    char *last_notice;
};

/* What node_co_open_backing() asked for, until it is opened. */
struct backing_request {
    char *header_name;      /* or NULL: @options say it all */
    char *format;           /* of the header, or NULL */
    json_t *options;        /* object, node name, or NULL */
};

struct track_set {
    struct tracked *writes, *allocs;   /* roots */
    uint64_t next_seq;
    uint32_t rand;
    unsigned reads;
};

enum detect_zeroes { DETECT_OFF, DETECT_ON, DETECT_UNMAP };

struct node_int {
    struct node_limits limits;
    uint32_t mem_align;     /* that buffers must have here */
    bool tracked;           /* writes are tracked */
    bool growable;          /* writes past the end extend it */
    bool end_held;          /* write_co_tail() is at work */
    bool no_discard;        /* discard=ignore */
    bool open;              /* co_open succeeded */
    bool ready;             /* its chain, too: names find it */
    bool explicit_rdonly;   /* read-only=on was given */
    char *followed;         /* the name in a header that led here, or NULL */
    enum detect_zeroes detect_zeroes;
    struct edge *file, *backing;
    struct track_set track;
    GSList *blockers;
    unsigned quiesced;      /* drains that hold the driver quiet */
    bool quieting;          /* the first of them is still asking it */
    struct co_queue quieted;
    uint64_t write_gen;     /* completed changes ... */
    uint64_t flushed_gen;   /* ... and how many a flush has covered */
    int failure;            /* 0, or what every flush gets (G6) */
    uint64_t write_highest;
    unsigned perm, shared;  /* cumulative, as the driver last accepted */
    struct backing_request *pending;
    const struct node_driver *ended; /* storage: open in the place of an image */
    char *ended_name;                /* of this format that is gone */
};

struct backend {
    char *name;
    struct graph *graph;
    struct edge *edge;
    const struct backend_ops *ops;
    void *arg;
    unsigned quiesced;
    unsigned n_drain_waiters;
    bool ending;            /* requests that are let go are not made again */
    struct co_queue drain_waiters;   /* waiting for the drain to end */
    struct co_queue idle;   /* waiting for in_flight == 0 */
    struct backend_stats stats;
    uint64_t latency_ns;    /* moving average of demand requests */
    uint64_t latency_at_ns; /* when it was last fed */
    struct backend *next;
};

static inline uint64_t round_down(uint64_t v, uint64_t to)
{
    return v - v % to;
}

static inline uint64_t round_up(uint64_t v, uint64_t to)
{
    return round_down(v + to - 1, to);
}

/* Is @n a view (raw) of an overlay? Then the node below it, and @off, a place in
 * @n, becomes the place there; else NULL. chain.c */
struct node *view_step(struct node *n, uint64_t *off);

CO_FN void graph_co_lock(struct graph *g);
void graph_unlock(struct graph *g);

/* open.c, graph.c */
struct node *node_new(struct graph *g, const struct node_driver *drv,
                      const char *name, unsigned flags, GError **err);
/* Of a node that never opened or has closed: no edges are left. */
void node_free(struct node *n);
void node_refresh_limits(struct node *n);
void node_refresh_filename(struct node *n);
void backing_request_free(struct backing_request *r);
/* The file that the image @path, which is gone, has ended as: 1 and its name,
 * owned, with the image's format. 0: there is none. Else -errno. */
CO_FN int successor_co_find(struct graph *g, const char *path, char **ret_path,
                            const struct node_driver **ret_drv, GError **err);
/* @n just opened: tell the user when it stands for an image that is gone. */
void successor_tell(const struct node *n);
/* May a node be open with @flags? One that takes no image locks is for reading:
 * its writes would land beside those of the process that holds the locks. */
int node_check_share(unsigned flags, GError **err);
bool name_wellformed(const char *name);
/* "discard" and "detect-zeroes" of an open node from @options; absent: the
 * default. */
int node_take_zeroing(struct node *n, const json_t *options, GError **err);

/* backing.c: turn what a header named into options for node_co_open(). */
CO_FN int backing_co_resolve(struct node *n, struct backing_request *r,
                             json_t **ret_options, char **ret_identity,
                             GError **err);
/* @b was opened by the backing name of @n: is it what the policy allows? Names
 * may have led elsewhere between the look and the open. */
CO_FN int backing_co_check_opened(const struct node *n, struct node *b,
                                  GError **err);
/* Is @name a path, not an address or options? "a:b" can be given as "./a:b". */
bool backing_is_path(const char *name);
/* The driver that knows addresses that begin like @name, or NULL. */
const struct node_driver *backing_address_driver(struct graph *g,
                                                 const char *name);
/* Does @name, of the header of @n, hold bytes that no name has? */
int backing_check_text(const struct node *n, const char *name, GError **err);
/* Is it of a kind that no header may use (fd:, filters)? */
int backing_check_kind(const struct node *n, const char *name, GError **err);
/* Path @name as the header of @n means it: in the image's folder; owned. */
int backing_path_beside(struct node *n, const char *name, char **ret_path,
                        GError **err);
/* Do two paths lead to the same file? The same path does, there or not. */
CO_FN bool backing_co_same_file(const char *a, const char *b);
/* Relative @path, where it does not stand alone ("file:PATH", "json:"): QEMU
 * takes it in the folder where it was started. -EINVAL unless that is the same
 * file. */
CO_FN int backing_co_check_relative(struct node *n, const char *path,
                                    GError **err);
/* What tells the file that @st describes from others; owned. */
char *backing_stat_identity(const struct stat *st);
/* The driver for file @path; -EINVAL where it is no file or block device. */
int backing_file_driver(const char *path, const struct stat *st,
                        const char **ret_driver, GError **err);
/* The format that storage with options @storage seems to be of; static. */
CO_FN int backing_co_probe(struct node *n, const char *name,
                           const json_t *storage, const char **ret_format,
                           GError **err);

/* json-name.c: "json:{...}" as a backing name. */
static inline bool json_name_is(const char *name)
{
    return g_str_has_prefix(name, "json:");
}
/* What such a name in the header of @n, beside format @fmt (or NULL), means:
 * options for node_co_open(), owned.  *@ret_identity, owned: what tells the
 * storage from others, or NULL where it can be named twice.  @may_be_gone: what
 * it names need not be there (no format is looked for then).  A refusal says
 * which part of it no header may have. */
CO_FN int json_name_co_parse(struct node *n, const char *name, const char *fmt,
                             bool may_be_gone, json_t **ret_options,
                             char **ret_identity, GError **err);

/* An address or path a person gave: options of a protocol node; owned. */
CO_FN int backing_co_parse_address(struct graph *g, const char *address,
                                   json_t **ret_options, GError **err);

/* edge.c, perm.c; under the graph's lock, no drain. */
struct edge *edge_link(struct node *parent, struct backend *backend,
                       struct node *child, const char *name, unsigned perm,
                       unsigned shared);
/* Unlink and free; the child's reference passes to the caller. */
struct node *edge_unlink(struct edge *e);
void edge_point_to(struct edge *e, struct node *child);
bool node_reaches(const struct node *from, const struct node *to);
/* Check what the parents of @n want, tell its driver, and pass it on through
 * filters. On failure the caller restores the edges and calls again. */
CO_FN int perm_co_refresh(struct node *n, GError **err);
/* What format @n takes from its children, but "backing", as it becomes writable
 * or ends to be. All or none. */
CO_FN int children_co_set_perms(struct node *n, bool writable, GError **err);
char *edge_describe_parent(const struct edge *e);
/* The size or the node below changed: filters above follow, users hear. */
void node_notify_changed(struct node *n);

/* drain.c */
void drain_forget_node(struct node *n);
void drain_forget_backend(struct backend *u);
void drain_adopt_backend(struct backend *u);

/* account.c */
void account_done(struct backend *u, enum acct_kind kind, uint64_t off,
                  uint64_t bytes, unsigned flags, uint64_t start_ns, int ret);

/* The dispatcher's parts. Ranges are checked, lengths > 0. */
CO_FN int read_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags);
/* Read what @m, which it ends, says of all of @iov at @off; not MAP_ABSENT. */
CO_FN int read_co_mapped(struct node *n, uint64_t off, struct iov iov,
                         const struct mapping *m, unsigned flags);
CO_FN int write_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                            unsigned flags);
/* The driver's own write: split and aligned; tracking is the caller's. */
CO_FN int write_co_driver(struct node *n, uint64_t off, struct iov iov,
                          unsigned flags);
/* To where @m, of @n at @off, says that it may go. */
CO_FN int write_co_in_place(struct node *n, const struct mapping *m,
                            uint64_t off, struct iov iov, unsigned flags);
CO_FN int read_co_driver(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int alloc_write_co_write(struct node *n, uint64_t off, struct iov iov,
                       unsigned flags);
CO_FN int zero_co_dispatch(struct node *n, uint64_t off, uint64_t len,
                           unsigned flags);
CO_FN int discard_co_dispatch(struct node *n, uint64_t off, uint64_t len);
CO_FN int truncate_co_dispatch(struct node *n, uint64_t size, GError **err);
CO_FN int write_co_zeroes(struct node *n, uint64_t off, uint64_t len,
                          unsigned flags);
/* The driver's answer for @n alone, clamped and completed. */
CO_FN int status_co_node(struct node *n, uint64_t off, uint64_t len,
                         struct extent *ext);
/* Does the chain from @n (NULL: nothing) read as zeroes in the range? */
CO_FN bool status_co_is_zero(struct node *n, uint64_t off, uint64_t len);
bool iov_is_aligned(struct iov iov, uint32_t align);
/* May @n be written there? 0, -EIO, -EPERM. */
int write_check(struct node *n, uint64_t off, uint64_t len);
/* The driver has written, or failed to: sizes and generations. */
void write_done(struct node *n, uint64_t off, uint64_t len, int ret);
/* Blocks of file systems that share extents, at least. */
#define SHARE_UNIT UINT64_C(4096)
/* How many bytes of @at can be taken over at @off of @n. */
uint64_t copy_offload_whole(const struct node *n, uint64_t off,
                       const struct host_range *at);
/* IO_FUA on a driver that does not know it, after the write. */
CO_FN int fua_co_finish(struct node *n, unsigned flags, int ret);
