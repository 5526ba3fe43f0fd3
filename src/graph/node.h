/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block graph, for those who use it: nodes, edges, backends, devices.
 *
 * A graph belongs to one loop; everything here is called on that loop's thread.
 * A node is a driver instance with a name.  An edge leads from a node to a
 * child ("file", "backing").  A backend is a root of the graph, which a device,
 * an export or a job has; all guest I/O enters through one (graph/io.h).  A
 * device is the stable name of a backend whose node may change below it.
 *
 * Nodes are counted references.  blockdev-add holds one (monitor-owned); each
 * edge and each backend holds one.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

/* Largest size of a node, bytes: that of QEMU, so that sums of sizes and
 * clusters stay below 2^63. */
#define NODE_SIZE_MAX (UINT64_C(0x7fffffffffffffff) - (1 << 30) + 1)

struct graph;
struct loop;
struct names;
struct node;
struct stat;
struct node_driver;
struct edge;
struct backend;

/* What a parent does with its child, and lets others do with it. */
enum perm {
    PERM_CONSISTENT_READ = 1 << 0, /* "consistent read" */
    PERM_WRITE = 1 << 1,           /* "write" */
    PERM_WRITE_UNCHANGED = 1 << 2, /* "write unchanged": populate */
    PERM_RESIZE = 1 << 3,          /* "resize" */
    PERM_ALL = (1 << 4) - 1,
};

enum node_flags {
    NODE_RDWR = 1 << 0,
    NODE_NO_BACKING = 1 << 1,   /* ignore the backing name in the header */
    NODE_CHECK = 1 << 2,        /* for check/repair: do not repair on open */
    NODE_FORCE_SHARE = 1 << 3,  /* take no image locks (-U) */
    NODE_NO_IO = 1 << 4,        /* info only: no data is asked for */
    NODE_AUTO_RDONLY = 1 << 5,  /* auto-read-only=on */
    NODE_IMPLICIT = 1 << 6,     /* opened by following a header */
    NODE_CACHE_DIRECT = 1 << 7, /* inherited by children */
    NODE_NO_FLUSH = 1 << 8,
};

/* What a header may name; --backing-policy. */
enum backing_policy {
    BACKING_FOLLOW,   /* as users of QEMU expect */
    BACKING_EXPLICIT, /* only what options name */
    BACKING_BENEATH,  /* regular files under one folder */
    BACKING_DENY
};

/* @drivers: NULL-terminated, outlives the graph. */
struct graph *graph_new(struct loop *l,
                        const struct node_driver *const *drivers);
/* Close everything. Coroutine. All backends must be gone. */
CO_FN void graph_co_free(struct graph *g);
struct loop *graph_loop(struct graph *g);
/* @g, which has no nodes yet, is to have the objects (graph/registry.h) and the
 * memory budget of @with, a graph of another loop that does nothing meanwhile. */
void graph_share(struct graph *g, struct graph *with);
/* Has it no nodes and no devices? */
bool graph_is_empty(const struct graph *g);
/* Nodes and devices take their names out of @names, as @owner. Before there are
 * any; @names outlives the graph. */
void graph_set_names(struct graph *g, struct names *names, void *owner);
/* For the end of the daemon: requests that wait for a server fail, now and
 * later, so that nothing waits for ever. */
void graph_interrupt(struct graph *g);
/* The same for nodes that are not written to: whoever lets go of a base loses
 * nothing. */
void graph_interrupt_bases(struct graph *g);
/* Who hears the events of nodes. */
void graph_set_events(struct graph *g,
                      void (*fn)(const char *name, json_t *data, void *arg),
                      void *arg);
/* Requests at and below @n that wait for storage that does not answer, and that
 * change nothing, come back to where they entered the graph and are made again
 * from there.  So a drain need not wait for a server. */
void node_let_go(struct node *n);
/* How long a caller waits for requests to end before it calls that. ns */
#define LET_GO_NS UINT64_C(200000000)
/* Longest chain that opens, images; default 4096. */
void graph_set_max_depth(struct graph *g, unsigned depth);
void graph_set_backing_policy(struct graph *g, enum backing_policy p,
                              const char *beneath);
/* @fn tells the user what is no error, but good to know. On the graph's thread;
 * must not call back. */
void graph_set_notice(struct graph *g, void (*fn)(const char *text));
/* Tell whoever runs the program. */
void graph_notice(struct graph *g, const char *fmt, ...) PRINTF_LIKE(2, 3);
const struct node_driver *graph_find_driver(struct graph *g, const char *name);

/* --- nodes --- */

const char *node_name(const struct node *n);
/* It had no name, and was given one of the graph's. */
bool node_is_auto_named(const struct node *n);
struct graph *node_graph(const struct node *n);
/* Of the disk, bytes. */
uint64_t node_size(const struct node *n);
/* As QEMU's tools would print it; NULL: of what has none. */
const char *node_filename(const struct node *n);
/* As they were given, driver options included. Borrowed. */
const json_t *node_options(const struct node *n);
unsigned node_flags(const struct node *n); /* enum node_flags */
/* Does blockdev-add hold it? */
bool node_is_monitor_owned(const struct node *n);
void node_set_monitor_owned(struct node *n, bool owned);
/* Did a job insert it without a name? Then commands do not see it. */
bool node_is_implicit_filter(const struct node *n);
void node_set_implicit_filter(struct node *n, bool implicit);

/* Edges from what uses @n, in no order; NULL: nobody does. */
struct edge *node_first_parent(const struct node *n);
struct edge *edge_next_parent(const struct edge *e);
struct node *edge_child(const struct edge *e);
/* NULL: a backend has it, and edge_backend() is that. */
struct node *edge_parent(const struct edge *e);
struct backend *edge_backend(const struct edge *e);
/* "file", "backing", "root" */
const char *edge_name(const struct edge *e);
/* What the parent does with the child and lets others do (enum perm), with what
 * is asked of a filter by its own parents; @own: without that. */
void edge_get_perms(const struct edge *e, bool own, unsigned *ret_perm,
                    unsigned *ret_shared);

/* Open a node from blockdev-add style options ("driver", "node-name", the
 * driver's own; children nested or by name). Context: coroutine; yields.
 * The caller owns one reference. */
CO_FN int node_co_open(struct graph *g, const json_t *options, unsigned flags,
                       struct node **ret_node, GError **err);
struct node *node_ref(struct node *n);
/* Drop a reference; the last one closes the node and its children. */
CO_FN void node_co_unref(struct node *n);
/* blockdev-reopen: give open nodes new option sets, all or none. @list: of
 * objects as node_co_open() takes them, each whole, with "node-name". */
CO_FN int nodes_co_reopen(struct graph *g, const json_t *list, GError **err);

/* By node-name; NULL with "Cannot find device='' nor node-name='X'". */
struct node *node_find(struct graph *g, const char *name, GError **err);
/* By device id or node-name; the node below. */
struct node *node_find_any(struct graph *g, const char *name, GError **err);
void graph_foreach_node(struct graph *g, void (*fn)(struct node *n, void *arg),
                        void *arg);
/* What all parents of @n together do and let others do. */
void node_cumulative_perms(const struct node *n, unsigned *ret_perm,
                           unsigned *ret_shared);
/* blockdev-del: 0, or -EBUSY "Node 'N' is busy: node is used as ...". */
int node_check_deletable(struct node *n, GError **err);
/* Reopen @n and the storage below it read-only or writable. -EACCES "Block node
 * is read-only" when it was opened with read-only=on, no auto-read-only. */
CO_FN int node_co_set_read_only(struct node *n, bool read_only, GError **err);
/* The format whose magic @file begins with; NULL in *@ret_drv: nothing shows
 * one, so that it may be raw. -ENOTSUP: it is of a format that has no driver;
 * the hint names @say_raw, the way in which the user says that it is raw. */
CO_FN int node_co_probe(struct node *file, const char *say_raw,
                        const struct node_driver **ret_drv, GError **err);
/* Make @n writable for a job, also where it was opened with read-only=on: the
 * user names it as the one that is written to. It is given back by
 * node_co_set_read_only(). */
CO_FN int node_co_take_for_writing(struct node *n, GError **err);
bool node_is_writable(const struct node *n);
bool node_is_filter(const struct node *n);

struct node_limits {
    /* Power of two; 1 = bytes. Honoured on nodes that have no backing file;
     * with supports_backing it is always 1 (the "file" node aligns). */
    uint32_t request_alignment;
    uint32_t cluster_size;    /* unit of allocation, 0 = none */
    uint64_t max_transfer;    /* 0 = no limit */
    uint32_t mem_alignment;   /* of buffers; enforced on protocol nodes */
    bool fast_zero;           /* co_zero never writes data */
    bool can_allocate;        /* co_zero obeys IO_ALLOCATE */
    uint32_t compressed_unit; /* IO_COMPRESSED takes whole ones, 0 = cannot */
};

/* The smallest limits of @n, after defaults. */
const struct node_limits *node_get_limits(const struct node *n);

/* "qcow2": as it is called in options and answers. */
const char *driver_name(const struct node_driver *drv);
const char *node_driver_name(const struct node *n);
enum node_ability {
    NODE_CAN_HAVE_BACKING,   /* an overlay is of such a format */
    NODE_CAN_CHANGE_BACKING, /* node_co_change_backing() */
    NODE_CAN_SNAPSHOT,       /* node_co_snapshot() */
    NODE_CAN_BITMAP,         /* node_co_bitmap() */
    NODE_CAN_YANK,           /* node_yank() */
    NODE_CAN_VIEW,           /* shows a part of its file's disk, like raw */
};
/* Does @n's own driver know how? The state of the node is not asked. */
bool node_can(const struct node *n, enum node_ability what);

/* All requests that wait for a server that does not answer fail, those that
 * write, too. Nothing where the driver waits for nobody. */
void node_yank(struct node *n);
/* What @n and the nodes below it do about storage that does not answer for
 * @timeout_ns (0: for ever): tell, then wait on or, @fail, fail what changes
 * nothing. */
void node_set_hang(struct node *n, uint64_t timeout_ns, bool fail);

/* What messages call @n: its name, or its file where nobody gave it one.
 * Borrowed. */
const char *node_title(const struct node *n);
struct edge *node_child(const struct node *n, const char *name);
/* The child of a filter ("file"), NULL for others. */
struct node *node_filtered(const struct node *n);
/* @n itself when it is no filter, else what it filters, down to a
 * non-filter. */
struct node *node_skip_filters(struct node *n);
/* The node that decides what an overlay lacks: looks through filters and
 * through views of a part of the disk (raw). *@ret_offset (or NULL): where byte
 * 0 of @n is in it. Where no such node is below, node_skip_filters(@n), at
 * 0. */
struct node *node_image(struct node *n, uint64_t *ret_offset);
/* One step down the chain, filters and views of overlays included. */
struct node *node_chain_next(struct node *n);
/* The next node of the chain: through filters to the format node, then its
 * backing edge's child (which may be a filter). NULL at the base. */
struct node *node_backing(struct node *n);
/* The format node of @top's chain (of the image under it) whose backing edge
 * leads (through filters) to @n; NULL: none. */
struct node *node_overlay_of(struct node *top, struct node *n);
/* Is @n in the chain from @top down, filters and views included? */
bool node_chain_contains(struct node *top, struct node *n);
/* Resolve a file name as base= does: exact, then along resolved paths. */
struct node *node_chain_find_file(struct node *top, const char *filename);
/* Where storage is: the protocol node under @n, NULL for none. */
struct node *node_storage(struct node *n);
/* What the file was like when it was opened that holds all of image @n, its
 * backing file aside; NULL: it is no regular file, or there are several. */
const struct stat *node_opened_as(struct node *n);
/* Has anything been written to @n since it was opened? */
bool node_was_written(const struct node *n);
/* Does @n's storage lie behind a network? */
bool node_is_remote(struct node *n);
/* The name that the image's header holds, and its format; NULL: none. */
const char *node_header_backing(const struct node *n, const char **ret_format);

/* --- graph changes; each drains what it must --- */

/* Attach @child below @parent; takes a reference of its own. */
CO_FN int edge_co_attach(struct node *parent, struct node *child,
                         const char *name, unsigned perm, unsigned shared,
                         GError **err);
CO_FN int edge_co_replace(struct edge *e, struct node *new_child, GError **err);
/* What the parent does with the child, and shares, from now on: for a job that
 * writes below a chain whose readers do not notice. */
CO_FN int edge_co_set_perms(struct edge *e, unsigned perm, unsigned shared,
                            GError **err);
CO_FN void edge_co_detach(struct edge *e);
/* Every parent of @old, but @except (or NULL), now leads to @new_node. */
CO_FN int node_co_replace(struct node *old, struct node *new_node,
                          struct node *except, GError **err);
/* Put filter @filter (whose "file" is @n) above @n for all parents of @n. */
CO_FN int node_co_insert_filter(struct node *n, struct node *filter,
                                GError **err);
CO_FN int node_co_remove_filter(struct node *filter, GError **err);

/* Freeze the backing links from @top down to @bottom, "busy" for all others. */
int chain_freeze(struct node *top, struct node *bottom, const char *by,
                 GError **err);
/* The same, but links below the first may be frozen by others who do the same:
 * none of them changes any but its first. */
int chain_freeze_shared(struct node *top, struct node *bottom, const char *by,
                        GError **err);
void chain_unfreeze(struct node *top, struct node *bottom);

/* --- blockers: "Node 'N' is busy: REASON" --- */
enum block_op {
    BLOCK_OP_STREAM,
    BLOCK_OP_STREAM_FROM, /* by a stream into an image above, which reads it */
    BLOCK_OP_COMMIT,
    BLOCK_OP_MIRROR,
    BLOCK_OP_BACKUP,
    BLOCK_OP_RESIZE,
    BLOCK_OP_REOPEN,
    BLOCK_OP_DELETE,
    BLOCK_OP_CHANGE,
    BLOCK_OP_SNAPSHOT,
    BLOCK_OP_OVERLAY, /* another image is opened on it */
    BLOCK_OP_COUNT
};
struct blocker;
/* Block operations @ops (bits 1 << op) on @n. @reason is copied:
 * "block device is in use by block job: stream". */
struct blocker *node_block(struct node *n, unsigned ops, const char *reason);
void node_unblock(struct blocker *b);
/* Does no image stand on @n, filters and views in between included? It would
 * read what is written there. -EBUSY with the name of one. */
int node_check_no_overlay(struct node *n, GError **err);
/* The same for each image below @top, down to @base: the one above it in this
 * chain may stand on it. */
int chain_check_no_other_overlay(struct node *top, struct node *base,
                                 GError **err);
/* 0 or -EBUSY. */
int node_check_op(struct node *n, enum block_op op, GError **err);

/* --- backends and devices --- */

struct backend_ops {
    /* The node below changed (filter, pivot) or its size did. No yield. */
    void (*changed)(void *arg);
    /* For error texts, e.g. "block device 'virtio0'". Owned by caller. */
    char *(*describe)(void *arg);
    /* What the backend does with the node, for the same texts; NULL =
     * "root". */
    const char *role;
};
/* @ops may be NULL. Fails with the permission text of QEMU 7.2. */
CO_FN int backend_co_new(struct node *n, const char *name, unsigned perm,
                         unsigned shared, const struct backend_ops *ops,
                         void *arg, struct backend **ret_backend, GError **err);
/* Nobody wants the answers any more: requests that node_let_go() can end fail,
 * now and whenever this is called again. */
void backend_let_go(struct backend *u);
/* Waits for its requests. NULL is fine. */
CO_FN void backend_co_free(struct backend *u);
struct node *backend_node(const struct backend *u);
CO_FN int backend_co_set_perms(struct backend *u, unsigned perm,
                               unsigned shared, GError **err);

struct device {
    char *id;
    struct backend *backend; /* NULL: empty, or still being made */
    bool empty;              /* a drive without a medium */
    bool removable;          /* it was made without one: media come and go */
    struct graph *graph;
};
CO_FN int device_co_new(struct graph *g, const char *id, struct node *n,
                        struct device **ret_dev, GError **err);
/* A drive without a medium, which no command finds by its name. */
int device_new_empty(struct graph *g, const char *id, GError **err);
CO_FN void device_co_free(struct device *d);
/* Put @n into a removable device, in the place of what is there, which no job has:
 * all who use that use @n. */
CO_FN int device_co_set_medium(struct device *d, struct node *n, GError **err);
/* By name, with a medium or without; NULL: it is not removable, or not there. */
struct device *device_find_removable(struct graph *g, const char *id);
/* A device with a node; NULL where there is none, or an empty one. */
struct device *device_find(struct graph *g, const char *id);
bool device_is_empty(struct graph *g, const char *id);
/* The device, be it empty or not; NULL: there is none of that name. */
struct device *device_find_any(struct graph *g, const char *id);
/* The device whose backend leads to @n directly or through filters, or NULL. */
struct device *device_of_node(struct node *n);
/* Those that are empty, too. */
void graph_foreach_device(struct graph *g,
                          void (*fn)(struct device *d, void *arg), void *arg);

/* --- drain --- */

/* Stop new requests of every backend that reaches @n and wait for those in
 * flight. Nestable. Only the backends above @n are touched. The caller holds @n
 * (a reference) until the end. */
CO_FN void node_co_drain_begin(struct node *n);
/* The same for requests alone: what formats do by themselves, such as
 * publishing pointers, goes on, so nobody waits for a disk on its account.
 * Enough to change edges that lead to @n, or to its backing node. */
CO_FN void node_co_drain_requests_begin(struct node *n);
void node_drain_end(struct node *n);
