/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice compare: do two images read the same?
 *
 * The copy engine walks both: its scan skips what both say is zero, its
 * copies are comparisons.  A difference is an error of its chunk; the engine
 * handles the lowest first, when everything before it has been looked at, so
 * the offset printed is that of the first difference.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/copy/copy.h"
#include "loop/io.h"

#define SECTOR 512
/* "They differ", as the errno that travels through the engine. */
#define DIFFERENT EILSEQ

enum {
    COMPARE_SAME = 0,
    COMPARE_DIFFERENT = 1,
    COMPARE_OPEN = 2,
    COMPARE_STATUS = 3,
    COMPARE_READ = 4,
};

struct compare {
    struct image_spec spec[2];
    bool strict, quiet;
    struct percent percent;
    struct node *node[2];
    uint64_t common, size; /* bytes: of the shorter, of the longer */
    /* What ended it. */
    int status;
    uint64_t bad_status; /* offset where the answers differ or fail */
    int bad_index;       /* the image that failed */
    bool warned;
};

/* 0, an exit status, or -1 after help. */
static int compare_parse_args(int argc, char **argv, struct compare *c)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             FORCE_SHARE_OPTION,
                                             { NULL, 0, NULL, 0 } };
    unsigned flags = 0;
    int opt, r = 0;

    while (r == 0 && (opt = getopt_long(argc, argv, ":hf:F:T:pqsU", options,
                                        NULL)) != -1) {
        switch (opt) {
        case 'h': cli_print_help(); return -1;
        case 'f': c->spec[0].format = optarg; break;
        case 'F': c->spec[1].format = optarg; break;
        case 'T':
            if (image_parse_cache(optarg, &flags) < 0) {
                cli_error("Invalid source cache option: %s", optarg);
                return COMPARE_OPEN;
            }
            break;
        case 'p': c->percent.on = true; break;
        case 'q': c->quiet = true; break;
        case 's': c->strict = true; break;
        case 'U': flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS:
            c->spec[0].is_opts = c->spec[1].is_opts = true;
            break;
        case OPT_OBJECT: r = image_add_object("compare", optarg); break;
        default: r = cli_option_error("compare", opt, argv); break;
        }
    }
    if (r == 0 && optind + 2 != argc) {
        return cli_usage_error("compare", "Expecting two image file names");
    }
    for (int i = 0; r == 0 && i < 2; i++) {
        c->spec[i].name = argv[optind + i];
        c->spec[i].flags = flags;
    }
    if (r == 0 && c->spec[0].is_opts &&
        (c->spec[0].format || c->spec[1].format)) {
        cli_error("--image-opts and --format are mutually exclusive");
        return COMPARE_OPEN;
    }
    return r;
}

static void compare_say(const struct compare *c, const char *text)
{
    if (!c->quiet) {
        printf("%s\n", text);
    }
}

static void warn_size(struct compare *c)
{
    if (!c->warned && c->common != c->size) {
        c->warned = true;
        compare_say(c, "Warning: Image size mismatch!");
    }
}

/* --- for the engine --- */

/* One image's extent at @off; past its end there are zeroes. */
static CO_FN int compare_co_extent(struct compare *c, int i, uint64_t off,
                                   uint64_t max, struct extent *ext)
{
    if (off >= node_size(c->node[i])) {
        *ext = (struct extent) { .flags = STATUS_ZERO, .len = max };
        return 0;
    }
    int r = node_co_status_above(c->node[i], NULL, off, max, ext);
    if (r < 0) {
        c->bad_index = i;
        c->bad_status = off;
        return r;
    }
    ext->flags &= ~(unsigned)STATUS_EOF;
    return 0;
}

static CO_FN int compare_co_scan(void *arg, uint64_t off, uint64_t max,
                                 bool *ret_need, bool *ret_zero,
                                 uint64_t *ret_len)
{
    struct compare *c = arg;
    struct extent a, b;

    if (off < c->common) {
        max = MIN(max, c->common - off);
    }
    int r = compare_co_extent(c, 0, off, max, &a);
    if (r == 0) {
        r = compare_co_extent(c, 1, off, a.len, &b);
    }
    if (r < 0) {
        return r;
    }
    if (c->strict && a.flags != b.flags) {
        c->bad_status = off;
        return -DIFFERENT;
    }
    *ret_len = b.len;
    *ret_zero = false;
    *ret_need = !(a.flags & b.flags & STATUS_ZERO);
    return 0;
}

static CO_FN int compare_co_read(struct compare *c, int i, uint64_t off,
                                 uint8_t *buf, size_t len)
{
    uint64_t size = node_size(c->node[i]);
    size_t have = off < size ? MIN(len, size - off) : 0;
    struct iovec store;

    memset(buf + have, 0, len - have);
    return have ? node_co_preadv(c->node[i], off, iov_one(&store, buf, have), 0)
                : 0;
}

static CO_FN int compare_co_copy(void *arg, uint64_t off, uint64_t len,
                                 bool zero, struct copy_result *res)
{
    struct compare *c = arg;
    uint8_t *buf[2] = { io_buf_get(len), io_buf_get(len) };
    int r = buf[0] && buf[1] ? 0 : -ENOMEM;

    for (int i = 0; i < 2 && r == 0; i++) {
        r = compare_co_read(c, i, off, buf[i], len);
        /* Of two that fail the engine asks for the lower again. */
        res->is_read = r == 0 || i == 0;
    }
    if (r == 0 && memcmp(buf[0], buf[1], len) != 0) {
        r = -DIFFERENT;
    }
    res->copied = r == 0 ? len : 0;
    for (int i = 0; i < 2; i++) {
        if (buf[i]) {
            io_buf_put(buf[i], len);
        }
    }
    return r;
}

static void compare_progress(void *arg, uint64_t offset)
{
    struct compare *c = arg;

    percent_update(&c->percent, offset, c->size);
}

/* Of the chunk at @off: the first sector that differs. */
static CO_FN uint64_t compare_co_find(struct compare *c, uint64_t off)
{
    uint8_t buf[2][SECTOR];

    for (; off < c->size; off += SECTOR) {
        size_t len = MIN(SECTOR, c->size - off);

        if (compare_co_read(c, 0, off, buf[0], len) < 0 ||
            compare_co_read(c, 1, off, buf[1], len) < 0 ||
            memcmp(buf[0], buf[1], len) != 0) {
            break;
        }
    }
    return off;
}

/* @is_read tells the images apart: true is the first. */
static CO_FN int compare_co_error(void *arg, uint64_t off, bool is_read,
                                  int errnum)
{
    struct compare *c = arg;

    if (off >= c->common) {
        warn_size(c);
    }
    if (off == c->bad_status && errnum == DIFFERENT) {
        c->status = COMPARE_DIFFERENT;
        if (!c->quiet) {
            printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
                   off);
        }
    } else if (off == c->bad_status) {
        c->status = COMPARE_STATUS;
        cli_error("Sector allocation test failed for %s",
                  c->spec[c->bad_index].name);
    } else if (errnum == DIFFERENT) {
        c->status = COMPARE_DIFFERENT;
        off = compare_co_find(c, off);
        if (!c->quiet) {
            printf("Content mismatch at offset %" PRIu64 "!\n", off);
        }
    } else {
        c->status = COMPARE_READ;
        cli_error("Error while reading offset %" PRIu64 " of %s: %s", off,
                  c->spec[is_read ? 0 : 1].name, g_strerror(errnum));
    }
    return -errnum;
}

static CO_FN int compare_co_pause_point(void *arg)
{
    return 0;
}

static const struct copy_ops compare_ops = {
    .co_scan = compare_co_scan,
    .co_copy = compare_co_copy,
    .progress = compare_progress,
    .co_error = compare_co_error,
    .co_pause_point = compare_co_pause_point,
};

/* --- the command --- */

static CO_FN void compare_co_images(struct graph *g, struct compare *c)
{
    uint64_t a = round_up(node_size(c->node[0]), SECTOR);
    uint64_t b = round_up(node_size(c->node[1]), SECTOR);
    struct copy_params cp = { .end = MAX(a, b) };

    c->common = MIN(a, b);
    c->size = MAX(a, b);
    if (c->strict && a != b) {
        c->status = COMPARE_DIFFERENT;
        compare_say(c, "Strict mode: Image size mismatch!");
        return;
    }
    struct copy *copy = copy_new(graph_loop(g), &compare_ops, c, &cp);
    int r = copy_co_run(copy);
    copy_free(copy);
    if (r == 0) {
        warn_size(c);
        percent_update(&c->percent, 1, 1);
        compare_say(c, "Images are identical.");
    }
}

static CO_FN int compare_co_run(struct graph *g, void *arg)
{
    struct compare *c = arg;
    g_autoptr(GError) err = NULL;
    int r = 0;

    percent_begin(&c->percent, c->percent.on && !c->quiet);
    for (int i = 0; i < 2 && r == 0; i++) {
        r = image_co_open_spec(g, &c->spec[i], &c->node[i], &err);
    }
    if (r < 0) {
        c->status = COMPARE_OPEN;
        cli_gerror(err);
    } else {
        compare_co_images(g, c);
    }
    for (int i = 0; i < 2; i++) {
        if (c->node[i]) {
            node_co_unref(c->node[i]);
        }
    }
    percent_end(&c->percent);
    return c->status;
}

int cmd_compare(int argc, char **argv)
{
    struct compare c = { .bad_status = UINT64_MAX };
    int status = compare_parse_args(argc, argv, &c);

    if (status != 0) {
        return MAX(status, 0);
    }
    return image_run(compare_co_run, &c);
}
