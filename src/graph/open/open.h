/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of open/ offer to each other. */
#pragma once
#include <errno.h>
#include "graph/graph-int.h"

/* How error texts call the image of @n. */
static inline const char *image_of(const struct node *n)
{
    return n->filename ? n->filename : n->name;
}

/* Did an open fail since it may not be written to? */
static inline bool open_is_denied(int ret)
{
    return ret == -EACCES || ret == -EPERM || ret == -EROFS;
}

/* The file that the image @path, which is gone, has ended as: 1 and its name,
 * owned, with the image's format. 0: there is none. Else -errno. */
CO_FN int successor_co_find(struct graph *g, const char *path, char **ret_path,
                            const struct node_driver **ret_drv, GError **err);
/* @n just opened: tell the user when it stands for an image that is gone. */
void successor_tell(const struct node *n);

/* What a child takes over from its parent. */
#define FLAGS_INHERITED \
    (NODE_RDWR | NODE_CHECK | NODE_FORCE_SHARE | NODE_NO_IO | \
     NODE_AUTO_RDONLY | NODE_CACHE_DIRECT | NODE_NO_FLUSH)

/* --- options.c --- */

/* The options that every node has. */
struct common_options {
    unsigned flags;
    bool explicit_rdonly;
    int discard;
    int detect_zeroes;
};
/* Take them from @o into @c, which holds the defaults. */
int common_options_take(struct opts *o, struct common_options *c, GError **err);
/* The values of "discard" and "detect-zeroes". */
void node_set_zeroing(struct node *n, int discard, int detect);
/* May a node be open with @flags? One that takes no image locks is for reading:
 * its writes would land beside those of the process that holds the locks. */
int node_check_share(unsigned flags, GError **err);

/* --- read-only.c --- */

/* What a driver has done, until all of a transaction is final. */
struct reopened {
    struct node *n; /* a reference */
    unsigned flags; /* before */
};
/* The driver's part of a change of options or flags. @log: of struct reopened,
 * oldest first; NULL: it is final at once. */
CO_FN int driver_co_reopen(struct node *n, struct opts *o, unsigned flags,
                           GArray *log, GError **err);
/* @options without what every node has and without children. */
struct opts *own_opts_new(const json_t *options);
/* @n alone, drained, with what it wants of its children. */
CO_FN int rdonly_co_one(struct node *n, bool read_only, GArray *log,
                        GError **err);
/* @n, drained, and the storage below it, the order by the direction. */
CO_FN int rdonly_co_tree(struct node *n, bool read_only, GArray *log,
                         GError **err);

/* shared.c: a node that was opened by such a name in a header with just these
 * options, over storage that is far away; a new reference, or NULL. */
struct node *shared_find(struct graph *g, const json_t *options,
                         unsigned flags);

/* backing.c: turn what a header named into options for node_co_open(). */
CO_FN int backing_co_resolve(struct node *n, struct backing_request *r,
                             json_t **ret_options, char **ret_identity,
                             GError **err);

/* --- address.c --- */

/* Is @name a path, not an address or options? "a:b" can be given as "./a:b". */
bool backing_is_path(const char *name);
/* The driver that knows addresses that begin like @name, or NULL. */
const struct node_driver *backing_address_driver(struct graph *g,
                                                 const char *name);
/* Options of the storage that address @name, of a driver that takes such,
 * stands for; owned. */
int address_parse(struct graph *g, const char *name, json_t **ret_options,
                  GError **err);
/* Options of file @path; owned. */
json_t *address_of_file(const char *driver, const char *path);
/* An address or path a person gave: options of a protocol node; owned. */
CO_FN int backing_co_parse_address(struct graph *g, const char *address,
                                   json_t **ret_options, GError **err);
/* The driver for file @path; -EINVAL where it is no file or block device. */
int backing_file_driver(const char *path, const struct stat *st,
                        const char **ret_driver, GError **err);
/* Does @name, of the header of @n, hold bytes that no name has? */
int backing_check_text(const struct node *n, const char *name, GError **err);
/* Is it of a kind that no header may use (fd:, filters)? */
int backing_check_kind(const struct node *n, const char *name, GError **err);

/* --- identity.c --- */

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

/* --- policy.c --- */

/* Does the policy let a header lead anywhere? @name is for the error text. */
int policy_check_name(const struct node *n, const char *name, GError **err);
/* With "beneath": is it @path, which @st describes, where it may be? */
CO_FN int policy_co_beneath(const struct node *n, const char *path,
                            const struct stat *st, GError **err);
/* @b was opened by the backing name of @n: is it what the policy allows? Names
 * may have led elsewhere between the look and the open. */
CO_FN int backing_co_check_opened(const struct node *n, struct node *b,
                                  GError **err);

/* --- probe.c --- */

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
