/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Arguments are walked along their types.  The data of a transaction's action are
 * no part of the schema of the transaction; they are walked as the arguments of the
 * command that the action is named after.
 */
#include "control/route.h"
#include "base/err.h"
#include "base/names.h"
#include "control/control-int.h"
#include "control/iothread.h"

struct route {
    struct control *main;
    struct control *to; /* NULL: nothing has been found yet */
    const char *by;     /* what was found first; borrowed */
    GError **err;
};

static char *where(const struct control *c)
{
    return c->iothread ? g_strdup_printf("iothread '%s'", c->iothread)
                       : g_strdup("the main thread");
}

/* @name is on @c. */
static int route_add(struct route *r, const char *name, struct control *c)
{
    g_autofree char *there = NULL, *here = NULL;

    if (!c || c == r->to) {
        return 0;
    }
    if (!r->to) {
        r->to = c;
        r->by = name;
        return 0;
    }
    there = where(r->to);
    here = where(c);
    err_set(r->err, EBUSY,
            "'%s' is in %s and '%s' in %s: they cannot be used together", r->by,
            there, name, here);
    return -EBUSY;
}

static int route_add_iothread(struct route *r, const char *id)
{
    struct control *c;
    int ret = iothread_find(r->main, id, &c, r->err);

    return ret < 0 ? ret : route_add(r, id, c);
}

static int route_string(struct route *r, enum schema_refers refers,
                        const char *name)
{
    static const enum name_kind kinds[] = {
        [SCHEMA_REFERS_BLOCK] = NAME_BLOCK,
        [SCHEMA_REFERS_JOB] = NAME_JOB,
        [SCHEMA_REFERS_EXPORT] = NAME_EXPORT,
    };

    if (refers == SCHEMA_REFERS_IOTHREAD) {
        return route_add_iothread(r, name);
    }
    return route_add(r, name, names_owner(r->main->names, kinds[refers], name));
}

static int route_walk(struct route *r, const struct schema_type *t,
                      const json_t *v);

static int walk_members(struct route *r, const struct schema_member *m,
                        const json_t *v)
{
    int ret = 0;

    for (; m->name && ret == 0; m++) {
        const json_t *value = json_object_get(v, m->name);

        if (m->refers != SCHEMA_REFERS_NOTHING && json_is_string(value)) {
            ret = route_string(r, m->refers, json_string_value(value));
        } else if (value) {
            ret = route_walk(r, m->type, value);
        }
    }
    return ret;
}

static int walk_object(struct route *r, const struct schema_type *t,
                       const json_t *v)
{
    const struct schema_type *more = NULL;
    int ret = walk_members(r, t->members, v);

    if (t->tag && arg_str(v, t->tag)) {
        more = schema_find_variant(t, arg_str(v, t->tag));
    }
    return ret == 0 && more ? walk_members(r, more->members, v) : ret;
}

static int walk_action(struct route *r, const json_t *v)
{
    const char *type = arg_str(v, "type");
    const struct schema_command *cmd = type ? schema_find_command(type) : NULL;

    return cmd ? route_walk(r, cmd->args, json_object_get(v, "data")) : 0;
}

/* A branch of an alternate that is an object is the only one that is. */
static int walk_alternate(struct route *r, const struct schema_type *t,
                          const json_t *v)
{
    int ret = 0;

    for (const struct schema_member *m = t->members; m->name && ret == 0; m++) {
        ret = route_walk(r, m->type, v);
    }
    return ret;
}

/* What does not fit @t has nothing in it that is looked for. */
static int route_walk(struct route *r, const struct schema_type *t,
                      const json_t *v)
{
    const json_t *item;
    size_t i;
    int ret = 0;

    if (t->kind == SCHEMA_ALTERNATE) {
        return walk_alternate(r, t, v);
    }
    if (t->kind == SCHEMA_OBJECT && json_is_object(v)) {
        return g_str_equal(t->name, "TransactionAction") ? walk_action(r, v)
                                                         : walk_object(r, t, v);
    }
    if (t->kind == SCHEMA_ARRAY && json_is_array(v)) {
        json_array_foreach(v, i, item) {
            ret = ret == 0 ? route_walk(r, t->element, item) : ret;
        }
    }
    return ret;
}

int route_find(struct control *c, const struct schema_command *cmd,
               const json_t *args, struct control **ret, GError **err)
{
    struct route r = { .main = c->main, .err = err };
    int result = route_walk(&r, cmd->args, args);

    if (result < 0) {
        return result;
    }
    *ret = r.to ? r.to : c->main;
    return 0;
}
