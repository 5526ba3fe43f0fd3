/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the info commands of the human monitor show, from the QMP answers. */
#include "control/commands.h"

#include <stdbool.h>
#include <string.h>

static const char *str(const json_t *obj, const char *name)
{
    const char *s = json_string_value(json_object_get(obj, name));

    return s ? s : "";
}

static long long num(const json_t *obj, const char *name)
{
    return json_integer_value(json_object_get(obj, name));
}

void hmp_print_block_jobs(const json_t *result, const char *only, GString *out)
{
    if (json_array_size(result) == 0) {
        g_string_append(out, "No active jobs\n");
    }
    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *job = json_array_get(result, i);

        if (g_str_equal(str(job, "type"), "stream")) {
            g_string_append_printf(out,
                                   "Streaming device %s: ", str(job, "device"));
        } else {
            g_string_append_printf(out,
                                   "Type %s, device %s: ", str(job, "type"),
                                   str(job, "device"));
        }
        g_string_append_printf(out,
                               "Completed %lld of %lld bytes, speed limit "
                               "%lld bytes/s\n",
                               num(job, "offset"), num(job, "len"),
                               num(job, "speed"));
    }
}

void hmp_print_block_stream(const json_t *result, const char *only,
                            GString *out)
{
    if (json_array_size(result) == 0) {
        g_string_append(out, "No active stream\n");
    }
    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *st = json_array_get(result, i);

        g_string_append_printf(out,
                               "Streaming device %s: Completed %lld of "
                               "%lld bytes\n",
                               str(st, "device"), num(st, "offset"),
                               num(st, "len"));
    }
}

void hmp_print_version(const json_t *result, const char *only, GString *out)
{
    g_string_append_printf(out, "%s\n", str(result, "package"));
}

/* "bps=4194304 bps_rd=0 ..."; nothing where there is no limit. */
static void print_limits(const json_t *info, GString *out)
{
    static const char *const limits[] = { "bps",  "bps_rd",  "bps_wr",
                                          "iops", "iops_rd", "iops_wr" };
    static const char *const shown[] = {
        "bps",         "bps_rd",      "bps_wr",   "bps_max", "bps_rd_max",
        "bps_wr_max",  "iops",        "iops_rd",  "iops_wr", "iops_max",
        "iops_rd_max", "iops_wr_max", "iops_size"
    };
    bool any = false;

    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        any |= num(info, limits[i]) != 0;
    }
    if (!any) {
        return;
    }
    g_string_append(out, "    I/O throttling:  ");
    for (unsigned i = 0; i < G_N_ELEMENTS(shown); i++) {
        g_string_append_printf(out, " %s=%lld", shown[i], num(info, shown[i]));
    }
    g_string_append_printf(out, " group=%s\n", str(info, "group"));
}

static void print_node(const json_t *info, GString *out)
{
    const json_t *cache = json_object_get(info, "cache");
    bool direct = json_is_true(json_object_get(cache, "direct"));
    bool unsafe = json_is_true(json_object_get(cache, "no-flush"));

    g_string_append_printf(
        out, ": %s (%s%s)\n", str(info, "file"), str(info, "drv"),
        json_is_true(json_object_get(info, "ro")) ? ", read-only" : "");
    g_string_append_printf(out, "    Cache mode:       writeback%s%s\n",
                           direct ? ", direct" : "",
                           unsafe ? ", ignore flushes" : "");
    if (*str(info, "backing_file")) {
        g_string_append_printf(out,
                               "    Backing file:     %s (chain depth: "
                               "%lld)\n",
                               str(info, "backing_file"),
                               num(info, "backing_file_depth"));
    }
    print_limits(info, out);
}

void hmp_print_block(const json_t *result, const char *only, GString *out)
{
    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *dev = json_array_get(result, i);
        const json_t *in = json_object_get(dev, "inserted");

        if (only && !g_str_equal(only, str(dev, "device"))) {
            continue;
        }
        g_string_append(out, str(dev, "device"));
        if (in) {
            g_string_append_printf(out, " (%s)", str(in, "node-name"));
            print_node(in, out);
        } else {
            g_string_append(out,
                            ": [not inserted]\n"
                            "    Removable device: not locked, tray closed\n");
        }
    }
}

void hmp_print_nodes(const json_t *result, const char *only, GString *out)
{
    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *info = json_array_get(result, i);

        g_string_append(out, str(info, "node-name"));
        print_node(info, out);
    }
}

void hmp_print_blockstats(const json_t *result, const char *only, GString *out)
{
    static const char *const shown[] = { "rd_bytes",
                                         "wr_bytes",
                                         "rd_operations",
                                         "wr_operations",
                                         "flush_operations",
                                         "wr_total_time_ns",
                                         "rd_total_time_ns",
                                         "flush_total_time_ns",
                                         NULL };

    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *dev = json_array_get(result, i);
        const json_t *stats = json_object_get(dev, "stats");

        g_string_append_printf(out, "%s:", str(dev, "device"));
        for (unsigned k = 0; shown[k]; k++) {
            g_string_append_printf(out, " %s=%lld", shown[k],
                                   num(stats, shown[k]));
        }
        g_string_append_c(out, '\n');
    }
}

void hmp_print_chardev(const json_t *result, const char *only, GString *out)
{
    for (size_t i = 0; i < json_array_size(result); i++) {
        const json_t *chardev = json_array_get(result, i);

        g_string_append_printf(out, "%s: filename=%s\n", str(chardev, "label"),
                               str(chardev, "filename"));
    }
}
