/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/session/turns.h"

struct command {
    struct turns *turns;
    json_t *msg;
    GError *err;
};

static CO_FN void command_co_run(struct command *cmd)
{
    struct turns *t = cmd->turns;

    t->co_run(t->arg, cmd->msg, cmd->err);
    json_decref(cmd->msg);
    g_clear_error(&cmd->err);
    g_free(cmd);
}

static CO_FN void turns_entry(void *arg)
{
    struct turns *t = arg;
    struct command *cmd;

    while ((cmd = g_queue_pop_head(&t->waiting))) {
        co_queue_wake_all(&t->ended);
        command_co_run(cmd);
    }
    t->busy = false;
    co_queue_wake_all(&t->ended);
}

static CO_FN void at_once_entry(void *arg)
{
    struct command *cmd = arg;
    struct turns *t = cmd->turns;

    command_co_run(cmd);
    t->out_of_turn--;
    co_queue_wake_all(&t->ended);
}

void turns_co_add(struct turns *t, json_t *msg, GError *err, bool at_once)
{
    struct command *cmd = g_new(struct command, 1);

    *cmd = (struct command) { t, msg, err };
    while (at_once ? t->out_of_turn >= TURNS_MAX
                   : t->waiting.length >= TURNS_MAX) {
        co_queue_co_wait(&t->ended);
    }
    if (at_once) {
        t->out_of_turn++;
        co_start(t->loop, at_once_entry, cmd);
        return;
    }
    g_queue_push_tail(&t->waiting, cmd);
    if (!t->busy) {
        t->busy = true;
        co_start(t->loop, turns_entry, t);
    }
}

void turns_co_wait(struct turns *t)
{
    while (t->busy || t->out_of_turn > 0) {
        co_queue_co_wait(&t->ended);
    }
}
