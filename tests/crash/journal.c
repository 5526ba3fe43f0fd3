/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two that have no image.
 *
 * The job journal (D1): digits record and erase two jobs, or start one that is
 * refused, by a daemon that has found the journal; after a crash it can be read,
 * and holds each job that was recorded and none that was erased.
 *
 * A new file: once it was made it is there, with its size.
 */
#include "crash.h"
#include <string.h>
#include "base/err.h"
#include "base/names.h"
#include "base/options.h"
#include "control/commands/job-start.h"
#include "control/control-int.h"
#include "control/journal/journal.h"
#include "graph/driver.h"
#include "job/job.h"
#include "loop/co.h"
#include "storage/storage.h"

#define N_IDS 2
static const char *const ids[N_IDS] = { "one", "two" };

/* One loop is all that there is. */
static void control_make(struct control *c)
{
    *c = (struct control) { .main = c,
                            .loop = loop_current(),
                            .data = loop_current(),
                            .names = names_new(),
                            .graph = world.graph,
                            .jobs = world.jobs };
}

static CO_FN struct journal *journal_co_get(struct control *c)
{
    g_autoptr(GError) err = NULL;
    struct journal *j;

    return journal_co_open(c, "/state", job_start_co_again, &j, &err) < 0 ? NULL
                                                                          : j;
}

static CO_FN void journal_co_start(struct journal *j, unsigned i,
                                   const json_t *args, bool started)
{
    g_autoptr(GError) err = NULL;
    struct journal_start s;

    if (journal_co_begin_start(j, ids[i], "block-stream", args, &s, &err) < 0) {
        g_error("record: %s", err->message);
    }
    journal_co_end_start(j, &s, started);
}

/* 1 and 2 record, 3 and 4 erase, 5 and 6 set a speed, 7 and 8 are refused. */
static CO_FN void journal_co_do(struct journal *j, struct op *op, char letter)
{
    unsigned i = (unsigned)(letter - '1') % N_IDS;
    json_t *args = json_pack("{s:s}", "device", ids[i]);

    op->first = i;
    if (letter <= '2') {
        op->kind = OP_RECORD;
        journal_co_start(j, i, args, true);
    } else if (letter <= '4') {
        op->kind = OP_ERASE;
        journal_co_erase(j, ids[i]);
    } else if (letter <= '6') {
        op->kind = OP_WAIT;
        json_t *changes = json_pack("{s:i}", "speed", 4096);

        journal_co_change(j, ids[i], changes);
        json_decref(changes);
    } else {
        op->kind = OP_REFUSE;
        journal_co_start(j, i, args, false);
    }
    json_decref(args);
}

CO_FN void journal_co_play(const char *sequence, GRand *rnd, struct oracle *o)
{
    struct control c;
    struct journal *j;

    control_make(&c);
    j = journal_co_get(&c);
    g_assert(j);
    for (const char *p = sequence; *p; p++) {
        struct op *op = oracle_add(o, &(struct op) { 0 });

        if (*p >= '7') {
            journal_co_close(j);
            j = journal_co_get(&c); /* what it holds waits */
            g_assert(j);
        }
        op->begun = sim_mark(world.sim, "begin", o->n_ops);
        journal_co_do(j, op, *p);
        op->ended = sim_mark(world.sim, "end", o->n_ops);
    }
    journal_co_close(j);
    names_free(c.names);
    oracle_index(o);
}

/* May the journal hold job @i at the crash, and must it? A refused start changes
 * nothing; while it is under way the job may be there. */
static void journal_expect(const struct oracle *o, unsigned i, bool *ret_may,
                           bool *ret_must)
{
    *ret_may = *ret_must = false;
    for (unsigned k = 0; k < o->n_ops; k++) {
        const struct op *op = &o->ops[k];
        bool is_record = op->kind == OP_RECORD;

        if ((!is_record && op->kind != OP_ERASE && op->kind != OP_REFUSE) ||
            op->first != i || op->begun > o->at) {
            continue;
        }
        if (op->kind == OP_REFUSE) {
            *ret_may = *ret_may || op->ended > o->at;
        } else if (op->ended <= o->at) {
            *ret_may = *ret_must = is_record;
        } else {
            *ret_may = *ret_may || is_record;
            *ret_must = *ret_must && is_record;
        }
    }
}

CO_FN char *journal_co_verify(struct state *st)
{
    struct control c;
    struct journal *j;
    json_t *all;
    char *bad;

    control_make(&c);
    j = journal_co_get(&c);
    bad = j ? NULL : g_strdup("the journal cannot be read");
    all = j ? journal_describe(j) : NULL;
    cover(COVER_JOURNAL);
    for (unsigned i = 0; i < N_IDS && !bad; i++) {
        bool may, must, found = false;
        json_t *entry;
        size_t k;

        journal_expect(st->o, i, &may, &must);
        json_array_foreach(all, k, entry) {
            found = found ||
                    g_str_equal(json_string_value(json_object_get(entry, "id")),
                                ids[i]);
        }
        if (found ? !may : must) {
            bad = g_strdup_printf("job '%s' is %sin the journal", ids[i],
                                  found ? "" : "not ");
        }
    }
    json_decref(all);
    journal_co_close(j);
    names_free(c.names);
    return bad;
}

/* --- a new file --- */

CO_FN void file_co_play(const char *sequence, GRand *rnd, struct oracle *o)
{
    json_t *props = json_pack("{s:s,s:I}", "filename", "/top", "size",
                              (json_int_t)world.config->size);
    struct opts *opts = opts_new(props);
    g_autoptr(GError) err = NULL;

    if (file_driver.co_create(NULL, opts, &err) < 0) {
        g_error("create: %s", err->message);
    }
    opts_free(opts);
    json_decref(props);
    o->created = sim_mark(world.sim, "created", 0);
    oracle_index(o);
}

CO_FN char *file_co_verify(struct state *st)
{
    uint64_t id = sim_image_find(st->img, "/top");

    if (st->at < st->o->created) {
        return NULL;
    }
    if (!id) {
        return g_strdup("the file is not there");
    }
    return sim_image_size(st->img, id) == world.config->size
               ? NULL
               : g_strdup("the file has another size");
}
