/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The manager: a QMP client that starts, hurries, pauses and stops streams,
 * resizes, adds and removes exports and nodes, and asks about all of them.
 * Errors are answers; silence is a failure.
 */
#include <inttypes.h>
#include <string.h>
#include "control/control.h"
#include "dst.h"
#include "loop/channel.h"

/* Copies are to end while guests are there. */
enum { MOST_CUTS = 8, MOST_MORE = 40 };

struct manager {
    struct world *w;
    struct channel *ch;
    GString *in;
    json_t *answer;
    struct co_queue answered;
    bool reading, lost;
    uint64_t size;     /* that was last asked for */
    GPtrArray *jobs;   /* ids of those that are alive */
    GHashTable *whole; /* ids of streams of the disk, all of its chain */
};

/* --- messages --- */

static void follow_job(struct manager *m, const json_t *data)
{
    const char *id = json_string_value(json_object_get(data, "id"));
    const char *status = json_string_value(json_object_get(data, "status"));
    guint at;
    bool known = g_ptr_array_find_with_equal_func(m->jobs, id, g_str_equal,
                                                  &at);

    if (g_str_equal(status, "null") && known) {
        g_ptr_array_remove_index(m->jobs, at);
    } else if (!g_str_equal(status, "null") && !known) {
        g_ptr_array_add(m->jobs, g_strdup(id));
    }
}

/* P2: what is said to be complete is. */
static void check_completed(struct manager *m, const json_t *data)
{
    const char *id = json_string_value(json_object_get(data, "device"));

    copies_ended(m->w, id, !json_object_get(data, "error"));
    if (g_hash_table_remove(m->whole, id) && !json_object_get(data, "error") &&
        !power_is_independent(m->w)) {
        fail(m->w, "stream %s is complete, the disk has its base", id);
    }
    if (m->w->cfg.cuts && m->w->cuts->len < MOST_CUTS) {
        power_mark(m->w);
    }
}

static void take_event(struct manager *m, const char *event, const json_t *data)
{
    const char *id = json_string_value(json_object_get(data, "device"));

    if (!g_strcmp0(event, "JOB_STATUS_CHANGE")) {
        follow_job(m, data);
    } else if (!g_strcmp0(event, "BLOCK_JOB_COMPLETED")) {
        check_completed(m, data);
    } else if (!g_strcmp0(event, "BLOCK_JOB_CANCELLED")) {
        copies_ended(m->w, id, false);
    } else if (!g_strcmp0(event, "BLOCK_JOB_READY")) {
        copies_ready(m->w, id);
    }
}

static void take_message(struct manager *m, json_t *msg)
{
    g_autofree char *text = NULL;

    json_object_del(msg, "timestamp");
    text = json_dumps(msg, JSON_COMPACT);
    story(m->w, "qmp < %.600s", text);
    take_event(m, json_string_value(json_object_get(msg, "event")),
               json_object_get(msg, "data"));
    if (json_object_get(msg, "event") || json_object_get(msg, "QMP")) {
        json_decref(msg);
        return;
    }
    if (m->answer) {
        fail(m->w, "qmp: two answers to one command");
    }
    m->answer = msg;
    co_queue_wake_all(&m->answered);
}

static CO_FN void reader_entry(void *arg)
{
    struct manager *m = arg;
    char buf[4096];
    ssize_t n;

    while ((n = channel_co_read(m->ch, buf, sizeof(buf), 0)) > 0) {
        char *nl;

        g_string_append_len(m->in, buf, n);
        while ((nl = strstr(m->in->str, "\r\n"))) {
            size_t len = (size_t)(nl - m->in->str);
            json_t *msg = json_loadb(m->in->str, len, 0, NULL);

            if (!msg) {
                fail(m->w, "qmp: not JSON: %.*s", (int)len, m->in->str);
            }
            g_string_erase(m->in, 0, (gssize)len + 2);
            take_message(m, msg);
        }
    }
    m->reading = false;
    m->lost = true;
    co_queue_wake_all(&m->answered);
}

/* Run a command; @args is taken over, NULL for none. Owned answer. */
static CO_FN json_t *command_co(struct manager *m, const char *name,
                                json_t *args)
{
    struct world *w = m->w;
    json_t *msg = json_pack("{s:s,s:o*}", "execute", name, "arguments", args);
    g_autofree char *text = json_dumps(msg, JSON_COMPACT);
    struct iovec v;
    json_t *answer;

    json_decref(msg);
    story(w, "qmp > %s", text);
    w->command = text;
    w->command_since = loop_clock_ns(w->loop);
    if (channel_co_write(m->ch, iov_one(&v, text, strlen(text)), 0) < 0) {
        fail(w, "qmp: the connection is lost");
    }
    while (!m->answer && !m->lost) {
        co_queue_co_wait(&m->answered);
    }
    if (!m->answer) {
        fail(w, "qmp: the connection is lost");
    }
    w->command_since = 0;
    w->command = NULL;
    answer = m->answer;
    m->answer = NULL;
    return answer;
}

json_t *manager_co_command(struct world *w, const char *name, json_t *args)
{
    return command_co(w->manager, name, args);
}

static CO_FN void tell_co(struct manager *m, const char *name, json_t *args)
{
    json_decref(command_co(m, name, args));
}

static CO_FN void call_co(struct manager *m)
{
    struct channel *ends[2];

    channel_new_pair(m->w->loop, 4096, ends);
    m->ch = ends[1];
    control_add_session(m->w->control, ends[0], SESSION_QMP);
    m->reading = true;
    m->lost = false;
    co_start(m->w->loop, reader_entry, m);
    tell_co(m, "qmp_capabilities", NULL);
}

static CO_FN void hang_up_co(struct manager *m)
{
    channel_shutdown(m->ch);
    g_hash_table_remove_all(m->whole);
    while (m->reading) {
        co_queue_co_wait(&m->answered);
    }
    channel_free(m->ch);
    json_decref(m->answer);
    m->answer = NULL;
    g_string_truncate(m->in, 0);
}

void manager_co_connect(struct world *w)
{
    struct manager *m = g_new0(struct manager, 1);

    m->w = w;
    m->in = g_string_new(NULL);
    m->jobs = g_ptr_array_new_with_free_func(g_free);
    m->whole = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    m->size = w->cfg.size[L_TOP];
    w->manager = m;
    call_co(m);
}

void manager_co_disconnect(struct world *w)
{
    struct manager *m = w->manager;

    hang_up_co(m);
    g_string_free(m->in, TRUE);
    g_ptr_array_unref(m->jobs);
    g_hash_table_destroy(m->whole);
    g_free(m);
}

/* --- what it asks --- */

static const char *pick(struct rng *r, const char *const *names, size_t n)
{
    return names[rng_below(r, n)];
}
#define PICK(r, names) pick(r, names, G_N_ELEMENTS(names))

static const char *pick_device(struct manager *m)
{
    if (m->w->cfg.has_mid && rng_percent(&m->w->rng, 12)) {
        return "mid";
    }
    return rng_percent(&m->w->rng, 60) || m->w->cfg.is_drive ? m->w->root
                                                             : "top";
}

static const char *pick_job(struct manager *m)
{
    static const char *const ids[] = { "j0", "j1", "drive0" };

    if (m->jobs->len && rng_percent(&m->w->rng, 90)) {
        const char *id = m->jobs->pdata[rng_below(&m->w->rng, m->jobs->len)];

        /* Copies have verbs of their own; few are to be cut short by these. */
        if (*id != 'c' || rng_percent(&m->w->rng, 15)) {
            return id;
        }
    }
    return PICK(&m->w->rng, ids);
}

static void add_end(struct manager *m, json_t *args)
{
    static const char *const nodes[] = { "base", "mid", "top", "none" };
    static const char *const files[] = { "/base.img", "/mid.img" };
    struct rng *r = &m->w->rng;

    switch (rng_below(r, 8)) {
    case 0:
        json_object_set_new(args, "base-node", json_string(PICK(r, nodes)));
        break;
    case 1:
        json_object_set_new(args, "base", json_string(PICK(r, files)));
        break;
    case 2:
        json_object_set_new(args, "bottom", json_string(PICK(r, nodes)));
        break;
    default: break;
    }
}

/* Start one, and know whether the base must be gone when it completes. Of an id
 * that may be in use it is not known whose end is told. */
static CO_FN void whole_stream_co(struct manager *m, json_t *args)
{
    g_autofree char *id = g_strdup(
        json_string_value(json_object_get(args, "job-id")));
    bool in_use = g_ptr_array_find_with_equal_func(m->jobs, id, g_str_equal,
                                                   NULL);
    bool whole = !in_use && !json_object_get(args, "base") &&
                 !json_object_get(args, "base-node") &&
                 !json_object_get(args, "bottom") &&
                 strcmp(json_string_value(json_object_get(args, "device")),
                        "mid");
    json_t *answer;

    g_hash_table_remove(m->whole, id);
    if (whole) {
        g_hash_table_add(m->whole, g_strdup(id));
    }
    answer = command_co(m, "block-stream", args);
    if (!json_object_get(answer, "return")) {
        g_hash_table_remove(m->whole, id);
    }
    json_decref(answer);
}

static CO_FN void stream_co(struct manager *m)
{
    static const char *const policies[] = { "report", "stop", "ignore",
                                            "enospc" };
    struct rng *r = &m->w->rng;
    json_t *args = json_pack("{s:s,s:s,s:s,s:b,s:b}", "job-id",
                             rng_percent(r, 70) ? "j0" : "j1", "device",
                             pick_device(m), "on-error", PICK(r, policies),
                             "auto-finalize", rng_percent(r, 80),
                             "auto-dismiss", rng_percent(r, 80));

    if (rng_percent(r, 50) || m->w->cfg.slow_speed) {
        json_object_set_new(args, "speed",
                            json_integer(1 << (19 + rng_below(r, 7))));
    }
    add_end(m, args);
    whole_stream_co(m, args);
}

static CO_FN void old_stream_co(struct manager *m)
{
    struct rng *r = &m->w->rng;
    json_t *args = json_pack("{s:s}", "device", pick_device(m));

    switch (rng_below(r, 5)) {
    case 0: break;
    case 1: json_object_set_new(args, "stop", json_true()); break;
    default: json_object_set_new(args, "all", json_false());
    }
    tell_co(m, "block_stream", args);
}

static CO_FN void verb_co(struct manager *m)
{
    static const char *const verbs[] = {
        "job-pause",    "job-resume",   "job-cancel",
        "job-finalize", "job-dismiss",  "job-complete",
        "job-resume",   "job-finalize", "job-dismiss",
    };
    struct rng *r = &m->w->rng;

    if (rng_percent(r, 25)) {
        tell_co(
            m, "block-job-set-speed",
            json_pack("{s:s,s:i}", "device", pick_job(m), "speed",
                      rng_percent(r, 40) ? 0 : 1 << (19 + rng_below(r, 7))));
    } else {
        tell_co(m, PICK(r, verbs), json_pack("{s:s}", "id", pick_job(m)));
    }
}

static CO_FN void query_co(struct manager *m)
{
    static const char *const queries[] = {
        "query-jobs",       "query-block-jobs",        "query-block",
        "query-blockstats", "query-named-block-nodes", "query-block-exports",
        "query-status",     "query-block-stream",
    };

    tell_co(m, PICK(&m->w->rng, queries), NULL);
}

static CO_FN void resize_co(struct manager *m)
{
    struct world *w = m->w;
    uint64_t size = m->size + SECTOR * rng_below(&w->rng, 300);
    json_t *args = json_pack(
        "{s:s,s:I}", w->cfg.is_drive ? "device" : "node-name",
        w->cfg.is_drive ? w->root : "top", "size", (json_int_t)size);
    json_t *answer;

    model_grow(w->model, size / SECTOR);
    answer = command_co(m, "block_resize", args);
    if (json_object_get(answer, "return")) {
        m->size = size;
    }
    json_decref(answer);
}

static CO_FN void export_add_co(struct manager *m, const char *id,
                                bool writable)
{
    tell_co(m, "block-export-add",
            json_pack("{s:s,s:s,s:s,s:s,s:b,s:b}", "type", "nbd", "id", id,
                      "node-name", m->w->root, "name", id, "writable", writable,
                      "writethrough", m->w->cfg.writethrough));
}

static CO_FN void export_co(struct manager *m)
{
    struct rng *r = &m->w->rng;

    switch (rng_below(r, 5)) {
    case 0:
    case 1: export_add_co(m, "e2", rng_percent(r, 70)); break;
    case 2: export_add_co(m, "e1", true); break;
    default:
        tell_co(m, "block-export-del",
                json_pack("{s:s,s:s}", "id", rng_percent(r, 60) ? "e2" : "e1",
                          "mode", rng_percent(r, 60) ? "hard" : "safe"));
    }
}

static CO_FN void node_co(struct manager *m)
{
    if (rng_percent(&m->w->rng, 50)) {
        tell_co(m, "blockdev-add",
                json_pack("{s:s,s:s,s:{s:s,s:s}}", "driver", "raw", "node-name",
                          "extra", "file", "driver", "file", "filename",
                          "/extra.img"));
    } else {
        static const char *const names[] = { "extra", "extra", "mid", "base" };

        tell_co(m, "blockdev-del",
                json_pack("{s:s}", "node-name", PICK(&m->w->rng, names)));
    }
}

/* Say something and be gone before the answer. */
static CO_FN void vanish_co(struct manager *m)
{
    char text[] = "{\"execute\":\"query-named-block-nodes\"}";
    struct iovec v;

    story(m->w, "qmp vanishes");
    (void)channel_co_write(m->ch, iov_one(&v, text, strlen(text)), 0);
    hang_up_co(m);
    call_co(m);
}

static CO_FN void ask_co(struct manager *m)
{
    const struct config *cfg = &m->w->cfg;
    struct rng *r = &m->w->rng;

    if (cfg->snapshots && rng_percent(r, cfg->snapshots)) {
        snapshots_co_ask(m->w);
    } else if (cfg->copies && rng_percent(r, cfg->copies)) {
        copies_co_ask(m->w);
    } else if (rng_percent(r, cfg->resize)) {
        resize_co(m);
    } else if (rng_percent(r, cfg->exports)) {
        export_co(m);
    } else if (rng_percent(r, 2)) {
        vanish_co(m);
    } else if (rng_percent(r, 5)) {
        node_co(m);
    } else if (!rng_percent(r, cfg->jobs)) {
        query_co(m);
    } else if (rng_percent(r, m->jobs->len ? 75 : 15)) {
        verb_co(m);
    } else if (rng_percent(r, 65)) {
        stream_co(m);
    } else {
        old_stream_co(m);
    }
}

static CO_FN void manager_entry(void *arg)
{
    struct manager *m = arg;
    struct world *w = m->w;

    if (w->cfg.exports) {
        export_add_co(m, "e2", true);
    }
    for (unsigned i = 0; i < w->cfg.commands; i++) {
        co_sleep(
            rng_below(&w->rng, rng_percent(&w->rng, 80) ? 3 * MS : 60 * MS));
        ask_co(m);
    }
    for (unsigned i = 0; i < MOST_MORE && w->phase == 1 && copies_run(w); i++) {
        co_sleep(rng_below(&w->rng, 40 * MS));
        copies_co_ask(w);
    }
    if (w->cfg.exports) {
        export_add_co(m, "e1", true);
    }
    w->managed = true;
    co_latch_done(&w->busy);
}

void manager_start(struct world *w)
{
    co_latch_add(&w->busy);
    co_start(w->loop, manager_entry, w->manager);
}

/* --- the end --- */

enum { TICK_MS = 100, CANCEL_AFTER_S = 100, FAIL_AFTER_S = 200 };

static CO_FN void job_co_settle(struct manager *m, const json_t *job,
                                bool cancel)
{
    static const char *const steps[][2] = {
        { "paused", "job-resume" },    { "standby", "job-resume" },
        { "pending", "job-finalize" }, { "concluded", "job-dismiss" },
        { "ready", "job-complete" },
    };
    const char *id = json_string_value(json_object_get(job, "id"));
    const char *status = json_string_value(json_object_get(job, "status"));

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (g_str_equal(status, steps[i][0])) {
            tell_co(m, steps[i][1], json_pack("{s:s}", "id", id));
            return;
        }
    }
    if (cancel) {
        tell_co(m, "job-cancel", json_pack("{s:s}", "id", id));
    } else {
        tell_co(m, "block-job-set-speed",
                json_pack("{s:s,s:i}", "device", id, "speed", 0));
    }
}

static CO_FN void jobs_co_settle(struct manager *m)
{
    uint64_t start = loop_clock_ns(m->w->loop);

    for (;;) {
        uint64_t age = loop_clock_ns(m->w->loop) - start;
        json_t *answer = command_co(m, "query-jobs", NULL);
        json_t *jobs = json_object_get(answer, "return");
        size_t n = json_array_size(jobs);

        for (size_t i = 0; i < n; i++) {
            job_co_settle(m, json_array_get(jobs, i),
                          age > CANCEL_AFTER_S * SEC);
        }
        json_decref(answer);
        if (n == 0) {
            return;
        }
        if (age > FAIL_AFTER_S * SEC) {
            fail(m->w, "a job does not come to an end");
        }
        co_sleep(TICK_MS * MS);
    }
}

void manager_co_settle(struct world *w)
{
    jobs_co_settle(w->manager);
}
