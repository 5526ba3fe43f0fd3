/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events, from any data loop to all connections. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "control/control-int.h"
#include "control/release-hook.h"
#include "loop/loop.h"

struct event {
    struct control *c;
    json_t *json;
};

static void deliver(void *arg)
{
    struct event *ev = arg;
    GPtrArray *sessions = ev->c->sessions;

    for (unsigned i = 0; i < sessions->len; i++) {
        session_send_event(sessions->pdata[i], ev->json);
    }
    json_decref(ev->json);
    g_free(ev);
}

void control_emit(struct control *c, const char *name, json_t *data)
{
    const struct schema_event *decl = schema_find_event(name);
    struct event *ev = g_new0(struct event, 1);
    g_autoptr(GError) err = NULL;
    gint64 now = g_get_real_time();

    g_assert(decl);
    if (schema_check(decl->data, data, &err) < 0) {
        g_autofree char *msg = err_dup_message(err);

        /* Still worth sending; the tests look for this line. */
        fprintf(stderr, "sluiced: event %s does not fit its schema: %s\n", name,
                msg);
    }
    ev->c = c->main;
    /* A deep copy: the event belongs to the other thread from here on. */
    ev->json = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds",
                         (json_int_t)(now / 1000000), "microseconds",
                         (json_int_t)(now % 1000000), "event", name);
    if (data && json_object_size(data) > 0) {
        json_object_set_new(ev->json, "data", json_deep_copy(data));
    }
    if (c->loop == loop_current()) {
        deliver(ev); /* before the answer to the command that is the cause */
    } else {
        loop_post(c->loop, deliver, ev);
    }
}

void control_on_event(const char *name, json_t *data, void *arg)
{
    struct control *c = arg;

    control_emit(c, name, data);
    if (c->release_hook && strcmp(name, "BLOCK_BASE_RELEASED") == 0) {
        release_hook_run(c->release_hook, data);
    }
}
