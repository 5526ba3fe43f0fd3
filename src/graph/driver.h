/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For those who write a node driver: a format, a filter, a storage leaf.
 *
 * The dispatcher has done the common work before an operation is called: ranges
 * are inside node->size, lengths are > 0 and at most limits.max_transfer,
 * offsets and lengths are multiples of limits.request_alignment (the node's
 * tail included: it may lie past an unaligned end).  Each optional operation
 * has the default that stands beside it.
 *
 * A write reaches the driver of a node that can have a backing file in one of
 * two shapes:
 *   - the range is allocated here (data): any alignment, written in place;
 *   - it is not: whole clusters (limits.cluster_size; or up to the end of the
 *     disk), the rest of a partly written cluster read by the dispatcher from
 *     the backing chain; or, where the chain below reads as zeroes (zero
 *     clusters included), any alignment: then the driver makes the unwritten
 *     rest of the new cluster read as zeroes.
 * No two allocating writes to one cluster run at once; the dispatcher holds
 * the range.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include "base/annot.h"
#include "base/iov.h"
#include "base/options.h"
#include "graph/debug.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/map.h"
#include "graph/node.h"

struct edge {
    struct node *parent; /* or NULL: then @backend */
    struct backend *backend;
    struct node *child;
    const char *name; /* "file", "backing", "root" */
    /* enum perm; of a filter: own + its parents'; of the backing file of an
     * image that nobody uses: none, all */
    unsigned perm, shared;
    unsigned own_perm, own_shared;
    unsigned frozen;        /* > 0: must not be changed (a job walks it) */
    unsigned frozen_shared; /* of those, that may be several */
    char *frozen_by;        /* name for the error text */
    struct edge *next_in_parent, *next_in_child;
};

/* What drivers see of a node; written only by graph/. */
struct node {
    char *name;
    bool auto_named; /* '#blockNNN' */
    struct graph *graph;
    const struct node_driver *drv;
    void *state;    /* the driver's */
    unsigned flags; /* enum node_flags */
    unsigned refs;
    uint64_t size;         /* virtual size, bytes */
    struct edge *children; /* in order of attaching */
    struct edge *parents;
    char *filename;  /* as the tools of QEMU would print it */
    json_t *options; /* as given, driver options included */
    bool monitor_owned;
    bool implicit_filter;      /* inserted by a job without a name */
    struct node_int *priv;     /* graph-int.h */
    const unsigned *debuggers; /* how many listen: graph/debug.h */
    struct inflight_table
        *inflight_reads; /* graph/model/in-flight.c; NULL: none in flight */
};

/* @ev is about to happen on @n; NULL is fine. Yields. */
static inline CO_FN void node_co_debug_event(struct node *n,
                                             enum debug_event ev)
{
    if (__builtin_expect(n && *n->debuggers, 0)) {
        node_co_debug_event_slow(n, ev);
    }
}

/* What is asked of a filter with breakpoints; see graph/debug.h. */
enum debug_control {
    DEBUG_BREAK,
    DEBUG_REMOVE_BREAK,
    DEBUG_RESUME,
    DEBUG_IS_SUSPENDED,
    DEBUG_RELEASE, /* everything, for good */
};

struct before;
struct bitmap_look;
struct watch_ops;

enum node_kind { NODE_PROTOCOL, NODE_FORMAT, NODE_FILTER };

struct node_driver {
    const char *name; /* "qed" */
    enum node_kind kind;
    size_t state_size; /* zeroed node->state of this size; freed by graph */
    bool supports_backing;
    unsigned filter_perm; /* a filter's own needs of "file": enum perm */
    bool is_internal;     /* jobs open it, no options of a user do */
    bool is_remote;       /* storage behind a network: reads are joined, and
                           * images that name it share its node */
    /* co_pwritev and co_zero obey IO_FUA themselves; otherwise the dispatcher
     * adds a flush. (Filters that leave them out pass the flag on.) */
    bool handles_fua;
    /* Names of the options that open() takes; NULL-terminated. For the schema
     * test and for error texts. */
    const char *const *option_names;

    /* How addresses of this storage begin ("nbd:"); open() takes such an
     * address as "filename". NULL-terminated; NULL for none. */
    const char *const *name_prefixes;
    /* May a header hold address @name, of a right prefix?  -EINVAL with a text:
     * no, it could do harm. Default: yes. Optional. */
    int (*check_name)(const char *name, GError **err);
    /* Make the storage that address @name stands for, empty: -EEXIST when it
     * is there. And remove it, as nothing came of it. Default: it must be
     * there. Optional. */
    CO_FN_PTR int (*co_make)(const char *name, GError **err);
    CO_FN_PTR void (*co_unmake)(const char *name);

    /* Names of nodes in headers (graph/reference.h). What a "json:" name may
     * say of such a node, beside its driver, "file" and "backing": options that
     * decide what it shows and do no harm, whoever wrote them.  An object is
     * another child of a format, a plain value of storage.  NULL-terminated;
     * NULL: no header may name such a node. */
    const char *const *reference_options;
    /* Add those of them to @o that an open of @n's bytes needs; children are
     * the caller's. Default: none. */
    void (*reference)(const struct node *n, json_t *o);

    /* No filter, but no more than a view of "file", whose byte @ret_offset + x
     * is the disk's byte x: whoever asks what an image lacks looks through it.
     * Optional. */
    uint64_t (*view_offset)(const struct node *n);

    /* Confidence 0..100 that the image beginning with @buf is of this
     * format. */
    int (*probe)(const uint8_t *buf, size_t len);

    /* Nothing is called @path. If it was an image of this format that has ended
     * as another file: 1 and the name of that, owned. 0: not so. -ENOENT with a
     * text: something of it is left that is no whole disk. Optional. */
    CO_FN_PTR int (*co_successor)(const char *path, char **ret_path,
                                  GError **err);

    /* Take options, open children (node_co_open_file, node_co_open_backing),
     * set node->size. Leftover options are refused by the caller. */
    CO_FN_PTR int (*co_open)(struct node *n, struct opts *o, unsigned flags,
                             GError **err);
    /* Flush and release; children are detached afterwards by graph/. */
    CO_FN_PTR void (*co_close)(struct node *n);
    /* Adopt a new option set or read-only flag; default: -ENOTSUP. What is left
     * in @o must be what it was. */
    CO_FN_PTR int (*co_reopen)(struct node *n, struct opts *o, unsigned flags,
                               GError **err);
    /* What co_reopen() did since the last of these calls, once or several times,
     * is final (@keep), or is taken back, which cannot fail. Default: it is
     * taken back by a co_reopen() with the old options and flags. */
    CO_FN_PTR void (*co_reopen_end)(struct node *n, bool keep);
    /* Options that cannot be left out of a new set once they were given; names,
     * NULL-terminated. Optional. */
    const char *const *fixed_options;
    /* Fill node->filename; default: that of "file". */
    void (*describe)(struct node *n);
    /* @l comes with the defaults: 1, no limit, memory alignment of "file" (a
     * filter: its child's cluster_size, fast_zero and compressed_unit too). */
    void (*limits)(struct node *n, struct node_limits *l);
    /* Add format-specific members to ImageInfo; *@info. Optional. */
    CO_FN_PTR int (*co_info)(struct node *n, json_t *info, GError **err);
    /* Backing name and format of the header. Optional. */
    const char *(*header_backing)(const struct node *n, const char **ret_fmt);

    /* Where the bytes of [@off, @off+@len) are, the longest run that can be
     * told from memory: graph/map.h. @ret_map comes filled with the default
     * (all of the range is data). A filter's own answer is ignored, its failure
     * is not. Default: data of this node; a filter is like its file. */
    CO_FN_PTR int (*co_map)(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map);
    /* Comes with a co_map; what that named stays where it is until this
     * call. */
    void (*map_end)(struct node *n, const struct mapping *m);
    /* Make the bytes of a MAP_DATA without a child, inside its begin and end.
     * Default: co_preadv. */
    CO_FN_PTR int (*co_decode)(struct node *n, uint64_t off, struct iov iov,
                               const struct mapping *m, unsigned flags);

    /* Filters may leave each out: it passes through. A format whose co_map
     * tells where all of its data is needs no co_preadv, and, when all of it
     * may be written in place, no co_pwritev and no co_copy_in. */
    CO_FN_PTR int (*co_preadv)(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags);
    CO_FN_PTR int (*co_pwritev)(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags);
    /* A write like co_pwritev, in the same shapes, of the bytes at @src_off of
     * storage @src: a format passes them on with node_co_copy_in() to its file.
     * -ENOTSUP before anything was done: they are read and written.
     * Optional. */
    CO_FN_PTR int (*co_copy_in)(struct node *n, uint64_t off, struct node *src,
                                uint64_t src_off, uint64_t len, unsigned flags);
    /* Comes with co_copy_in, or with a map by which all of the data may be
     * written in place: may @n take over bytes of storage @src? A format with
     * nothing to say uses node_file_can_copy_in(). */
    bool (*can_copy_in)(struct node *n, struct node *src);
    /* Whole clusters when cluster_size is set. -ENOTSUP: the dispatcher writes
     * zeroes. */
    CO_FN_PTR int (*co_zero)(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags);
    /* Whole clusters. Default: success without effect. */
    CO_FN_PTR int (*co_discard)(struct node *n, uint64_t off, uint64_t len);
    CO_FN_PTR int (*co_flush)(struct node *n);
    CO_FN_PTR int (*co_truncate)(struct node *n, uint64_t size, GError **err);
    const char *no_truncate; /* without that: why. Default: QEMU's words */
    CO_FN_PTR int (*co_refresh_size)(struct node *n);
    CO_FN_PTR int (*co_cache)(struct node *n, uint64_t off, uint64_t len);

    /* Rewrite the backing reference durably; @name NULL = none. The caller has
     * flushed the node: all that the new reference does without is durable. On
     * failure the old reference stands. */
    CO_FN_PTR int (*co_change_backing)(struct node *n, const char *name,
                                       const char *fmt, GError **err);
    /* Would co_change_backing() find room for this (@name not NULL)?  Also on a
     * read-only node. -ENOSPC, -EINVAL, -ENOTSUP. Optional. */
    int (*check_backing)(struct node *n, const char *name, const char *fmt,
                         GError **err);
    /* The chain below is open and attached: is it the one that the image was
     * made for (W7)? A failure fails the open. Optional. */
    CO_FN_PTR int (*co_chain_opened)(struct node *n, GError **err);
    /* The backing file is about to change so that @n reads as before: what is
     * known about it is, durably, forgotten. Optional. */
    CO_FN_PTR int (*co_forget_base)(struct node *n, GError **err);
    /* Forget all content, so that every read goes to the backing file; nobody
     * uses the node meanwhile. Crash-safe: at every point a reader sees the old
     * content or the base, by cluster; durable on success. Optional. */
    CO_FN_PTR int (*co_make_empty)(struct node *n, GError **err);
    CO_FN_PTR int (*co_check)(struct node *n, unsigned fix,
                              struct check_result *res, GError **err);
    /* Is read-only storage still what was opened (S6)? -ESTALE with a text that
     * says what changed. Cheap; no I/O on the data. Optional. */
    CO_FN_PTR int (*co_check_identity)(struct node *n, GError **err);
    /* What tells the bytes of read-only storage from those of all other storage,
     * and of any other version of it, also after a restart; owned. NULL:
     * nothing does. Optional. */
    char *(*version)(struct node *n);
    /* Where the open storage is in the file system, links resolved; the caller
     * frees it. -ENOTSUP when that cannot be told. Optional. */
    CO_FN_PTR int (*co_real_path)(struct node *n, char **ret_path);
    /* The open file, as fstat(2) tells. -ENOTSUP: there is none. Optional. */
    CO_FN_PTR int (*co_stat)(struct node *n, struct stat *ret_st);
    /* What it was like when it was opened, before we wrote to it; NULL: it is no
     * regular file. Optional. */
    const struct stat *(*opened_as)(const struct node *n);
    /* The device that the open storage lies on, as st_dev or st_rdev tell; what
     * is on one shares its speed. 0, or left out: a device of its own. */
    uint64_t (*device_id)(const struct node *n);
    /* io_co_set_attributes(). Optional. */
    CO_FN_PTR int (*co_set_attributes)(struct node *n, bool nocow,
                                       uint32_t extent_size);
    /* Rename the open file to @path, which must not exist / remove its name.
     * Durable on success. -ESTALE when its name leads to another file by now,
     * -EEXIST. The node goes on either way. Optional. */
    CO_FN_PTR int (*co_rename)(struct node *n, const char *path, GError **err);
    CO_FN_PTR int (*co_unlink)(struct node *n, GError **err);
    /* Make an image: @o holds size, backing_file, backing_fmt and the format's
     * own; the file exists, is empty and is open for writing in @file.
     * Everything is durable on success. */
    CO_FN_PTR int (*co_create)(struct node *file, struct opts *o, GError **err);
    /* A step after co_create() has failed: what it made besides @file goes. */
    CO_FN_PTR void (*co_uncreate)(struct node *file);
    bool creates_over; /* ... except that it may hold something */
    const struct create_option *create_options; /* what co_create() takes */

    /* Change what kind of image it is, by options that @amend_options lists, but
     * for "size", which is not in @o. Nobody uses the node meanwhile. Crash-safe;
     * durable on success; reads as before at every point. Optional. */
    CO_FN_PTR int (*co_amend)(struct node *n, struct opts *o, GError **err);
    const struct create_option *amend_options;

    /* Everything durable on success; on failure the image is as it was. The
     * node is writable (for LOAD: not) and nobody else uses it. SNAPSHOT_APPLY
     * and LOAD may change node->size. What there is co_info tells ("snapshots",
     * "bitmaps"). */
    CO_FN_PTR int (*co_snapshot)(struct node *n, enum snapshot_op op,
                                 const char *name, GError **err);
    /* A snapshot is about to be made: do what can be done of it while requests go
     * on. It changes nothing that anybody sees, fails without a trace, and ends
     * early when the node is drained. / No snapshot comes any more: what is left
     * of it goes, and what the last one set free is given back, while requests
     * go on. Both or none. */
    CO_FN_PTR void (*co_snapshot_prepare)(struct node *n);
    CO_FN_PTR void (*co_snapshot_tidy)(struct node *n);
    /* Tell @g of each run that internal snapshot number @i shows of the backing
     * chain, until it has enough. The result of the last call; 0: all were
     * told; -ENOENT without an error text: no such number. Reads the image; no
     * snapshot is made or deleted meanwhile. Optional. */
    CO_FN_PTR int (*co_snapshot_gaps)(struct node *n, unsigned i,
                                      struct snapshot_gaps *g, GError **err);
    CO_FN_PTR int (*co_bitmap)(struct node *n, enum bitmap_op op,
                               const char *name, const struct bitmap_args *args,
                               GError **err);
    /* Persistent bitmap number @i: name, granularity, recording, inconsistent
     * (*@ret is zeroed). False: there are not as many. Comes with co_bitmap. */
    bool (*bitmap_at)(const struct node *n, unsigned i,
                      struct bitmap_look *ret);

    /* How much space a new image would take; @o as for co_create. Pure.
     * Optional. */
    int (*measure)(struct opts *o, struct image_measure *ret, GError **err);

    /* What all parents together do and share is about to become @perm/@shared;
     * a failure refuses the change (image locks). Called again with the old
     * values when a later step of the change failed. Optional. */
    CO_FN_PTR int (*co_set_perms)(struct node *n, unsigned perm,
                                  unsigned shared, GError **err);

    /* The drain of a node with timers or background work: stop it / go on.
     * Filters are asked first and let go what they hold back; others when the
     * requests of the backends have ended. */
    CO_FN_PTR void (*co_quiesce)(struct node *n);
    void (*resume)(struct node *n);

    /* Whatever waits for another program (a server that does not answer) fails
     * now, and so does all that comes later: the daemon wants to end. Also
     * while it opens or closes. Optional. */
    void (*interrupt)(struct node *n);
    /* Requests that change nothing and wait for another program fail with
     * @error now; later ones are served.  -ERESTART: whoever made them makes
     * them again (graph/model/backend.c), so nothing is lost but time.
     * Optional. */
    void (*end_requests)(struct node *n, int error);
    /* The caller stops waiting for a server that does not answer: all requests
     * that wait fail with -ECONNABORTED, those that write, too; the connections
     * are made anew. Optional. */
    void (*yank)(struct node *n);
    /* What to do about storage that does not answer for @timeout_ns (0: for
     * ever): BLOCK_NODE_HANG, then wait on or, @fail, fail what changes
     * nothing. Optional. */
    void (*set_hang)(struct node *n, uint64_t timeout_ns, bool fail);

    /* Of a filter that a job opens: graph/watch.h. */
    void (*set_watch)(struct node *n, const struct watch_ops *ops, void *arg);

    /* Of a filter that copies before it writes: graph/before.h. */
    struct before *(*before)(const struct node *n);

    /* For fault filters: hear of an event, and control breakpoints (@event and
     * @tag as the question needs them; IS_SUSPENDED: 1 or 0). */
    CO_FN_PTR void (*co_debug_event)(struct node *n, enum debug_event ev);
    int (*debug_control)(struct node *n, enum debug_control what,
                         const char *event, const char *tag);
};

/* --- services for drivers --- */

/* Open and attach the "file" child named by @o: a nested object, a node name,
 * or "filename". Permissions follow from node->flags. */
CO_FN int node_co_open_file(struct node *n, struct opts *o, GError **err);
/* The same for one more child, @name, that the image needs beside "file", and
 * that must be other storage. No option of that name: 0, *@ret_edge is NULL. */
CO_FN int node_co_open_child(struct node *n, struct opts *o, const char *name,
                             struct edge **ret_edge, GError **err);
/* The same, for a node that does @perm with the child and shares @shared: also
 * what is "file", and also where it is the image itself. A missing option is an
 * error. */
CO_FN int node_co_open_child_as(struct node *n, struct opts *o,
                                const char *name, unsigned perm,
                                unsigned shared, GError **err);
/* Nothing is called @path, which storage @n was to open. 1: it opens
 * *@ret_path, owned, instead; an image of another name ended as that
 * (co_successor). 0: there is no such file. Else -errno. */
CO_FN int node_co_take_successor(struct node *n, const char *path,
                                 char **ret_path, GError **err);
/* Does @n, behind filters, stand for an image that has ended so: of which
 * format? NULL: no. */
const struct node_driver *node_ended(struct node *n);
/* What tells the storage under @n from other storage; owned or NULL. */
CO_FN char *node_co_identity(struct node *n);
/* The same for what a header at @n means by the backing name @name. */
CO_FN char *node_co_name_identity(struct node *n, const char *name);
/* May the file @path, which @n's header means by a plain name in the image's
 * own folder, be opened? By the graph's policy for names in headers. */
CO_FN int node_co_check_beside(const struct node *n, const char *path,
                               GError **err);
/* Have "backing" opened and attached, right after co_open returns (so that a
 * chain opens in a loop, not in a recursion): what option "backing" says
 * (object, name, null), else what the header named, by the graph's policy:
 * relative to the image's folder; its format is @fmt ("raw", "qcow2" ...) or,
 * NULL, found by magic and never taken for raw. A refusal names the option that
 * would say it. */
CO_FN int node_co_open_backing(struct node *n, struct opts *o,
                               const char *header_name, const char *fmt,
                               GError **err);
struct node *node_file(const struct node *n);
/* Has node_co_open_backing() found one to open? */
bool node_wants_backing(const struct node *n);
/* A filter takes more of "file" than its driver says, and shares less: enum
 * perm. -EPERM when others do not agree; the old values stand then. */
CO_FN int node_co_restrict_file(struct node *n, unsigned take, unsigned unshare,
                                GError **err);
/* What its file says. */
bool node_file_can_copy_in(struct node *n, struct node *src);
/* Tell whoever runs the program, with the name of the image. */
void node_notice(const struct node *n, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* @path becomes the name of the file, as "./a:b" where it would else be taken
 * for an address. */
void node_set_path(struct node *n, const char *path);
/* Tell the control plane: @name is a QMP event, @data its members (borrowed).
 * No yield. */
void node_event(const struct node *n, const char *name, json_t *data);
/* BLOCK_IMAGE_CORRUPTED. @fatal: @n is marked, and not written to any more.
 * Corruption that is not fatal is told once of each node. */
void node_tell_corruption(struct node *n, bool fatal, uint64_t offset,
                          const char *text);
/* Something is wrong with the image's bytes: records where, traces, returns
 * -EINVAL. Never asserts. */
int node_corrupt(struct node *n, GError **err, uint64_t offset, const char *fmt,
                 ...) PRINTF_LIKE(4, 5);
