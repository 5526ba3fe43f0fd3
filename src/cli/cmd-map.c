/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice map: which file of the chain holds each part of the disk. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
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
    unsigned depth;            /* 0 = the image itself */
    const char *filename;      /* when has_offset; borrowed */
};

static int parse_size(const char *what, const char *text, uint64_t *ret)
{
    g_autoptr(GError) err = NULL;

    if (size_parse(text, 0, ret, &err) < 0) {
        return cli_usage_error("map", "%s: %s", what, err->message);
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int parse_args(int argc, char **argv, struct map *m)
{
    static const struct option options[] = {
        IMAGE_OPTIONS, FORCE_SHARE_OPTION,
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, OPT_OUTPUT },
        { "start-offset", required_argument, NULL, 's' },
        { "max-length", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hf:s:l:U", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help("map"); return -1;
        case 'f': m->image.format = optarg; break;
        case OPT_OUTPUT: r = cli_parse_output("map", optarg, &m->json); break;
        case 's': r = parse_size("start-offset", optarg, &m->start); break;
        case 'l': r = parse_size("max-length", optarg, &m->length); break;
        case 'U': m->image.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: m->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("map", optarg); break;
        default: r = cli_bad_option("map", argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("map", "Expecting one image file name, got %d",
                               argc - optind);
    }
    m->image.name = argv[optind];
    return r;
}

static void print_json(const struct entry *e, bool first)
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

static int print_human(const struct entry *e)
{
    if (!e->data || e->zero) {
        return 0;
    }
    if (!e->has_offset) {
        cli_error("File contains external, encrypted or compressed clusters.");
        return -ENOTSUP;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start,
           e->length, e->offset, e->filename);
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
    *ret = (struct entry){
        .start = off,
        .length = ext.len,
        .present = ext.depth > 0,
        .zero = ext.flags & STATUS_ZERO,
        .data = ext.flags & STATUS_DATA,
        .has_offset = ext.flags & STATUS_OFFSET_VALID,
        .offset = ext.map_offset,
        .filename = ext.flags & STATUS_OFFSET_VALID && ext.map_node
            ? ext.map_node->filename : NULL,
    };
    if (ext.depth > 0) {
        ret->depth = ext.depth - 1;
    } else {
        /* Nobody has it: counted as the image below the last. */
        for (struct node *b = node_backing(n); b; b = node_backing(b)) {
            ret->depth++;
        }
    }
    return 0;
}

static CO_FN int map_co_walk(const struct map *m, struct node *n)
{
    uint64_t end = m->length && range_inside(m->start, m->length, n->size)
        ? m->start + m->length : n->size;
    struct entry cur = { 0 }, next;
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
        if (cur.length && m->json) {
            print_json(&cur, first);
        } else if (cur.length) {
            r = print_human(&cur);
        }
        first = first && !cur.length;
        cur = next;
    }
    if (r == 0 && cur.length && m->json) {
        print_json(&cur, first);
    } else if (r == 0 && cur.length) {
        r = print_human(&cur);
    }
    if (m->json) {
        printf(cur.length ? "]\n" : "[]\n");
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
    struct map m = { 0 };
    int status = parse_args(argc, argv, &m);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(map_co_run, &m);
}
