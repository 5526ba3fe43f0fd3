/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice check: is the metadata of an image sound?  Output and exit status
 * are those of the tool that scripts know: 0 good, 1 the check itself failed,
 * 2 corrupt, 3 leaks, 63 no check for this format.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/print.h"
#include "graph/image.h"

enum {
    CHECK_GOOD = 0,
    CHECK_FAILED = 1,
    CHECK_CORRUPT = 2,
    CHECK_LEAKS = 3,
    CHECK_UNSUPPORTED = 63
};

struct check {
    struct image_spec image;
    unsigned fix;
    bool json, quiet;
};

/* 0, an exit status, or -1 after help. */
static int check_parse_args(int argc, char **argv, struct check *c)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "format", required_argument, NULL, 'f' },
        { "repair", required_argument, NULL, 'r' },
        { "output", required_argument, NULL, OPT_OUTPUT },
        { NULL, 0, NULL, 0 }
    };
    int opt, r = 0;

    while (r == 0 &&
           (opt = getopt_long(argc, argv, ":hf:r:T:qU", options, NULL)) != -1) {
        switch (opt) {
        case 'h': cli_print_help(); return -1;
        case 'f': c->image.format = optarg; break;
        case OPT_OUTPUT: r = cli_parse_output("check", optarg, &c->json); break;
        case 'q': c->quiet = true; break;
        case 'T':
            if (image_parse_cache(optarg, &c->image.flags) < 0) {
                cli_error("Invalid source cache option: %s", optarg);
                r = 1;
            }
            break;
        case 'U': c->image.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: c->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("check", optarg); break;
        case 'r':
            if (strcmp(optarg, "leaks") == 0) {
                c->fix = CHECK_FIX_LEAKS;
            } else if (strcmp(optarg, "all") == 0) {
                c->fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS;
            } else {
                r = cli_usage_error("check",
                                    "Unknown option value for -r "
                                    "(expecting 'leaks' or 'all'): %s",
                                    optarg);
            }
            break;
        default: r = cli_option_error("check", opt, argv);
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("check", "Expecting one image file name");
    }
    c->image.name = argv[optind];
    return r;
}

/* A table may hold millions of entries that are all wrong in the same way. */
#define LINES_MAX 10000

struct printer {
    struct check_result *res;
    unsigned lines;
};

static void print_check_line(void *arg, const char *line)
{
    struct printer *p = arg;
    g_autofree char *text = text_printable(line, "");

    cli_end_line();
    fprintf(stderr, "%s\n", text);
    if (++p->lines == LINES_MAX) {
        fprintf(stderr, "More of this is counted, but not shown\n");
        p->res->report = NULL;
    }
}

static void set_count(json_t *obj, const char *key, uint64_t n)
{
    if (n) {
        json_object_set_new(obj, key, json_integer((json_int_t)n));
    }
}

static void print_result_json(const struct check *c, const struct node *n,
                              const struct check_result *res)
{
    json_t *obj = json_object();

    set_count(obj, "image-end-offset", res->image_end_offset);
    set_count(obj, "compressed-clusters", res->compressed_clusters);
    set_count(obj, "total-clusters", res->total_clusters);
    set_count(obj, "corruptions", res->corruptions);
    set_count(obj, "corruptions-fixed", res->corruptions_fixed);
    json_object_set_new(obj, "check-errors",
                        json_integer((json_int_t)res->check_errors));
    set_count(obj, "leaks", res->leaks);
    set_count(obj, "leaks-fixed", res->leaks_fixed);
    set_count(obj, "allocated-clusters", res->allocated_clusters);
    json_object_set_new(obj, "filename", json_string_nocheck(c->image.name));
    json_object_set_new(obj, "format", json_string(node_driver_name(n)));
    set_count(obj, "fragmented-clusters", res->fragmented_clusters);
    print_json(obj);
    json_decref(obj);
}

static void print_repairs(const struct check_result *res)
{
    if (res->corruptions_fixed || res->leaks_fixed) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n"
               "    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               res->leaks_fixed, res->corruptions_fixed);
    }
}

static void check_print_human(const struct check_result *res)
{
    if (!res->corruptions && !res->leaks && !res->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (res->corruptions) {
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may "
               "corrupt it.\n",
               res->corruptions);
    }
    if (res->leaks) {
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               res->leaks);
    }
    if (res->check_errors) {
        printf("\n%" PRIu64 " internal errors have occurred during the "
               "check.\n",
               res->check_errors);
    }
    if (res->total_clusters && res->allocated_clusters) {
        double allocated = (double)res->allocated_clusters;
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% "
               "fragmented, %0.2f%% compressed clusters\n",
               res->allocated_clusters, res->total_clusters,
               allocated * 100.0 / (double)res->total_clusters,
               allocated ? (double)res->fragmented_clusters * 100.0 / allocated
                         : 0.0,
               allocated ? (double)res->compressed_clusters * 100.0 / allocated
                         : 0.0);
    }
    if (res->image_end_offset) {
        printf("Image end offset: %" PRIu64 "\n", res->image_end_offset);
    }
}

static int verdict(const struct check_result *res)
{
    if (res->check_errors) {
        printf("Check failed.\n");
        return CHECK_FAILED;
    }
    if (res->corruptions) {
        return CHECK_CORRUPT;
    }
    return res->leaks ? CHECK_LEAKS : CHECK_GOOD;
}

/* One pass; repairs are followed by a second that only looks. */
static CO_FN int check_co_node(struct check *c, struct node *n)
{
    struct check_result res = { .report = print_check_line };
    struct printer printer = { &res, 0 };
    g_autoptr(GError) err = NULL;
    int r;

    res.report_arg = &printer;
    r = node_co_check(n, c->fix, &res, &err);

    if (r == -ENOTSUP) {
        cli_error("This image format does not support checks");
        return CHECK_UNSUPPORTED;
    }
    if (r == 0 && (res.corruptions_fixed || res.leaks_fixed)) {
        struct check_result again = { .report = print_check_line };
        struct printer more = { &again, 0 };

        again.report_arg = &more;
        if (!c->json && !c->quiet) {
            print_repairs(&res);
        }
        again.corruptions_fixed = res.corruptions_fixed;
        again.leaks_fixed = res.leaks_fixed;
        r = node_co_check(n, 0, &again, &err);
        res = again;
    }
    if (r < 0) {
        cli_gerror(err);
        return CHECK_FAILED;
    }
    if (c->json) {
        print_result_json(c, n, &res);
    } else if (!c->quiet) {
        check_print_human(&res);
    }
    return verdict(&res);
}

static CO_FN int check_co_run(struct graph *g, void *arg)
{
    struct check *c = arg;
    struct node *n;
    g_autoptr(GError) err = NULL;
    int r;

    c->image.flags |= NODE_CHECK | NODE_NO_BACKING |
                      (c->fix ? (unsigned)NODE_RDWR : 0u);
    r = image_co_open_spec(g, &c->image, &n, &err);
    if (r < 0) {
        cli_gerror(err);
        return CHECK_FAILED;
    }
    int status = check_co_node(c, n);
    node_co_unref(n);
    return status;
}

int cmd_check(int argc, char **argv)
{
    struct check c = { 0 };
    int status = check_parse_args(argc, argv, &c);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(check_co_run, &c);
}
