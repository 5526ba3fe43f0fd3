/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "run.h"

struct run {
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
};

CO_FN static void run_entry(void *arg)
{
    struct run *run = arg;

    run->fn(run->arg);
    while (co_count(run->loop) > 1) {
        co_sleep(100000);
    }
    loop_stop(run->loop);
}

void run_with(const struct loop_options *opts, void (*fn)(void *arg), void *arg)
{
    struct run run = { .fn = fn, .arg = arg };
    GError *err = NULL;

    loop_new(opts, &run.loop, &err);
    g_assert_no_error(err);
    co_start(run.loop, run_entry, &run);
    loop_run(run.loop);
    while (loop_turn(run.loop, false)) {
    }
    g_assert_cmpuint(co_count(run.loop), ==, 0);
    loop_free(run.loop);
}

void run_on(enum io_engine_kind kind, void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = { .engine = kind };

    run_with(&opts, fn, arg);
}

struct param {
    enum io_engine_kind kind;
    void (*fn)(void *arg);
};

static void run_param(gconstpointer data)
{
    const struct param *p = data;
    struct loop_options opts = { .engine = p->kind };
    struct loop *l;

    if (loop_new(&opts, &l, NULL) < 0) {
        g_test_skip("the kernel refuses io_uring");
        return;
    }
    loop_free(l);
    run_on(p->kind, p->fn, NULL);
}

void add_for_real_engines(const char *path, void (*fn)(void *arg))
{
    static const enum io_engine_kind kinds[] = {
        IO_ENGINE_IO_URING,
        IO_ENGINE_THREADS,
    };
    static const char *const names[] = { "io_uring", "threads" };

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct param *p = g_new(struct param, 1);
        char *full = g_strdup_printf("%s/%s", path, names[i]);

        *p = (struct param) { .kind = kinds[i], .fn = fn };
        g_test_add_data_func_full(full, p, run_param, g_free);
        g_free(full);
    }
}

void add_tests_for_real_engines(const char *folder, const struct engine_test *t,
                                unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *path = g_strconcat(folder, "/", t[i].name, NULL);

        add_for_real_engines(path, t[i].fn);
    }
}
