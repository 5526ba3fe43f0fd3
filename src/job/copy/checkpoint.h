/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which parts of a copy are durable on both sides, in a file: a job that was cut
 * short goes on with the others alone.
 *
 * A bit for each unit; while it is set the unit is to be copied after a restart.
 * All are set in the beginning.  A bit is cleared once the unit is the same on
 * both sides, durably, and is durably set again before a guest changes the unit
 * (L4).  So after a crash a unit whose bit is clear is the same on both sides.
 *
 * Somebody else may write to one of the images between the end of one daemon and
 * the start of the next.  So the file also says when the job was last seen alive
 * (checkpoint_co_beat()): images that changed later than that, and images that
 * have no such time, are copied anew.
 *
 * Between the start of a daemon and that of the job nobody marks what guests
 * change.  So each daemon takes the checkpoints that it finds before it lets
 * guests in (checkpoint_co_take()): the job of that daemon may go on with one, and
 * gives it back with its first beat, when it sees all changes.  One that was taken
 * and not given back is of no use to the daemon after it.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"

struct checkpoint;
struct loop;
struct node;

/* The checkpoint of a copy of @size bytes between images @nodes (@n of them), in
 * the file at @path.  @resumed: go on with what the file says, if it belongs to
 * these images and they are as the job left them.  Else, and with @resumed
 * false, all is to be copied, and the file says so durably.  0, or -errno with
 * @err. */
CO_FN int checkpoint_co_open(const char *path, uint64_t size,
                             struct node *const *nodes, unsigned n,
                             bool resumed, struct checkpoint **ret_cp,
                             GError **err);
/* A daemon starts, and no guest can change anything yet: take the checkpoint at
 * @path, durably, or see that nobody goes on with it. */
CO_FN void checkpoint_co_take(const char *path);
/* NULL is fine. The file stays. Waits for checkpoint_co_change() in other
 * coroutines; none begins any more. */
CO_FN void checkpoint_co_close(struct checkpoint *cp);
/* Nobody is told of changes any more: the file goes, durably. */
CO_FN void checkpoint_co_remove(struct checkpoint *cp);
/* Does it hold anything that need not be copied? */
bool checkpoint_has_any(const struct checkpoint *cp);
/* Could a job go on with it? Not where an image is no file. */
bool checkpoint_can_resume(const struct checkpoint *cp);
/* All is to be copied, durably. */
CO_FN int checkpoint_co_forget(struct checkpoint *cp);
/* Need [@off, ...) be copied? *@ret_len: how far that holds, at most @max. */
bool checkpoint_run(const struct checkpoint *cp, uint64_t off, uint64_t max,
                    uint64_t *ret_len);

/* A guest is about to change [@off, @off+@len): when it returns that is to be
 * copied after a crash, durably. Yields only where that is not so yet. */
CO_FN void checkpoint_co_change(struct checkpoint *cp, uint64_t off,
                                uint64_t len);

/* Clear bits, in three steps: choose units that are the same on both sides now,
 * and that no guest has changed since the last time; the caller makes both sides
 * durable; those of them that nobody has changed meanwhile are done. */
struct checkpoint_choice {
    /* Are both sides the same in [@off, @off+@len), with nothing under way? */
    bool (*is_same)(void *arg, uint64_t off, uint64_t len);
    void *arg;
};
/* False: there is nothing to be done. No yield. */
bool checkpoint_choose(struct checkpoint *cp,
                       const struct checkpoint_choice *choice);
CO_FN void checkpoint_co_done(struct checkpoint *cp);
/* The job is alive, and so may change its images; of changes by guests it sees
 * all. At least once a second. */
CO_FN void checkpoint_co_beat(struct checkpoint *cp);

/* What does all that while a job runs. */
struct checkpoint_keeper {
    struct checkpoint *cp; /* NULL: none is kept */
    struct checkpoint_choice choice;
    /* Make both sides durable; its argument is the choice's. */
    CO_FN_PTR int (*co_flush)(void *arg);
    /* keeper.c's */
    struct loop *loop;
    bool running, end;
    struct co_queue wake;
};
void checkpoint_keeper_start(struct checkpoint_keeper *k, struct loop *loop);
/* Fine on one that does not run. @keep: the next daemon goes on, also with what is
 * the same by now; else the file goes. To be called while changes by guests are
 * still seen. */
CO_FN void checkpoint_keeper_co_stop(struct checkpoint_keeper *k, bool keep);
