/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty bitmaps: commands that are actions of transactions, too.
 *
 * An edit takes effect when it is done, so that later actions of a transaction
 * build on it; what the bitmap was is kept until the transaction is over.  A
 * bitmap that is to be removed is busy until then, and goes last.
 */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "graph/bitmap.h"
#include "graph/image.h"

#define MERGED_BYTES_MAX (UINT64_C(512) << 20)

struct edit {
    const char *name;
    struct bitmap_look was;
    struct dirty_map *bits; /* what it was, or NULL: unreadable */
    bool removing, removed;
};

static struct node *find_node(struct control *c, const char *name, GError **err)
{
    struct node *n = node_find_any(c->graph, name, NULL);

    if (!n) {
        err_set(err, ENOENT, "Node '%s' not found", name);
    }
    return n;
}

static CO_FN int edit_co_prepare(struct action *a, GError **err)
{
    struct edit *e = a->state;
    struct node *n = find_node(a->control, arg_str(a->args, "node"), err);

    if (!n) {
        return -ENOENT;
    }
    a->disk = node_ref(n);
    e->name = arg_str(a->args, "name");
    return 0;
}

static CO_FN int edit_co_keep(struct action *a, unsigned use, GError **err)
{
    struct edit *e = a->state;
    int ret = bitmap_find(a->disk, e->name, use, &e->was, err);

    return ret < 0 || e->was.inconsistent
               ? ret
               : bitmap_co_read(a->disk, e->name, &e->bits, err);
}

static CO_FN void edit_co_undo_bits(struct action *a)
{
    const struct edit *e = a->state;
    g_autoptr(GError) err = NULL;

    if (bitmap_co_assign(a->disk, e->name, e->bits, &err) < 0 &&
        a->control->notice) {
        g_autofree char *text = g_strdup_printf(
            "Bitmap '%s' of '%s' is not what it was before a transaction that "
            "failed: %s",
            e->name, node_title(a->disk), err->message);

        a->control->notice(text);
    }
}

static CO_FN void edit_co_end(struct action *a, bool success)
{
    struct edit *e = a->state;

    if (e->removing && !e->removed) {
        bitmap_release(a->disk, e->name);
    }
    dirty_map_free(e->bits);
}

/* --- add --- */

static CO_FN int add_co_do(struct action *a, GError **err)
{
    const struct edit *e = a->state;
    int64_t granularity = arg_int(a->args, "granularity", -1);

    /* 0 is refused as any other that is too small. */
    granularity = granularity < 0 ? 0 : MAX(granularity, 1);
    return bitmap_co_add(a->disk, e->name, (uint64_t)granularity,
                         arg_bool(a->args, "persistent", false),
                         arg_bool(a->args, "disabled", false), err);
}

static CO_FN void add_co_undo(struct action *a)
{
    const struct edit *e = a->state;

    (void)bitmap_co_remove(a->disk, e->name, NULL);
}

const struct action_type bitmap_add_action = {
    .name = "block-dirty-bitmap-add",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = add_co_do,
    .co_undo = add_co_undo,
    .co_end = edit_co_end,
};

/* --- remove --- */

static CO_FN int remove_co_do(struct action *a, GError **err)
{
    struct edit *e = a->state;
    int ret = edit_co_keep(a, BITMAP_MAY_BE_INCONSISTENT, err);

    if (ret == 0) {
        bitmap_hold(a->disk, e->name);
        e->removing = true;
    }
    return ret;
}

static CO_FN int remove_co_do_last(struct action *a, GError **err)
{
    struct edit *e = a->state;
    int ret;

    bitmap_release(a->disk, e->name);
    ret = bitmap_co_remove(a->disk, e->name, err);
    e->removed = ret == 0;
    if (ret < 0) {
        bitmap_hold(a->disk, e->name);
    }
    return ret;
}

static CO_FN void remove_co_undo(struct action *a)
{
    const struct edit *e = a->state;

    if (e->removed && e->bits &&
        bitmap_co_add(a->disk, e->name, e->was.granularity, e->was.persistent,
                      !e->was.recording, NULL) == 0) {
        edit_co_undo_bits(a);
    }
}

const struct action_type bitmap_remove_action = {
    .name = "block-dirty-bitmap-remove",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = remove_co_do,
    .co_do_last = remove_co_do_last,
    .co_undo = remove_co_undo,
    .co_end = edit_co_end,
};

/* --- clear, enable, disable --- */

static CO_FN int clear_co_do(struct action *a, GError **err)
{
    const struct edit *e = a->state;
    int ret = edit_co_keep(a, 0, err);

    return ret < 0 ? ret : bitmap_co_assign(a->disk, e->name, NULL, err);
}

const struct action_type bitmap_clear_action = {
    .name = "block-dirty-bitmap-clear",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = clear_co_do,
    .co_undo = edit_co_undo_bits,
    .co_end = edit_co_end,
};

static CO_FN int edit_co_record(struct action *a, bool on, GError **err)
{
    struct edit *e = a->state;
    int ret = bitmap_find(a->disk, e->name, 0, &e->was, err);

    return ret < 0 ? ret : bitmap_co_set_recording(a->disk, e->name, on, err);
}

static CO_FN int enable_co_do(struct action *a, GError **err)
{
    return edit_co_record(a, true, err);
}

static CO_FN int disable_co_do(struct action *a, GError **err)
{
    return edit_co_record(a, false, err);
}

static CO_FN void record_co_undo(struct action *a)
{
    const struct edit *e = a->state;

    (void)bitmap_co_set_recording(a->disk, e->name, e->was.recording, NULL);
}

const struct action_type bitmap_enable_action = {
    .name = "block-dirty-bitmap-enable",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = enable_co_do,
    .co_undo = record_co_undo,
    .co_end = edit_co_end,
};

const struct action_type bitmap_disable_action = {
    .name = "block-dirty-bitmap-disable",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = disable_co_do,
    .co_undo = record_co_undo,
    .co_end = edit_co_end,
};

/* --- merge --- */

/* Add what @source, a name or {node, name}, marks to @sum. */
static CO_FN int merge_co_read_source(const struct action *a,
                                      const json_t *source,
                                      struct dirty_map *sum, GError **err)
{
    const char *name = json_string_value(source);
    struct node *n = a->disk;
    struct dirty_map *bits;
    int ret;

    if (!name) {
        name = arg_str(source, "name");
        n = find_node(a->control, arg_str(source, "node"), err);
        if (!n) {
            return -ENOENT;
        }
    }
    ret = bitmap_find(n, name, BITMAP_MAY_BE_READ_ONLY, NULL, err);
    if (ret < 0) {
        return ret;
    }
    if (node_size(n) != dirty_map_size(sum)) {
        return err_set(err, EINVAL,
                       "Bitmaps are of different sizes (destination size is "
                       "%" PRIu64 ", source size is %" PRIu64
                       ") and can't be merged",
                       dirty_map_size(sum), node_size(n));
    }
    ret = bitmap_co_read(n, name, &bits, err);
    if (ret == 0) {
        dirty_map_merge(sum, bits);
        dirty_map_free(bits);
    }
    return ret;
}

static CO_FN int merge_co_do(struct action *a, GError **err)
{
    const json_t *sources = json_object_get(a->args, "bitmaps");
    struct edit *e = a->state;
    struct dirty_map *sum;
    int ret;

    e->name = arg_str(a->args, "target");
    ret = edit_co_keep(a, 0, err);
    if (ret < 0) {
        return ret;
    }
    sum = dirty_map_new_within(node_size(a->disk), e->was.granularity,
                               MERGED_BYTES_MAX, err);
    ret = sum ? 0 : -EFBIG;
    for (size_t i = 0; i < json_array_size(sources) && ret == 0; i++) {
        ret = merge_co_read_source(a, json_array_get(sources, i), sum, err);
    }
    if (ret == 0) {
        ret = bitmap_co_merge(a->disk, e->name, sum, err);
    }
    dirty_map_free(sum);
    return ret;
}

const struct action_type bitmap_merge_action = {
    .name = "block-dirty-bitmap-merge",
    .state_size = sizeof(struct edit),
    .co_prepare = edit_co_prepare,
    .co_do = merge_co_do,
    .co_undo = edit_co_undo_bits,
    .co_end = edit_co_end,
};

/* --- the commands --- */

CO_FN int cmd_co_block_dirty_bitmap_add(struct control *c, const json_t *args,
                                        json_t **ret, GError **err)
{
    return action_co_run(c, &bitmap_add_action, args, err);
}

CO_FN int cmd_co_block_dirty_bitmap_remove(struct control *c,
                                           const json_t *args, json_t **ret,
                                           GError **err)
{
    return action_co_run(c, &bitmap_remove_action, args, err);
}

CO_FN int cmd_co_block_dirty_bitmap_clear(struct control *c, const json_t *args,
                                          json_t **ret, GError **err)
{
    return action_co_run(c, &bitmap_clear_action, args, err);
}

CO_FN int cmd_co_block_dirty_bitmap_enable(struct control *c,
                                           const json_t *args, json_t **ret,
                                           GError **err)
{
    return action_co_run(c, &bitmap_enable_action, args, err);
}

CO_FN int cmd_co_block_dirty_bitmap_disable(struct control *c,
                                            const json_t *args, json_t **ret,
                                            GError **err)
{
    return action_co_run(c, &bitmap_disable_action, args, err);
}

CO_FN int cmd_co_block_dirty_bitmap_merge(struct control *c, const json_t *args,
                                          json_t **ret, GError **err)
{
    return action_co_run(c, &bitmap_merge_action, args, err);
}

/* --- looking --- */

CO_FN int cmd_co_x_debug_block_dirty_bitmap_sha256(struct control *c,
                                                   const json_t *args,
                                                   json_t **ret, GError **err)
{
    const char *name = arg_str(args, "name");
    struct node *n = find_node(c, arg_str(args, "node"), err);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    struct dirty_map *bits;
    struct bitmap_look look;
    uint64_t words;
    int r = n ? bitmap_find(n, name,
                            BITMAP_MAY_BE_READ_ONLY | BITMAP_MAY_BE_BUSY, &look,
                            err)
              : -ENOENT;

    if (r == 0) {
        r = bitmap_co_read(n, name, &bits, err);
    }
    if (r != 0) {
        return r;
    }
    words = dirty_map_words(bits);
    for (uint64_t i = 0; i < words; i++) {
        uint64_t word = GUINT64_TO_LE(dirty_map_word(bits, i));

        g_checksum_update(sum, (const guchar *)&word, sizeof(word));
    }
    dirty_map_free(bits);
    *ret = json_pack("{s:s}", "sha256", g_checksum_get_string(sum));
    return 0;
}
