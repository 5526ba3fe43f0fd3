/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The job state machine: both tables in full, and the order and the keys of
 * the events of each way a job can go. The jobs are real, their work is not. */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include "base/err.h"
#include "job/job.h"
#include "loop/co.h"
#include "loop/loop.h"

/* --- tables --- */

static void test_states(void)
{
    /* From the rows to the columns:
     * U C R P Y S W D X E N */
    static const char *const may[JOB_STATE_COUNT] = {
        [JOB_UNDEFINED] = ".C.........", [JOB_CREATED] = "..R.....X.N",
        [JOB_RUNNING] = "...PY.W.X..",   [JOB_PAUSED] = "..R........",
        [JOB_READY] = ".....SW.X..",     [JOB_STANDBY] = "....Y......",
        [JOB_WAITING] = ".......DX..",   [JOB_PENDING] = "........XE.",
        [JOB_ABORTING] = ".........E.",  [JOB_CONCLUDED] = "..........N",
        [JOB_NULL] = "...........",
    };

    for (unsigned from = 0; from < JOB_STATE_COUNT; from++) {
        for (unsigned to = 0; to < JOB_STATE_COUNT; to++) {
            if (job_state_may_follow(from, to) != (may[from][to] != '.')) {
                g_error("%s -> %s", job_state_name(from), job_state_name(to));
            }
        }
    }
}

static void test_verbs(void)
{
    /* cancel pause resume set-speed complete finalize dismiss */
    static const char *const takes[JOB_STATE_COUNT] = {
        [JOB_UNDEFINED] = "........", [JOB_CREATED] = "xxxx...x",
        [JOB_RUNNING] = "xxxx...x",   [JOB_PAUSED] = "xxxx...x",
        [JOB_READY] = "xxxxx..x",     [JOB_STANDBY] = "xxxxx..x",
        [JOB_WAITING] = "x.......",   [JOB_PENDING] = "x....x..",
        [JOB_ABORTING] = "........",  [JOB_CONCLUDED] = "......x.",
        [JOB_NULL] = "........",
    };

    for (unsigned s = 0; s < JOB_STATE_COUNT; s++) {
        for (unsigned v = 0; v < JOB_VERB_COUNT; v++) {
            if (job_verb_allowed(s, v) != (takes[s][v] == 'x')) {
                g_error("%s in %s", job_verb_name(v), job_state_name(s));
            }
        }
    }
    g_assert_cmpstr(job_verb_name(JOB_SET_SPEED), ==, "set-speed");
}

/* --- a job whose work the test decides --- */

struct fake {
    struct job job;
    unsigned steps; /* pause points to pass */
    int run_ret, prepare_ret;
    bool fail_with_text;
    int error_at; /* step at which an I/O error comes, -1 = none */
    enum on_error policy;
    int errnum;
};
static GString *trail; /* what happened, in words */
static bool with_data;
static struct loop *loop;

static CO_FN int fake_co_run(struct job *j, GError **err)
{
    struct fake *f = (struct fake *)j;

    for (unsigned i = 0; i < f->steps; i++) {
        int ret = job_co_pause_point(j);

        if (ret < 0) {
            return ret;
        }
        if ((int)i == f->error_at) {
            ret = job_apply_policy(j, f->policy, true, f->errnum);
            if (ret == -EAGAIN) {
                f->error_at = -1;
                i--;
                continue;
            }
            if (ret < 0) {
                return ret;
            }
        }
        j->offset += 10;
        co_sleep(1000);
    }
    if (f->fail_with_text) {
        return err_set(err, EIO, "the cat sat on it");
    }
    return f->run_ret;
}

static CO_FN int fake_co_prepare(struct job *j, GError **err)
{
    struct fake *f = (struct fake *)j;

    g_string_append(trail, "[prepare] ");
    return f->prepare_ret;
}

static CO_FN void fake_co_clean(struct job *j)
{
    g_string_append(trail, "[clean] ");
}

static const struct job_driver fake_driver = {
    .type = "stream",
    .job_size = sizeof(struct fake),
    .co_run = fake_co_run,
    .co_prepare = fake_co_prepare,
    .co_clean = fake_co_clean,
};

static void on_event(const char *name, json_t *data, void *arg)
{
    g_autofree char *text = json_dumps(data, JSON_COMPACT);

    if (!strcmp(name, "JOB_STATUS_CHANGE") && !with_data) {
        g_string_append_printf(
            trail, "%s ", json_string_value(json_object_get(data, "status")));
    } else if (with_data) {
        g_string_append_printf(trail, "%s%s ", name, text);
    } else {
        g_string_append_printf(trail, "%s ", name);
    }
}

static void expect(const char *want)
{
    g_strchomp(trail->str);
    g_assert_cmpstr(trail->str, ==, want);
    g_string_truncate(trail, 0);
}

static CO_FN void settle_co(struct job *j, bool by_shutdown, void *arg)
{
    g_string_append(trail, by_shutdown ? "[kept] " : "[settled] ");
}

/* --- running one --- */

struct scene {
    CO_FN_PTR void (*body)(struct jobs *js, struct fake *f);
    struct job_params params;
    struct fake how;
    bool ended;
    bool settle;
};

static CO_FN void scene_entry(void *arg)
{
    struct scene *sc = arg;
    struct jobs *js = jobs_new(loop, on_event, NULL);
    struct job *j = NULL;
    struct fake *f;
    int ret;

    if (sc->settle) {
        struct job_settle settle = { .arg = NULL };

        settle.co_settle = settle_co;
        jobs_set_settle(js, &settle);
    }
    ret = job_new(js, &fake_driver, &sc->params, &j, NULL);
    g_assert_cmpint(ret, ==, 0);
    f = (struct fake *)j;
    f->steps = sc->how.steps;
    f->run_ret = sc->how.run_ret;
    f->prepare_ret = sc->how.prepare_ret;
    f->fail_with_text = sc->how.fail_with_text;
    f->error_at = sc->how.errnum ? sc->how.error_at : -1;
    f->policy = sc->how.policy;
    f->errnum = sc->how.errnum;
    j->len = 100;
    sc->body(js, f);
    jobs_co_cancel_all(js);
    jobs_free(js);
    sc->ended = true;
    loop_stop(loop);
}

static void play(struct scene *sc)
{
    struct loop_options o = { .engine = IO_ENGINE_THREADS, .workers = 1 };
    GError *err = NULL;
    int ret = loop_new(&o, &loop, &err);

    g_assert_no_error(err);
    g_assert_cmpint(ret, ==, 0);
    if (!sc->params.id) {
        sc->params.id = "j";
        sc->params.auto_finalize = sc->params.auto_dismiss = true;
    }
    trail = g_string_new(NULL);
    co_start(loop, scene_entry, sc);
    loop_run(loop);
    g_assert_true(sc->ended);
    g_assert_cmpuint(co_count(loop), ==, 0);
    loop_free(loop);
    g_string_free(trail, TRUE);
}

/* Let the job get somewhere. */
static CO_FN void until_co_state(struct job *j, enum job_state s)
{
    for (unsigned i = 0; j->state != s; i++) {
        g_assert_cmpuint(i, <, 600000); /* a minute, at least */
        co_sleep(100000);
    }
}

static void assert_err(int ret, GError **err, const char *text)
{
    g_assert_cmpint(ret, <, 0);
    g_assert_nonnull(*err);
    g_assert_cmpstr((*err)->message, ==, text);
    g_clear_error(err);
}

/* --- the ways --- */

static CO_FN void good_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    expect("created running waiting pending [prepare] [clean] "
           "BLOCK_JOB_COMPLETED concluded null");
}

static void test_good(void)
{
    struct scene sc = { .body = good_co_body, .how = { .steps = 10 } };

    play(&sc);
}

static CO_FN void data_co_body(struct jobs *js, struct fake *f)
{
    json_t *o = job_describe_block(&f->job);
    g_autofree char *text = json_dumps(o, JSON_COMPACT);
    json_t *q = job_describe(&f->job);
    g_autofree char *qtext = json_dumps(q, JSON_COMPACT);

    g_assert_cmpstr(text, ==,
                    "{\"auto-finalize\":true,\"io-status\":\"ok\","
                    "\"device\":\"j\",\"auto-dismiss\":true,\"busy\":false,"
                    "\"len\":100,\"offset\":0,\"status\":\"created\","
                    "\"paused\":false,\"speed\":0,\"ready\":false,"
                    "\"type\":\"stream\"}");
    g_assert_cmpstr(qtext, ==,
                    "{\"current-progress\":0,\"status\":\"created\","
                    "\"total-progress\":100,\"type\":\"stream\",\"id\":\"j\"}");
    json_decref(o);
    json_decref(q);
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    g_assert_nonnull(strstr(
        trail->str, "JOB_STATUS_CHANGE{\"status\":\"running\",\"id\":\"j\"}"));
    g_assert_nonnull(strstr(
        trail->str, "BLOCK_JOB_ERROR{\"device\":\"j\",\"operation\":\"read\","
                    "\"action\":\"report\"}"));
    g_assert_nonnull(strstr(trail->str,
                            "BLOCK_JOB_COMPLETED{\"device\":\"j\",\"len\":100,"
                            "\"offset\":20,\"speed\":0,\"type\":\"stream\","
                            "\"error\":\"Input/output error\"}"));
}

static void test_data(void)
{
    struct scene sc = { .body = data_co_body,
                        .how = { .steps = 9, .errnum = EIO, .error_at = 2 } };

    with_data = true;
    play(&sc);
    with_data = false;
}

static CO_FN void failure_co_body(struct jobs *js, struct fake *f)
{
    f->job.auto_dismiss = false;
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    expect("created running aborting [clean] [settled] BLOCK_JOB_COMPLETED "
           "concluded");
    g_assert_cmpstr(f->job.error->message, ==, "the cat sat on it");
    g_assert_cmpint(job_user_dismiss(&f->job, NULL), ==, 0);
    expect("null");
}

static void test_failure(void)
{
    struct scene sc = { .body = failure_co_body,
                        .settle = true,
                        .how = { .steps = 1, .fail_with_text = true } };

    play(&sc);
}

static CO_FN void prepare_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    expect("created running waiting pending [prepare] aborting [clean] "
           "BLOCK_JOB_COMPLETED concluded null");
}

static void test_prepare_fails(void)
{
    struct scene sc = { .body = prepare_co_body,
                        .how = { .prepare_ret = -EIO } };

    play(&sc);
}

static CO_FN void cancel_co_body(struct jobs *js, struct fake *f)
{
    GError *err = NULL;

    job_start(&f->job);
    until_co_state(&f->job, JOB_RUNNING);
    assert_err(job_user_finalize(&f->job, &err), &err,
               "Job 'j' in state "
               "'running' cannot accept command verb 'finalize'");
    assert_err(job_user_co_complete(&f->job, &err), &err,
               "Job 'j' in state "
               "'running' cannot accept command verb 'complete'");
    g_assert_cmpint(job_user_cancel(&f->job, false, NULL), ==, 0);
    job_co_wait_concluded(&f->job);
    expect("created running aborting [clean] BLOCK_JOB_CANCELLED concluded "
           "null");
}

static void test_cancel(void)
{
    struct scene sc = { .body = cancel_co_body, .how = { .steps = 100000 } };

    play(&sc);
}

static CO_FN void cancel_early_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    g_assert_cmpint(job_user_cancel(&f->job, false, NULL), ==, 0);
    job_co_wait_concluded(&f->job);
    expect("created aborting [clean] BLOCK_JOB_CANCELLED concluded null");
}

static void test_cancel_early(void)
{
    struct scene sc = { .body = cancel_early_co_body };

    play(&sc);
}

static CO_FN void pause_co_body(struct jobs *js, struct fake *f)
{
    GError *err = NULL;
    uint64_t offset;

    job_start(&f->job);
    until_co_state(&f->job, JOB_RUNNING);
    assert_err(job_user_resume(&f->job, &err), &err,
               "Can't resume a job that was not paused");
    g_assert_cmpint(job_user_pause(&f->job, NULL), ==, 0);
    assert_err(job_user_pause(&f->job, &err), &err, "Job is already paused");
    until_co_state(&f->job, JOB_PAUSED);
    g_assert_false(f->job.busy);
    offset = f->job.offset;
    co_sleep(20000000);
    g_assert_cmpuint(f->job.offset, ==, offset);
    assert_err(job_user_cancel(&f->job, false, &err), &err,
               "The block job for device 'j' is currently paused");
    g_assert_cmpint(job_user_resume(&f->job, NULL), ==, 0);
    until_co_state(&f->job, JOB_RUNNING);
    g_assert_cmpint(job_user_pause(&f->job, NULL), ==, 0);
    until_co_state(&f->job, JOB_PAUSED);
    g_assert_cmpint(job_user_cancel(&f->job, true, NULL), ==, 0);
    job_co_wait_concluded(&f->job);
    expect("created running paused running paused running aborting [clean] "
           "BLOCK_JOB_CANCELLED concluded null");
}

static void test_pause(void)
{
    struct scene sc = { .body = pause_co_body, .how = { .steps = 1000000 } };

    play(&sc);
}

/* Work that never looks is paused at its end at the latest. */
static CO_FN void pause_late_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    g_assert_cmpint(job_user_pause(&f->job, NULL), ==, 0);
    until_co_state(&f->job, JOB_PAUSED);
    g_assert_cmpint(job_user_resume(&f->job, NULL), ==, 0);
    job_co_wait_concluded(&f->job);
    expect("created running paused running waiting pending [prepare] [clean] "
           "BLOCK_JOB_COMPLETED concluded null");
}

static void test_pause_late(void)
{
    struct scene sc = { .body = pause_late_co_body };

    play(&sc);
}

static CO_FN void pending_co_body(struct jobs *js, struct fake *f)
{
    GError *err = NULL;

    job_start(&f->job);
    until_co_state(&f->job, JOB_PENDING);
    co_sleep(1000000);
    expect("created running waiting pending BLOCK_JOB_PENDING");
    assert_err(job_user_pause(&f->job, &err), &err,
               "Job 'by-hand' in "
               "state 'pending' cannot accept command verb 'pause'");
    g_assert_cmpint(job_user_finalize(&f->job, NULL), ==, 0);
    until_co_state(&f->job, JOB_CONCLUDED);
    expect("[prepare] [clean] BLOCK_JOB_COMPLETED concluded");
    g_assert_true(jobs_find(js, "by-hand") == &f->job);
    assert_err(job_user_cancel(&f->job, true, &err), &err,
               "Job 'by-hand' in "
               "state 'concluded' cannot accept command verb 'cancel'");
    g_assert_cmpint(job_user_dismiss(&f->job, NULL), ==, 0);
    expect("null");
    g_assert_null(jobs_find(js, "by-hand"));
}

static CO_FN void pending_cancel_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    until_co_state(&f->job, JOB_PENDING);
    g_assert_cmpint(job_user_cancel(&f->job, false, NULL), ==, 0);
    until_co_state(&f->job, JOB_CONCLUDED);
    expect("created running waiting pending BLOCK_JOB_PENDING aborting "
           "[clean] BLOCK_JOB_CANCELLED concluded");
}

static void test_by_hand(void)
{
    struct scene finalized = { .body = pending_co_body,
                               .params = { .id = "by-hand" } };
    struct scene cancelled = { .body = pending_cancel_co_body,
                               .params = { .id = "by-hand" } };

    play(&finalized);
    play(&cancelled);
}

static CO_FN void ids_co_body(struct jobs *js, struct fake *f)
{
    static const char *const bad[] = { "",    "1a",       "-a",     "a b",
                                       "a/b", "\xc3\xa4", "#block1" };
    struct job_params p = { .id = "j" };
    struct job *j = NULL;
    GError *err = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *text = g_strdup_printf("Invalid job ID '%s'", bad[i]);

        p.id = bad[i];
        assert_err(job_new(js, &fake_driver, &p, &j, &err), &err, text);
    }
    p.id = NULL;
    assert_err(job_new(js, &fake_driver, &p, &j, &err), &err,
               "Invalid job ID ''");
    p.id = "j";
    assert_err(job_new(js, &fake_driver, &p, &j, &err), &err,
               "Job ID 'j' already in use");
    p.id = "a1-._Z";
    g_assert_cmpint(job_new(js, &fake_driver, &p, &j, NULL), ==, 0);
    job_drop(j);
    expect("created created null");
    p.speed = (uint64_t)-1;
    assert_err(job_new(js, &fake_driver, &p, &j, &err), &err,
               "Parameter 'speed' expects a non-negative value");
    assert_err(job_user_set_speed(&f->job, -1, &err), &err,
               "Parameter 'speed' expects a non-negative value");
    expect("created null");
    job_drop(&f->job);
}

static void test_ids(void)
{
    struct scene sc = { .body = ids_co_body };

    play(&sc);
}

static CO_FN void stop_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    until_co_state(&f->job, JOB_PAUSED);
    g_assert_cmpint(f->job.io_status, ==,
                    f->errnum == ENOSPC ? IO_STATUS_NOSPACE : IO_STATUS_FAILED);
    g_assert_cmpuint(f->job.offset, ==, 30);
    expect("created running BLOCK_JOB_ERROR paused");
    g_assert_cmpint(job_user_resume(&f->job, NULL), ==, 0);
    g_assert_cmpint(f->job.io_status, ==, IO_STATUS_OK);
    job_co_wait_concluded(&f->job);
    expect("running waiting pending [prepare] [clean] BLOCK_JOB_COMPLETED "
           "concluded null");
}

static CO_FN void report_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    expect("created running BLOCK_JOB_ERROR aborting [clean] "
           "BLOCK_JOB_COMPLETED concluded null");
}

static CO_FN void ignore_co_body(struct jobs *js, struct fake *f)
{
    job_start(&f->job);
    job_co_wait_concluded(&f->job);
    expect("created running BLOCK_JOB_ERROR waiting pending [prepare] [clean] "
           "BLOCK_JOB_COMPLETED concluded null");
}

static void test_policies(void)
{
#define ROW(what, p, e) \
    { \
        .body = what##_co_body, .how = { \
            .steps = 6, \
            .error_at = 3, \
            .errnum = e, \
            .policy = ON_ERROR_##p \
        } \
    }
    struct scene rows[] = {
        ROW(report, REPORT, EIO),  ROW(report, REPORT, ENOSPC),
        ROW(ignore, IGNORE, EIO),  ROW(stop, STOP, EIO),
        ROW(stop, STOP, ENOSPC),   ROW(report, ENOSPC, EIO),
        ROW(stop, ENOSPC, ENOSPC), ROW(report, AUTO, EIO),
        ROW(stop, AUTO, ENOSPC),
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        play(&rows[i]);
    }
}

static CO_FN void shutdown_co_body(struct jobs *js, struct fake *f)
{
    struct job_params p = { .id = "second" };
    struct job *j = NULL;
    GError *err = NULL;

    job_start(&f->job);
    until_co_state(&f->job, JOB_RUNNING);
    g_assert_cmpint(job_user_pause(&f->job, NULL), ==, 0);
    until_co_state(&f->job, JOB_PAUSED);
    g_string_truncate(trail, 0);
    jobs_co_cancel_all(js);
    expect("running aborting [clean] [kept] BLOCK_JOB_CANCELLED concluded "
           "null");
    assert_err(job_new(js, &fake_driver, &p, &j, &err), &err,
               "The daemon is shutting down");
}

static void test_shutdown(void)
{
    struct scene sc = { .body = shutdown_co_body,
                        .settle = true,
                        .params = { .id = "stays" },
                        .how = { .steps = 1000000 } };

    play(&sc);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/states", test_states);
    g_test_add_func("/job/verbs", test_verbs);
    g_test_add_func("/job/good", test_good);
    g_test_add_func("/job/data", test_data);
    g_test_add_func("/job/failure", test_failure);
    g_test_add_func("/job/prepare-fails", test_prepare_fails);
    g_test_add_func("/job/cancel", test_cancel);
    g_test_add_func("/job/cancel-early", test_cancel_early);
    g_test_add_func("/job/pause", test_pause);
    g_test_add_func("/job/pause-late", test_pause_late);
    g_test_add_func("/job/by-hand", test_by_hand);
    g_test_add_func("/job/ids", test_ids);
    g_test_add_func("/job/policies", test_policies);
    g_test_add_func("/job/shutdown", test_shutdown);
    return g_test_run();
}
