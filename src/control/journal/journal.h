/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job journal (invariants S5, D1): what must go on after a restart.
 *
 * One file, DIR/jobs.json, replaced as a whole: written beside, synced,
 * renamed, the directory synced.  A job is in it before it starts and until it
 * has settled.  An entry that an earlier run left is *waiting*; it is started
 * again as soon as its device exists, with the arguments of then; starting a
 * stream that had already finished does nothing twice.  DIR/lock keeps a
 * second daemon away.
 *
 * A job that lets guests go on on another image says so here before they do
 * (*switched*): an entry that was left like that is not started again, for the
 * other image is the disk by then.
 *
 * Everything is called on a data loop, and on that of the daemon where it says so;
 * all accept NULL for no journal.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct control;
struct jobs;
struct journal;

/* Starts again the job of an entry with this @command and these @args, without
 * a record in the journal. May yield. 0, or -errno with @err; -EALREADY: there is
 * nothing left to do, the images that it was about are gone. */
typedef int journal_co_restart_fn(struct control *c, const char *command,
                                  const json_t *args, const char *checkpoint,
                                  GError **err);

/* On the data loop of the daemon, whose @c is. Read the journal of @dir and hold
 * its lock until journal_co_close(). 0, or -errno with @err. */
CO_FN int journal_co_open(struct control *c, const char *dir,
                          journal_co_restart_fn *co_restart,
                          struct journal **ret_journal, GError **err);
/* On the same loop. */
CO_FN void journal_co_close(struct journal *j);
/* @jobs of another data loop are settled in it, too. */
void journal_attach(struct journal *j, struct jobs *jobs);
/* The file in which job @id may keep what it need not do again; it goes with the
 * job's entry. Owned; NULL: there is none. */
char *journal_checkpoint(const struct journal *j, const char *id);

/* A job's start by a command; on the caller's stack. */
struct journal_start {
    /* journal.c's */
    char *id;         /* NULL: the journal has nothing to do with it */
    json_t *entry;    /* what it is to say */
    bool was_waiting; /* an entry of that id waited to be resumed */
    bool settled;     /* the job has ended already */
};
/* Make the intent durable, before the job is started. Waits for another start
 * of the same @id. An @id that a running job has, or no job could have, is left
 * to whoever starts the job to refuse; where an entry of that id waits to be
 * resumed, it stays until the job has started. On failure the job must not be
 * started; else journal_co_end_start() follows. */
CO_FN int journal_co_begin_start(struct journal *j, const char *id,
                                 const char *command, const json_t *args,
                                 struct journal_start *s, GError **err);
/* @started: the job runs, and its entry with it; else all is as it was. */
CO_FN void journal_co_end_start(struct journal *j, struct journal_start *s,
                                bool started);
/* The job was given other values of arguments: it goes on with them after a
 * restart. @changes is borrowed. */
CO_FN void journal_co_change(struct journal *j, const char *id,
                             const json_t *changes);
/* On the data loop of the daemon, as what follows. */
CO_FN void journal_co_erase(struct journal *j, const char *id);
/* Erase a waiting entry. */
CO_FN int journal_co_forget(struct journal *j, const char *id, GError **err);

/* Start-up is over; start waiting entries where their device exists. */
CO_FN void journal_co_resume(struct journal *j);
/* Devices have appeared: the same, once journal_co_resume() was called. On any data
 * loop; any number may be under way. */
CO_FN void journal_co_retry(struct journal *j);

/* [JournalEntry], caller owns. */
json_t *journal_describe(const struct journal *j);
