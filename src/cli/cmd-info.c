/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice info: describe an image, or every image of its chain. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/print.h"
#include "control/commands/image-info.h"
#include "graph/node.h"

#define SECTOR 512

struct info {
    struct image_spec image;
    bool json, chain;
};

/* 0, an exit status, or -1 after help. */
static int info_parse_args(int argc, char **argv, struct info *i)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, OPT_OUTPUT },
        { "backing-chain", no_argument, NULL, 'c' },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, ":hf:U", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': i->image.format = optarg; break;
        case OPT_OUTPUT: r = cli_parse_output("info", optarg, &i->json); break;
        case 'c': i->chain = true; break;
        case 'U': i->image.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: i->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("info", optarg); break;
        default: r = cli_option_error("info", c, argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("info", "Expecting one image file name");
    }
    i->image.name = argv[optind];
    return r;
}

static const char *info_get_str(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(obj, key));
}

/* For people: what a header says may hold anything. Owned. */
static char *info_get_text(const json_t *obj, const char *key)
{
    return text_printable(info_get_str(obj, key), "");
}

static uint64_t get_u64(const json_t *obj, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(obj, key));
}

static void info_print_human(const json_t *info)
{
    g_autofree char *virt = size_format(get_u64(info, "virtual-size"));
    g_autofree char *disk = size_format(get_u64(info, "actual-size"));
    g_autofree char *name = info_get_text(info, "filename");
    g_autofree char *backing = info_get_text(info, "backing-filename");
    g_autofree char *full = info_get_text(info, "full-backing-filename");
    g_autofree char *format = info_get_text(info, "backing-filename-format");
    const json_t *specific = json_object_get(info, "format-specific");

    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\n",
           name, info_get_str(info, "format"), virt,
           get_u64(info, "virtual-size"));
    printf("disk size: %s\n",
           json_object_get(info, "actual-size") ? disk : "unavailable");
    if (json_is_true(json_object_get(info, "encrypted"))) {
        printf("encrypted: yes\n");
    }
    if (json_object_get(info, "cluster-size")) {
        printf("cluster_size: %" PRIu64 "\n", get_u64(info, "cluster-size"));
    }
    if (json_is_true(json_object_get(info, "dirty-flag"))) {
        printf("cleanly shut down: no\n");
    }
    if (backing) {
        printf("backing file: %s", backing);
        if (full && strcmp(full, backing) != 0) {
            printf(" (actual path: %s)", full);
        }
        printf("\n");
        if (format) {
            printf("backing file format: %s\n", format);
        }
    }
    print_snapshots(json_object_get(info, "snapshots"));
    if (specific) {
        printf("Format specific information:\n");
        print_facts(json_object_get(specific, "data"), 1);
    }
}

static void print_infos(const struct info *i, const json_t *list)
{
    const json_t *entry;
    size_t index;

    if (i->json) {
        print_json(i->chain ? list : json_array_get(list, 0));
        return;
    }
    json_array_foreach(list, index, entry) {
        if (index) {
            printf("\n");
        }
        info_print_human(entry);
    }
}

/* Describe @n and, for --backing-chain, what is below it. */
static CO_FN int info_co_collect(const struct info *i, struct node *n,
                                 json_t *list, GError **err)
{
    for (; n; n = i->chain ? node_backing(n) : NULL) {
        json_t *info = image_co_describe(n, false, err);
        if (!info) {
            return -EIO;
        }
        /* In whole sectors, as every copy of the disk will be. */
        json_integer_set(json_object_get(info, "virtual-size"),
                         (json_int_t)round_up(node_size(n), SECTOR));
        json_array_append_new(list, info);
    }
    return 0;
}

static CO_FN int info_co_run(struct graph *g, void *arg)
{
    struct info *i = arg;
    struct node *n;
    g_autoptr(GError) err = NULL;
    json_t *list = json_array();
    int r;

    i->image.flags |= NODE_NO_IO | (i->chain ? 0u : (unsigned)NODE_NO_BACKING);
    r = image_co_open_spec(g, &i->image, &n, &err);
    if (r == 0) {
        r = info_co_collect(i, n, list, &err);
        node_co_unref(n);
    }
    if (r == 0) {
        print_infos(i, list);
    } else {
        cli_gerror(err);
    }
    json_decref(list);
    return r < 0 ? 1 : 0;
}

int cmd_info(int argc, char **argv)
{
    struct info i = { 0 };
    int status = info_parse_args(argc, argv, &i);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(info_co_run, &i);
}
