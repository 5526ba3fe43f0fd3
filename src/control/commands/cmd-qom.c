/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qom-list, qom-get, qom-set, qom-list-types: the objects by paths, as far as
 * there is a tree of objects here: /objects with what object-add made.  The
 * properties of a type are those of its struct in schema/objects.toml.
 */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/commands/objects.h"
#include "control/control-int.h"
#include "control/iothread.h"

#define CONTAINER "objects"

/* The container of the objects, or one of them. */
struct qom_place {
    bool root, container;
    const char *id, *type; /* an object; borrowed */
};

static int find_place(struct control *c, const char *path, struct qom_place *p,
                      GError **err)
{
    const char *id = path;

    *p = (struct qom_place) { 0 };
    if (g_str_equal(path, "/")) {
        p->root = true;
        return 0;
    }
    id += *id == '/';
    if (g_str_equal(id, CONTAINER) || g_str_equal(id, CONTAINER "/")) {
        p->container = true;
        return 0;
    }
    if (g_str_has_prefix(id, CONTAINER "/")) {
        id += strlen(CONTAINER "/");
    } else if (*path == '/') {
        id = ""; /* no other container */
    }
    p->id = id;
    p->type = object_type(c->objects, id);
    return p->type ? 0
                   : err_set_class(err, ERR_DEVICE_NOT_FOUND, ENOENT,
                                   "Device '%s' not found", path);
}

static const char *place_type(const struct qom_place *p)
{
    return p->type ? p->type : "container";
}

static void add_property(json_t *list, const char *name, const char *type)
{
    json_array_append_new(list,
                          json_pack("{s:s,s:s}", "name", name, "type", type));
}

static void add_members(json_t *list, const char *type)
{
    const struct schema_member *m = object_members(type);

    for (; m && m->name; m++) {
        add_property(list, m->name,
                     m->type->kind == SCHEMA_STR ? "string" : m->type->name);
    }
}

static void add_children(struct control *c, json_t *list)
{
    const char *id;
    json_t *props;

    json_object_foreach(c->objects, id, props) {
        const char *type = object_type(c->objects, id);

        if (type) {
            g_autofree char *child = g_strdup_printf("child<%s>", type);

            add_property(list, id, child);
        }
    }
}

CO_FN int cmd_co_qom_list(struct control *c, const json_t *args, json_t **ret,
                          GError **err)
{
    struct qom_place p;
    int r = find_place(c, arg_str(args, "path"), &p, err);

    if (r < 0) {
        return r;
    }
    *ret = json_array();
    add_property(*ret, "type", "string");
    if (p.root) {
        add_property(*ret, CONTAINER, "child<container>");
    } else if (p.container) {
        add_children(c, *ret);
    }
    if (p.type) {
        add_members(*ret, p.type);
    }
    return 0;
}

CO_FN int cmd_co_qom_list_properties(struct control *c, const json_t *args,
                                     json_t **ret, GError **err)
{
    const char *type = arg_str(args, "typename");

    if (!g_strv_contains(object_types_list(), type)) {
        return err_set_class(err, ERR_DEVICE_NOT_FOUND, ENOENT,
                             "Class '%s' not found", type);
    }
    *ret = json_array();
    add_property(*ret, "type", "string");
    add_members(*ret, type);
    return 0;
}

static bool has_property(const struct qom_place *p, const char *name)
{
    const struct schema_member *m = p->type ? object_members(p->type) : NULL;

    while (m && m->name && !g_str_equal(m->name, name)) {
        m++;
    }
    return m && m->name;
}

static int property_missing(const struct qom_place *p, const char *name,
                            GError **err)
{
    return err_set(err, ENOENT, "Property '%s.%s' not found", place_type(p),
                   name);
}

CO_FN int cmd_co_qom_get(struct control *c, const json_t *args, json_t **ret,
                         GError **err)
{
    const char *name = arg_str(args, "property");
    struct qom_place p;
    int r = find_place(c, arg_str(args, "path"), &p, err);

    if (r < 0) {
        return r;
    }
    if (g_str_equal(name, "type")) {
        *ret = json_string(place_type(&p));
        return 0;
    }
    if (p.root && g_str_equal(name, CONTAINER)) {
        *ret = json_string("/" CONTAINER);
        return 0;
    }
    if (p.container && object_type(c->objects, name)) {
        g_autofree char *path = g_strconcat("/" CONTAINER "/", name, NULL);

        *ret = json_string(path);
        return 0;
    }
    if (!has_property(&p, name)) {
        return property_missing(&p, name, err);
    }
    *ret = object_get(c->graph, c->objects, p.id, name);
    return *ret ? 0
                : err_set(err, EACCES, "Property '%s.%s' is not readable",
                          p.type, name);
}

struct polling {
    struct control *c;
    const char *id;
    const json_t *props;
};

static CO_FN void qom_polling_entry(void *arg)
{
    struct polling *p = arg;

    iothread_co_set(p->c, p->id, p->props);
}

/* An iothread polls by its properties, as they are now. */
static CO_FN void qom_co_set_polling(struct control *c, const char *id)
{
    json_t *props = json_deep_copy(json_object_get(c->objects, id));
    struct polling p = { c, id, props };

    co_call_on(c->loop, qom_polling_entry, &p);
    json_decref(props);
}

CO_FN int cmd_co_qom_set(struct control *c, const json_t *args, json_t **ret,
                         GError **err)
{
    const char *name = arg_str(args, "property");
    struct qom_place p;
    int r = find_place(c, arg_str(args, "path"), &p, err);

    if (r < 0) {
        return r;
    }
    if (!has_property(&p, name)) {
        return g_str_equal(name, "type")
                   ? err_set(err, EACCES, "Property '%s.%s' is not writable",
                             place_type(&p), name)
                   : property_missing(&p, name, err);
    }
    r = object_set(c->graph, c->objects, p.id, name,
                   json_object_get(args, "value"), err);
    if (r == 0 && g_str_equal(p.type, "iothread")) {
        qom_co_set_polling(c, p.id);
    }
    return r;
}

CO_FN int cmd_co_qom_list_types(struct control *c, const json_t *args,
                                json_t **ret, GError **err)
{
    const char *implements = arg_str(args, "implements");
    bool made = !implements || g_str_equal(implements, "object");
    const char *const *types = object_types_list();

    *ret = json_array();
    for (unsigned i = 0; types[i]; i++) {
        if (made || g_str_equal(implements, "user-creatable") ||
            g_str_equal(implements, types[i])) {
            json_array_append_new(*ret, json_pack("{s:s,s:s}", "name", types[i],
                                                  "parent", "object"));
        }
    }
    if (made || g_str_equal(implements, "container")) {
        json_array_append_new(*ret, json_pack("{s:s,s:s}", "name", "container",
                                              "parent", "object"));
    }
    return 0;
}
