/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The block-pull calls, in the shape that libvirt gave them in 2011, on the
 * commands of the same year: block_stream, query-block-stream.
 */
#include <errno.h>
#include <string.h>

#include "lib/conn.h"
#include "sluice/sluice.h"

static void read_info(const json_t *obj, struct sluice_block_pull_info *info)
{
    if (info) {
        info->cur = json_integer_value(json_object_get(obj, "offset"));
        info->end = json_integer_value(json_object_get(obj, "len"));
    }
}

int sluice_block_pull(struct sluice_conn *conn, const char *device,
                      struct sluice_block_pull_info *ret_info, char **ret_error)
{
    json_t *value = NULL;
    int r = conn_execute(conn, "block_stream",
                         json_pack("{s:s,s:b}", "device", device, "all", 0),
                         &value, ret_error);

    if (r == 0) {
        read_info(value, ret_info);
    }
    json_decref(value);
    return r;
}

int sluice_block_pull_all(struct sluice_conn *conn, const char *device,
                          char **ret_error)
{
    return conn_execute(conn, "block_stream",
                        json_pack("{s:s,s:b}", "device", device, "all", 1),
                        NULL, ret_error);
}

int sluice_get_block_pull_info(struct sluice_conn *conn, const char *device,
                               struct sluice_block_pull_info *ret_info,
                               char **ret_error)
{
    json_t *list = NULL, *entry;
    size_t i;
    int r = conn_execute(conn, "query-block-stream", NULL, &list, ret_error);

    json_array_foreach(list, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "device"));
        if (name && strcmp(name, device) == 0) {
            read_info(entry, ret_info);
            r = 1;
        }
    }
    json_decref(list);
    return r;
}

int sluice_block_pull_abort(struct sluice_conn *conn, const char *device,
                            char **ret_error)
{
    return conn_execute(conn, "block_stream",
                        json_pack("{s:s,s:b}", "device", device, "stop", 1),
                        NULL, ret_error);
}

/* Does @event end a pull of @device? */
static int is_end(const json_t *event, const char *device,
                  enum sluice_block_pull_result *ret_result, char **ret_error)
{
    const json_t *data = json_object_get(event, "data");
    const char *name = json_string_value(json_object_get(event, "event"));
    const char *dev = json_string_value(json_object_get(data, "device"));
    const char *text = json_string_value(json_object_get(data, "error"));

    if (!name || !dev || strcmp(dev, device) != 0) {
        return 0;
    }
    if (strcmp(name, "BLOCK_JOB_CANCELLED") == 0) {
        *ret_result = SLUICE_BLOCK_PULL_CANCELLED;
        return 1;
    }
    if (strcmp(name, "BLOCK_JOB_COMPLETED") != 0) {
        return 0;
    }
    *ret_result = text ? SLUICE_BLOCK_PULL_FAILED : SLUICE_BLOCK_PULL_COMPLETED;
    if (text) {
        conn_error(ret_error, EIO, "%s", text);
    }
    return 1;
}

int sluice_wait_block_pull(struct sluice_conn *conn, const char *device,
                           int timeout_ms,
                           enum sluice_block_pull_result *ret_result,
                           char **ret_error)
{
    int64_t deadline = conn_now_ms() + timeout_ms;
    int left = timeout_ms;

    for (;;) {
        json_t *event;
        int r = conn_wait_event(conn, left, &event);
        if (r <= 0) {
            return r;
        }
        r = is_end(event, device, ret_result, ret_error);
        json_decref(event);
        if (r) {
            return 1;
        }
        if (timeout_ms >= 0) {
            /* Events of others do not give it more time. */
            int64_t rest = deadline - conn_now_ms();
            left = rest > 0 ? (int)rest : 0;
        }
    }
}
