/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backing name of an image's header, by each policy.  Input: policy (1),
 * features (1), then the name.  Files: /d/i.qed, /d/base.raw, /d/sub/b.qed,
 * /secret.  Oracles: no policy but "follow" reaches /secret; what opens may be
 * given as a name, too; the name that is worked out for what opened leads to
 * the same.
 */
#include <string.h>
#include "format/format.h"
#include "fuzz.h"
#include "graph/driver.h"
#include "graph/node.h"
#include "graph/reference.h"
#include "loop/loop.h"
#include "storage/storage.h"
#include "wire/qed.h"

enum { CLUSTER = 4096, SIZE = 65536, GIVEN_MAX = 1023 };

static const struct node_driver *const drivers[] = {
    &file_driver, &host_device_driver, &nbd_driver, &raw_driver,
    &qed_driver,  &null_co_driver,     NULL
};

static void put_image(const char *path, const void *name, size_t len,
                      unsigned features)
{
    struct qed_header h = {
        .cluster_size = CLUSTER,
        .table_size = 1,
        .header_size = 2,
        .features = features & QED_F_KNOWN & ~QED_F_NEED_CHECK,
        .l1_table_offset = 2 * CLUSTER,
        .image_size = SIZE,
        .backing_name_offset = QED_HEADER_LEN,
        .backing_name_size = (uint32_t)len,
    };
    uint8_t buf[3 * CLUSTER] = {};

    qed_header_encode(&h, buf);
    if (len > 0) {
        memcpy(buf + QED_HEADER_LEN, name, len);
    }
    fuzz_put_file(path, buf, sizeof(buf), 0);
}

static void find_secret(struct node *n, void *arg)
{
    g_assert_false(n->filename && g_str_has_suffix(n->filename, "secret"));
}

static void try_relative(const char *name)
{
    if (*name) {
        g_autofree char *to = g_canonicalize_filename(name, "/d/sub");
        g_autofree char *rel = path_relative("/d/sub", to);

        if (rel) {
            g_autofree char *back = g_canonicalize_filename(rel, "/d/sub");
            g_assert_cmpstr(back, ==, to);
        }
    }
}

/* Names that work, and that are refused when they are given: they end with the
 * process, or are too long to be written. */
static bool is_only_followed(const char *name)
{
    return strlen(name) > GIVEN_MAX || strstr(name, "/proc/") ||
           strstr(name, "/dev/") || strchr(name, '\\');
}

/* The backing node that @n has can be named, and the name leads to it. Takes
 * @n, for files cannot be made anew while they are open. */
static CO_FN void try_co_reference(struct graph *g, const json_t *o,
                                   struct node *n)
{
    g_autofree char *given = g_strdup(node_header_backing(n, NULL));
    struct node *b = node_backing(n), *again = NULL;
    const struct node_driver *storage = b ? node_storage(b)->drv : NULL;
    uint64_t size = b ? b->size : 0;
    const char *fmt = NULL, *said = NULL;
    g_autofree char *name = NULL;
    g_autoptr(GError) err = NULL;

    node_header_backing(n, &said);
    if (b && !is_only_followed(given)) {
        reference_co_check(n, given, said, NULL, &err);
        g_assert_no_error(err);
        reference_co_make(n, n, b, &name, &fmt, &err);
        g_assert_no_error(err);
    }
    node_co_unref(n);
    if (!name) {
        return;
    }
    put_image("/d/i.qed", name, strlen(name),
              QED_F_BACKING_FILE | (strcmp(fmt, "raw") ? 0 : QED_F_NO_PROBE));
    node_co_open(g, o, 0, &again, &err);
    g_assert_no_error(err);
    b = node_backing(again);
    g_assert_true(b->size == size);
    g_assert_cmpstr(b->drv->name, ==, fmt);
    g_assert_true(node_storage(b)->drv == storage);
    node_co_unref(again);
}

static CO_FN void backing_entry(void *arg)
{
    struct fuzz_input *in = arg;
    enum backing_policy policy = fuzz_u8(in) % (BACKING_DENY + 1);
    unsigned features = fuzz_u8(in);
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", "qed", "file",
                          "driver", "file", "filename", "/d/i.qed");
    struct graph *g = graph_new(loop_current(), drivers);
    g_autofree char *name = NULL;
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    graph_set_backing_policy(g, policy, "/d");
    put_image("/d/i.qed", in->data, MIN(in->len, CLUSTER), features);
    put_image("/d/sub/b.qed", "../base.raw", 11,
              QED_F_BACKING_FILE | QED_F_NO_PROBE);
    fuzz_put_file("/d/base.raw", "base", 4, SIZE);
    fuzz_put_file("/secret", "secret", 6, SIZE);
    int ret = node_co_open(g, o, NODE_RDWR, &n, &err);
    g_assert_true((ret < 0) == (err != NULL));
    if (ret == 0) {
        if (policy != BACKING_FOLLOW) {
            graph_foreach_node(g, find_secret, NULL);
            node_co_unref(n);
        } else {
            try_co_reference(g, o, n);
        }
    }
    name = fuzz_str(in, CLUSTER);
    try_relative(name);
    json_decref(o);
    graph_co_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };

    fuzz_run(backing_entry, &in);
    return 0;
}
