/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the overlay holds, told from the maps; which of that are holes, the data
 * file knows.
 */
#include "format/cow/overlay.h"
#include "graph/image.h"

int cow_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
               struct mapping *ret_map)
{
    struct overlay *o = cow_of(n);
    bool here = false;
    uint64_t run = 0;
    int ret = cow_co_lookup(o, off, len, &here, &run);

    if (ret < 0) {
        return ret;
    }
    *ret_map = (struct mapping) { .kind = MAP_ABSENT, .len = run };
    if (here) {
        ret_map->kind = MAP_DATA;
        ret_map->child = cow_data(o);
        ret_map->host = off;
        ret_map->in_place = ret_map->like_child = true;
    }
    return 0;
}

static const char *state_name(const struct overlay *o)
{
    return o->complete ? "complete" : "populating";
}

/* Both files. */
static CO_FN void info_co_add_size(struct overlay *o, json_t *info)
{
    json_t *data = json_object();
    json_int_t bytes = json_integer_value(json_object_get(info, "actual-size"));

    if (cow_data(o) != cow_file(o) &&
        node_co_info(node_storage(cow_data(o)), data, NULL) == 0) {
        bytes += json_integer_value(json_object_get(data, "actual-size"));
        json_object_set_new(info, "actual-size", json_integer(bytes));
    }
    json_decref(data);
}

int cow_co_info(struct node *n, json_t *info, GError **err)
{
    struct overlay *o = cow_of(n);
    struct node *storage = node_storage(cow_data(o));

    json_object_set_new(info, "cluster-size",
                        json_integer((json_int_t)cow_cluster(o)));
    json_object_set_new(info, "dirty-flag", json_false());
    info_co_add_size(o, info);
    json_object_set_new(
        info, "format-specific",
        json_pack("{s:s,s:{s:s,s:s,s:s}}", "type", "cow", "data", "data-file",
                  storage && storage->filename ? storage->filename : "",
                  "data-format",
                  cow_data(o)->drv->kind == NODE_FORMAT ? cow_data(o)->drv->name
                                                        : "raw",
                  "state", state_name(o)));
    return 0;
}

/* When all is done the disk is the data file, and says so. */
void cow_describe(struct node *n)
{
    struct overlay *o = cow_of(n);
    struct node *of = node_storage(o->complete ? cow_data(o) : n);

    if (of && of->filename) {
        g_free(n->filename);
        n->filename = g_strdup(of->filename);
    }
}
