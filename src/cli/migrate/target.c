/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/migrate/target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/migrate/address.h"
#include "cli/migrate/end.h"
#include "cli/migrate/migrate.h"
#include "sluice/sluice.h"

/* Nodes that are open for the look alone. */
#define FILE_NODE "migrate-look-file"
#define IMAGE_NODE "migrate-look-image"
#define BASE_NODE "migrate-look-base"

static void close_node(struct migration *m, const char *name)
{
    if (client_has(m->target, "query-named-block-nodes", "node-name", name)) {
        client_run(m->target, "blockdev-del",
                   json_pack("{s:s}", "node-name", name));
    }
}

/* 0; TARGET_ABSENT + 1 where there is no file; -1 otherwise, after a message. */
static int open_file(struct migration *m)
{
    json_t *args = json_pack("{s:s, s:s, s:s, s:b}", "driver", "file",
                             "node-name", FILE_NODE, "filename", m->path,
                             "read-only", 1);
    char *text = json_dumps(args, 0), *error = NULL;
    int r = sluice_execute(m->target, "blockdev-add", text, NULL, &error);

    if (r < 0 && error && strstr(error, g_strerror(ENOENT))) {
        r = 1;
    } else if (r < 0) {
        cli_error("%s", error ? error : g_strerror(-r));
    }
    sluice_free(error);
    free(text);
    json_decref(args);
    return r;
}

static json_t *look_node(struct migration *m, const char *name)
{
    json_t *node = client_find(m->target, "query-named-block-nodes",
                               "node-name", name);
    json_t *image = json_incref(json_object_get(node, "image"));

    json_decref(node);
    return image;
}

static enum target_state target_judge(struct migration *m, const json_t *image,
                                      const char *base)
{
    const char *has = json_string_value(
        json_object_get(image, "backing-filename"));

    if (!image) {
        return TARGET_ERROR;
    }
    if (!has) {
        return TARGET_ALONE;
    }
    if (g_strcmp0(has, base) == 0) {
        return TARGET_BEGUN;
    }
    cli_error("'%s' is an overlay of '%s', not of what is to be moved", m->path,
              has);
    return TARGET_OTHER;
}

static enum target_state look_inside(struct migration *m, const char *base)
{
    json_t *file = look_node(m, FILE_NODE), *image;
    json_int_t size = json_integer_value(json_object_get(file, "virtual-size"));
    enum target_state state;

    json_decref(file);
    if (!file || size == 0) {
        return file ? TARGET_ABSENT : TARGET_ERROR;
    }
    if (!base) {
        return TARGET_ALONE;
    }
    if (!client_run(m->target, "blockdev-add",
                    json_pack("{s:s, s:s, s:s, s:n, s:b}", "driver", m->format,
                              "node-name", IMAGE_NODE, "file", FILE_NODE,
                              "backing", "read-only", 1))) {
        return TARGET_OTHER;
    }
    image = look_node(m, IMAGE_NODE);
    state = target_judge(m, image, base);
    json_decref(image);
    return state;
}

enum target_state target_look(struct migration *m, const char *base)
{
    enum target_state state;
    int r;

    close_node(m, IMAGE_NODE); /* of a look that was cut off */
    close_node(m, FILE_NODE);
    r = open_file(m);
    if (r) {
        return r > 0 ? TARGET_ABSENT : TARGET_ERROR;
    }
    state = look_inside(m, base);
    close_node(m, IMAGE_NODE);
    close_node(m, FILE_NODE);
    return state;
}

bool target_reaches(struct migration *m, const char *base, uint64_t size)
{
    json_t *options = address_node(m, BASE_NODE, base), *image;
    bool ok;

    close_node(m, BASE_NODE); /* of a look that was cut off */
    json_object_set_new(options, "read-only", json_true());
    if (!client_run(m->target, "blockdev-add", options)) {
        return false;
    }
    image = look_node(m, BASE_NODE);
    ok = (uint64_t)json_integer_value(json_object_get(image, "virtual-size")) ==
         size;
    json_decref(image);
    close_node(m, BASE_NODE);
    if (!ok) {
        cli_error("'%s' leads the destination to another disk", base);
    }
    return ok;
}
