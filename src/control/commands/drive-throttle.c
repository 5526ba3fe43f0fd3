/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits of a drive, as the emulator's -drive has them: throttling.bps-total=
 * and the like, or the older bps=, iops_rd= ...; drives with the same
 * throttling.group= share what they may use.
 */
#include <string.h>

#include "base/err.h"
#include "control/commands/drive.h"
#include "filter/throttle/throttle.h"
#include "graph/node.h"

/* Name of a limit, and its older one. */
static const struct {
    const char *name, *old_name;
} limit_names[] = {
    { "bps-total", "bps" },
    { "bps-read", "bps_rd" },
    { "bps-write", "bps_wr" },
    { "iops-total", "iops" },
    { "iops-read", "iops_rd" },
    { "iops-write", "iops_wr" },
    { "bps-total-max", "bps_max" },
    { "bps-read-max", "bps_rd_max" },
    { "bps-write-max", "bps_wr_max" },
    { "iops-total-max", "iops_max" },
    { "iops-read-max", "iops_rd_max" },
    { "iops-write-max", "iops_wr_max" },
    { "bps-total-max-length", "bps_max_length" },
    { "bps-read-max-length", "bps_rd_max_length" },
    { "bps-write-max-length", "bps_wr_max_length" },
    { "iops-total-max-length", "iops_max_length" },
    { "iops-read-max-length", "iops_rd_max_length" },
    { "iops-write-max-length", "iops_wr_max_length" },
    { "iops-size", "iops_size" },
    { "group", "group" },
};

/* The older names into @limits, where the same limit may stand already. */
static int take_old_names(struct opts *o, json_t *limits, GError **err)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(limit_names); i++) {
        json_t *v = opts_take_any(o, limit_names[i].old_name);

        if (v && json_object_get(limits, limit_names[i].name)) {
            json_decref(v);
            return err_set(err, EINVAL,
                           "'throttling.%s' and its alias '%s' can't be used "
                           "at the same time",
                           limit_names[i].name, limit_names[i].old_name);
        }
        if (v) {
            json_object_set_new(limits, limit_names[i].name, v);
        }
    }
    return 0;
}

int drive_take_throttle(struct opts *o, struct drive *d, GError **err)
{
    json_t *given = opts_take_any(o, "throttling"), *limits, *group;
    int r;

    if (given && !json_is_object(given)) {
        json_decref(given);
        return err_set(
            err, EINVAL,
            "Invalid parameter type for 'throttling', expected: object");
    }
    limits = given ? json_copy(given) : json_object();
    json_decref(given);
    r = take_old_names(o, limits, err);
    group = json_object_get(limits, "group");
    if (r == 0 && group) {
        d->throttle_group = g_strdup(json_string_value(group));
        json_object_del(limits, "group");
    }
    if (r == 0 && (json_object_size(limits) > 0 || d->throttle_group)) {
        d->limits = json_incref(limits);
    }
    json_decref(limits);
    return r;
}

int drive_co_add_filter(struct graph *g, json_t *options, struct node **n,
                        GError **err)
{
    struct node *filter;
    int r;

    json_object_set_new(options, "file", json_string(node_name(*n)));
    r = node_co_open(g, options, NODE_RDWR, &filter, err);
    if (r < 0) {
        return r;
    }
    node_set_implicit_filter(filter, true);
    node_co_unref(*n);
    *n = filter;
    return 0;
}

static int group_ensure(struct graph *g, const char *id, json_t *limits,
                        GError **err)
{
    json_t *props;
    int r;

    if (throttle_group_exists(g, id)) {
        return throttle_group_set(g, id, limits, err);
    }
    props = json_pack("{s:O}", "limits", limits);
    r = throttle_group_add(g, id, props, err);
    json_decref(props);
    return r;
}

int drive_co_throttle(struct graph *g, const struct drive *d, struct node **n,
                      GError **err)
{
    const char *id = d->throttle_group ? d->throttle_group : d->id;
    json_t *options;
    int r = group_ensure(g, id, d->limits, err);

    if (r < 0) {
        return r;
    }
    options = json_pack("{s:s,s:s}", "driver", "throttle", "throttle-group",
                        id);
    r = drive_co_add_filter(g, options, n, err);
    json_decref(options);
    return r;
}

/* --- what query-block says --- */

/* The throttle filter of the drive that ends in @top, or NULL. */
static const struct node *find_filter(const struct node *top)
{
    while (top && node_is_implicit_filter(top) &&
           !g_str_equal(node_driver_name(top), "throttle")) {
        top = node_filtered(top);
    }
    return top && node_is_implicit_filter(top) ? top : NULL;
}

/* Is "bps_max_length" to be left out? A limit is always told, what belongs to
 * bursts only where there are some. */
static bool leave_out(const json_t *limits, const char *name)
{
    g_autofree char *burst = g_strdup(name);
    char *length = strstr(burst, "-length");

    if (length) {
        *length = '\0';
    }
    return (strstr(burst, "-max") || g_str_equal(burst, "iops-size")) &&
           json_integer_value(json_object_get(limits, burst)) == 0;
}

void drive_describe_limits(const struct node *top, json_t *info)
{
    const struct node *filter = find_filter(top);
    json_t *group = filter ? json_object_get(node_options(filter),
                                             "throttle-group")
                           : NULL;
    json_t *limits = group ? throttle_group_get(node_graph(filter),
                                                json_string_value(group))
                           : NULL;

    for (unsigned i = 0; limits && i < G_N_ELEMENTS(limit_names); i++) {
        json_t *v = json_object_get(limits, limit_names[i].name);

        if (v && !leave_out(limits, limit_names[i].name)) {
            json_object_set(info, limit_names[i].old_name, v);
        }
    }
    if (limits) {
        json_object_set(info, "group", group);
    }
    json_decref(limits);
}
