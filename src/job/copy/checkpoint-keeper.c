/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/barrier.h"
#include "job/copy/checkpoint.h"
#include "loop/loop.h"

#define BEAT_NS UINT64_C(1000000000)

static CO_FN void keeper_co_keep(struct checkpoint_keeper *k)
{
    checkpoint_co_beat(k->cp);
    if (checkpoint_choose(k->cp, &k->choice) &&
        BARRIER(CHECKPOINT_SIDES, k->co_flush(k->choice.arg)) == 0) {
        checkpoint_co_done(k->cp);
    }
}

static CO_FN void keeper_entry(void *arg)
{
    struct checkpoint_keeper *k = arg;

    checkpoint_co_beat(k->cp);
    while (!k->end) {
        uint64_t until = loop_clock_ns(k->loop) + BEAT_NS;

        while (!k->end && co_queue_co_wait_until(&k->wake, until)) {
        }
        if (!k->end) {
            keeper_co_keep(k);
        }
    }
    k->running = false;
    co_queue_wake_all(&k->wake);
}

void checkpoint_keeper_start(struct checkpoint_keeper *k, struct loop *loop)
{
    if (k->cp) {
        k->loop = loop;
        k->running = true;
        co_start(loop, keeper_entry, k);
    }
}

CO_FN void checkpoint_keeper_co_stop(struct checkpoint_keeper *k, bool keep)
{
    k->end = true;
    co_queue_wake_all(&k->wake);
    while (k->running) {
        co_queue_co_wait(&k->wake);
    }
    if (k->cp && keep) {
        /* What guests have changed lately counts once more. */
        (void)checkpoint_choose(k->cp, &k->choice);
        keeper_co_keep(k);
    } else if (k->cp) {
        checkpoint_co_remove(k->cp);
    }
    /* No guest's change begins with it any more; those inside end first. */
    checkpoint_co_close(g_steal_pointer(&k->cp));
}
