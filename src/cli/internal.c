/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/keyval.h"
#include "base/text.h"
#include "cli/cli.h"
#include "graph/image.h"
#include "graph/node.h"

static const char *internal_get_str(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(obj, key));
}

/* --- snapshots --- */

/* "snapshot.id=..." into *@ret, an object of id and name. */
static int internal_parse_pairs(const char *text, json_t **ret, GError **err)
{
    static const char *const names[] = { "id", "name" };
    json_t *all, *pairs;
    const char *key;
    json_t *value;

    if (keyval_parse(text, NULL, &all, err) < 0) {
        return -EINVAL;
    }
    pairs = json_incref(json_object_get(all, "snapshot"));
    json_decref(all);
    json_object_foreach(pairs, key, value) {
        if (strcmp(key, names[0]) != 0 && strcmp(key, names[1]) != 0) {
            cli_error("Invalid parameter 'snapshot.%s'", key);
            json_decref(pairs);
            return err_set(err, EINVAL, "Failed in parsing snapshot param '%s'",
                           text);
        }
    }
    *ret = pairs;
    return 0;
}

static bool matches(const json_t *snapshot, const char *id, const char *name)
{
    return (!id || g_strcmp0(internal_get_str(snapshot, "id"), id) == 0) &&
           (!name || g_strcmp0(internal_get_str(snapshot, "name"), name) == 0);
}

/* The id of the snapshot; borrowed from @list. */
static const char *find_snapshot(const json_t *list, const char *id,
                                 const char *name)
{
    const json_t *s;
    size_t i;

    json_array_foreach(list, i, s) {
        if (matches(s, id, name)) {
            return internal_get_str(s, "id");
        }
    }
    return NULL;
}

static const char *choose_snapshot(const json_t *list, const char *text,
                                   const json_t *pairs)
{
    const char *id;

    if (pairs) {
        return find_snapshot(list, internal_get_str(pairs, "id"),
                             internal_get_str(pairs, "name"));
    }
    id = find_snapshot(list, text, NULL);
    return id ? id : find_snapshot(list, NULL, text);
}

CO_FN int internal_co_load_snapshot(struct node *n, const char *text,
                                    GError **err)
{
    json_t *info = json_object(), *pairs = NULL;
    const char *id;
    int r = 0;

    if (g_str_has_prefix(text, "snapshot.")) {
        r = internal_parse_pairs(text, &pairs, err);
        if (r < 0) {
            json_decref(info);
            return r;
        }
    }
    if (!node_can(n, NODE_CAN_SNAPSHOT)) {
        r = err_set(err, ENOTSUP,
                    "Block format '%s' used by device '' does "
                    "not support temporarily loading internal snapshots",
                    node_driver_name(n));
    } else {
        r = node_co_info(n, info, err);
    }
    if (r == 0) {
        id = choose_snapshot(json_object_get(info, "snapshots"), text, pairs);
        r = id ? node_co_snapshot(n, SNAPSHOT_LOAD, id, err)
               : err_set(err, ENOENT, "Can't find snapshot");
    }
    if (r < 0) {
        err_prefix(err, "Failed to load snapshot");
    }
    json_decref(pairs);
    json_decref(info);
    return r;
}

/* --- bitmaps --- */

/* The list of @n's bitmaps, maybe empty; owned. NULL: it cannot have any. */
static CO_FN json_t *bitmaps_co_list(struct node *n, GError **err)
{
    json_t *info = json_object(), *data, *list = NULL;

    if (node_can(n, NODE_CAN_BITMAP) && node_co_info(n, info, err) == 0) {
        data = json_object_get(json_object_get(info, "format-specific"),
                               "data");
        if (g_strcmp0(internal_get_str(data, "compat"), "0.10") != 0) {
            list = json_incref(json_object_get(data, "bitmaps"));
            list = list ? list : json_array();
        }
    }
    json_decref(info);
    return list;
}

static bool has_flag(const json_t *bitmap, const char *flag)
{
    const json_t *f;
    size_t i;

    json_array_foreach(json_object_get(bitmap, "flags"), i, f) {
        if (g_strcmp0(json_string_value(f), flag) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_broken(const json_t *bitmap)
{
    return has_flag(bitmap, "in-use");
}

CO_FN int internal_co_check_bitmaps(struct node *source, bool skip_broken,
                                    GError **err)
{
    g_autoptr(GError) why = NULL;
    json_t *list = bitmaps_co_list(source, &why);
    int r = 0;

    if (!list) {
        return err_set(err, ENOTSUP, "%s",
                       why ? why->message : "Source lacks bitmap support");
    }
    /* The last first, which is the order of QEMU's tools. */
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *b = json_array_get(list, i);

        if (is_broken(b) && !skip_broken && r == 0) {
            r = err_set(err, EINVAL, "Cannot copy inconsistent bitmap '%s'",
                        internal_get_str(b, "name"));
            err_add_line(err,
                         "Try --skip-broken-bitmaps, or use '%s bitmap "
                         "--remove' to delete it",
                         cli_program());
        }
    }
    json_decref(list);
    return r;
}

CO_FN int internal_co_copy_bitmaps(struct node *source, struct node *target,
                                   bool skip_broken, GError **err)
{
    json_t *list = bitmaps_co_list(source, err);
    struct bitmap_args copy = { .from = source };
    int r;

    /* The last first, which is the order of QEMU's tools. */
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *b = json_array_get(list, i);

        if (is_broken(b)) {
            cli_warning("Skipping inconsistent bitmap '%s'",
                        internal_get_str(b, "name"));
        }
    }
    r = json_array_size(list)
            ? node_co_bitmap(target, BITMAP_COPY, NULL, &copy, err)
            : 0;
    json_decref(list);
    return r;
}
