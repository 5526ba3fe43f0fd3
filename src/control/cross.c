/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From one loop to another. */
#include "base/err.h"
#include "base/names.h"
#include "control/control-int.h"
#include "loop/loop.h"

void control_co_cross(struct control *c, void (*fn)(void *arg), void *arg)
{
    if (c->data == loop_current()) {
        fn(arg);
    } else {
        co_call_on(c->data, fn, arg);
    }
}

struct visit {
    struct control *c;
    CO_FN_PTR void (*co_fn)(void *arg);
    void *arg;
};

/* The end waits for whoever is here: it may hold nodes, or be opening some. */
static CO_FN void visit_entry(void *arg)
{
    struct visit *v = arg;

    co_latch_add(&v->c->visits);
    v->co_fn(v->arg);
    co_latch_done(&v->c->visits);
}

void control_co_on_data(struct control *c, void (*fn)(void *arg), void *arg)
{
    struct visit v = { c, fn, arg };

    control_co_cross(c, visit_entry, &v);
}

/* --- who is there --- */

struct control *control_hold(struct control *c)
{
    co_latch_add(&c->holds);
    return c;
}

struct control *control_hold_owner(struct control *c, const char *name)
{
    struct control *owner = names_owner(c->names, NAME_BLOCK, name);

    return control_hold(owner ? owner : c->main);
}

void control_let_go(struct control *c)
{
    co_latch_done(&c->holds);
}

struct find_and_run {
    struct control *main;
    const char *name;
    CO_FN_PTR void (*co_fn)(struct control *c, void *arg);
    void *arg;
    bool found;
};

static CO_FN void find_and_run_entry(void *arg)
{
    struct find_and_run *f = arg;
    struct control *c = names_owner(f->main->names, NAME_BLOCK, f->name);

    f->found = c != NULL;
    if (c) {
        control_hold(c);
        f->co_fn(c, f->arg);
        control_let_go(c);
    }
}

bool control_co_find_and_run(struct control *c, const char *name,
                             void (*co_fn)(struct control *c, void *arg),
                             void *arg)
{
    struct find_and_run f = { c->main, name, co_fn, arg, false };

    co_call_on(c->loop, find_and_run_entry, &f);
    return f.found;
}

int control_check_stopping(const struct control *c, GError **err)
{
    return c->stopping ? err_set(err, ESHUTDOWN,
                                 c->iothread ? "The iothread is going away"
                                             : "The daemon is shutting down")
                       : 0;
}
