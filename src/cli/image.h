/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images at rest: open, look at, change. Private to cli/. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/annot.h"
#include "loop/loop.h"

struct graph;
struct node;
struct node_driver;

/* Run @co_fn(@graph, @arg) as a coroutine on a loop of its own, with every
 * driver there is, and return what it returns. Not inside a coroutine. */
int image_run(int (*co_fn)(struct graph *g, void *arg), void *arg);

/* How the next image_run() gets at files. */
void image_use_engine(enum io_engine_kind kind);

/* --object: "secret,id=sec0,file=key". Made known to the graph of the next
 * image_run(). 0, a usage error, or -1 after "help". */
int image_add_object(const char *command, const char *text);

/* Of getopt_long(): what has no letter, and the rows that go with it. */
enum { OPT_OBJECT = 256, OPT_IMAGE_OPTS, OPT_OUTPUT, OPT_OTHER };
#define IMAGE_OPTIONS \
    { "help", no_argument, NULL, 'h' }, \
        { "object", required_argument, NULL, OPT_OBJECT }, \
    { \
        "image-opts", no_argument, NULL, OPT_IMAGE_OPTS \
    }
#define FORCE_SHARE_OPTION \
    { \
        "force-share", no_argument, NULL, 'U' \
    }

/* An image as a command line names it. */
struct image_spec {
    const char *name;       /* file, address, "json:{...}"; with @is_opts
                          * "driver=qed,file.filename=a.qed" */
    const char *format;     /* -f; NULL: not said */
    const char *data_file;  /* what a new image was told to keep its data in */
    bool is_opts;           /* --image-opts */
    bool is_overlay;        /* the command is meaningless for a raw disk */
    unsigned flags;         /* enum node_flags */
    const char *key_secret; /* id of the secret that unlocks it, or NULL */
};

/* -t, -T: add what cache mode @text asks for to *@flags (NODE_CACHE_DIRECT,
 * NODE_NO_FLUSH). "writethrough" is "writeback" here: all commands end with a
 * flush. 0 or -EINVAL. */
int image_parse_cache(const char *text, unsigned *flags);

/* Open @spec. A format that is not said is found by its magic, else it is raw.
 * For writing a guess is believed only where that does no harm, for a guest
 * could have written the magic: when the command itself says that the image is
 * none (@is_overlay), the name ends in the format's name, or the image names no
 * other file; else -EINVAL. A guess of raw is told on stderr then. Prints
 * like QEMU: "Could not open 'F': ...". The caller owns the reference. */
CO_FN int image_co_open_spec(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err);
/* The same without "Could not open 'F': ". */
CO_FN int image_co_open_bare(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err);

/* Backing name @backing of image @filename as it is reached from here: relative
 * names begin in the folder of the image. Owned. */
char *image_backing_path(const char *filename, const char *backing);

/* What holds the data of @n, if that is not its file; borrowed, or NULL. */
struct node *image_data_file(const struct node *n);
/* Is file @path storage of @n or of what is below it? */
CO_FN bool image_co_is_part_of(struct node *n, const char *path);

/* The size of the image that a new one at @filename finds under backing name
 * @backing (relative to its folder), of format @format. Refused where the new
 * one would overwrite what is there. */
CO_FN int image_co_backing_size(struct graph *g, const char *filename,
                                const char *backing, const char *format,
                                uint64_t *ret_size, GError **err);

/* The format that such a backing file seems to be of; static. */
CO_FN int image_co_backing_format(struct graph *g, const char *filename,
                                  const char *backing, const char **ret_format,
                                  GError **err);
