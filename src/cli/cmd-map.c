/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice map: which file of the chain holds each part of the disk. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "graph/io.h"
#include "graph/node.h"

struct map {
    struct image_spec image;
    uint64_t start, length;
    bool json;
};

/* What neighbours must share to be printed as one. */
struct entry {
    uint64_t start, length, offset;
    bool present, zero, data, has_offset;
    unsigned depth;       /* 0 = the image itself */
    const char *filename; /* when has_offset; borrowed */
};

/* 0, an exit status, or -1 after help. */
static int map_parse_args(int argc, char **argv, struct map *m)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, OPT_OUTPUT },
        { "start-offset", required_argument, NULL, 's' },
        { "max-length", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, ":hf:s:l:U", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': m->image.format = optarg; break;
        case OPT_OUTPUT: r = cli_parse_output("map", optarg, &m->json); break;
        case 's':
            r = cli_parse_size("start offset", optarg, 0, INT64_MAX, &m->start);
            break;
        case 'l':
            r = cli_parse_size("max length", optarg, 0, INT64_MAX, &m->length);
            break;
        case 'U': m->image.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: m->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("map", optarg); break;
        default: r = cli_option_error("map", c, argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("map", "Expecting one image file name");
    }
    m->image.name = argv[optind];
    return r;
}

static void print_entry_json(const struct entry *e, bool first)
{
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u"
           ", \"present\": %s, \"zero\": %s, \"data\": %s",
           first ? "[" : ",\n", e->start, e->length, e->depth,
           e->present ? "true" : "false", e->zero ? "true" : "false",
           e->data ? "true" : "false");
    if (e->has_offset) {
        printf(", \"offset\": %" PRIu64, e->offset);
    }
    printf("}");
}

static int map_print_human(const struct entry *e)
{
    if (!e->data || e->zero) {
        return 0;
    }
    if (!e->has_offset) {
        cli_error("File contains external, encrypted or compressed clusters.");
        return -ENOTSUP;
    }
    g_autofree char *name = text_printable(e->filename, "");

    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start,
           e->length, e->offset, name);
    return 0;
}

static bool can_merge(const struct entry *a, const struct entry *b)
{
    return a->present == b->present && a->zero == b->zero &&
           a->data == b->data && a->depth == b->depth &&
           a->has_offset == b->has_offset && a->filename == b->filename &&
           (!a->has_offset || a->offset + a->length == b->offset);
}

static CO_FN int map_co_next(struct node *n, uint64_t off, uint64_t end,
                             struct entry *ret)
{
    struct extent ext;
    int r = node_co_status_above(n, NULL, off, end - off, &ext);

    if (r < 0) {
        return r;
    }
    *ret = (struct entry) {
        .start = off,
        .length = ext.len,
        .present = ext.depth > 0,
        .zero = ext.flags & STATUS_ZERO,
        .data = ext.flags & STATUS_DATA,
        .has_offset = ext.flags & STATUS_OFFSET_VALID,
        .offset = ext.map_offset,
        .filename = ext.flags & STATUS_OFFSET_VALID && ext.map_node
                        ? node_filename(ext.map_node)
                        : NULL,
    };
    if (ext.depth > 0) {
        ret->depth = ext.depth - 1;
    } else {
        /* Nobody has it: the image is named that has nothing below here. */
        for (struct node *b = node_backing(n); b && off < node_size(b);
             b = node_backing(b)) {
            ret->depth++;
            /* Past the end of @b it is another one. */
            ret->length = MIN(ret->length, node_size(b) - off);
        }
    }
    return 0;
}

/* Print what is complete; *@first: nothing was printed before. */
static int map_print(const struct map *m, const struct entry *e, bool *first)
{
    bool was_first = *first;

    *first = false;
    if (m->json) {
        print_entry_json(e, was_first);
        return 0;
    }
    return e->length ? map_print_human(e) : 0;
}

static CO_FN int map_co_walk(const struct map *m, struct node *n)
{
    uint64_t end = range_inside(m->start, m->length, node_size(n))
                       ? m->start + m->length
                       : node_size(n);
    /* A range of nothing is printed, too. */
    struct entry cur = { .start = m->start }, next;
    bool first = true;
    int r = 0;

    for (uint64_t off = m->start; r == 0 && off < end;
         off = next.start + next.length) {
        r = map_co_next(n, off, end, &next);
        if (r < 0) {
            cli_error("Failed to read image metadata: %s", g_strerror(-r));
            return r;
        }
        if (cur.length && can_merge(&cur, &next)) {
            cur.length += next.length;
            continue;
        }
        if (cur.length) {
            r = map_print(m, &cur, &first);
        }
        cur = next;
    }
    if (r == 0) {
        r = map_print(m, &cur, &first);
    }
    if (r == 0 && m->json) {
        printf("]\n");
    }
    return r;
}

static CO_FN int map_co_run(struct graph *g, void *arg)
{
    struct map *m = arg;
    struct node *n;
    g_autoptr(GError) err = NULL;
    int r = image_co_open_spec(g, &m->image, &n, &err);

    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    if (!m->json) {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
    r = map_co_walk(m, n);
    node_co_unref(n);
    return r < 0 ? 1 : 0;
}

int cmd_map(int argc, char **argv)
{
    struct map m = { .length = INT64_MAX };
    int status = map_parse_args(argc, argv, &m);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(map_co_run, &m);
}
