/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash-qed: the crash simulator's program; see doc/testing.rst.
 *
 *   crash-qed --suite quick|check|soak      TAP, one point for each image
 *   crash-qed --mutate all|NAME             is every barrier needed?
 *   crash-qed --image I --sequence S [--seed N] [--full]   replay one
 */
#include "crash.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/barrier.h"

static const struct suite suites[] = {
    { "quick", 2, 7, 2,
      { .per_instant = 30, .exhaustive = 4, .random = 1, .instants = 12 },
      { .per_instant = 12, .random = 3, .instants = 12 } },
    { "check", 3, 29, 25,
      { .per_instant = 60, .exhaustive = 5, .random = 2, .instants = 40 },
      { .per_instant = 30, .random = 6, .instants = 20 } },
    { "soak", 3, 1, 1500,
      { .per_instant = 4000, .exhaustive = 10, .random = 20 },
      { .per_instant = 100, .random = 20, .instants = 60 } },
};
/* Replays and mutants look at everything a short sequence gives. */
static const struct limits full = { .per_instant = 600, .exhaustive = 8,
                                    .random = 10 };

static const char *alphabet(const struct crash_config *c)
{
    return c->backing ? "aufbexztFrqpsScgwW" : "aufbexztFrgwW";
}

/* --- one sequence --- */

struct one {
    const char *sequence;
    guint32 seed;
    const struct limits *limits;
    char *story;
};
static char replay[600];        /* told when an assertion ends the program */

static void on_abort(int sig)
{
    static const char head[] = "\n# replay: ";

    if (write(STDOUT_FILENO, head, sizeof(head) - 1) < 0 ||
        write(STDOUT_FILENO, replay, strlen(replay)) < 0) {
        _exit(2);
    }
}

static CO_FN void one_run(void *arg)
{
    struct one *one = arg;
    bool creates = one->sequence[0] == '!'; /* the creation is looked at, too */
    g_autoptr(GRand) rnd = g_rand_new_with_seed(one->seed);
    struct sim_image *start;
    struct history h;
    struct oracle o;

    sim_log_reset(world.sim, false);
    world_co_make_base();
    if (!creates) {
        world_co_make_image();
    }
    start = sim_image_copy(sim_live(world.sim));
    oracle_init(&o, world.config);
    sim_log_reset(world.sim, true);
    if (creates) {
        world_co_make_image();
        o.created = sim_mark(world.sim, "created", 0);
    }
    world_co_run(one->sequence + creates, rnd, &o);
    history_take(&h, world.sim, start, world.config);
    sim_log_reset(world.sim, false);
    one->story = states_co_try(&h, &o, one->limits, rnd, 0);
    history_done(&h);
    oracle_done(&o);
}

/* The story of the first state that breaks a promise, or NULL. */
static char *sequence_try(const struct crash_config *c, const char *sequence,
                          guint32 seed, const struct limits *limits)
{
    struct one one = { sequence, seed, limits, NULL };

    g_snprintf(replay, sizeof(replay), "crash-qed --image %s --sequence '%s' "
               "--seed %u\n", c->name, sequence, seed);
    world_run(c, seed, one_run, &one);
    return one.story;
}

/* --- many --- */

/* The @i-th sequence of @len letters. */
static void sequence_nth(const char *abc, unsigned len, unsigned i, char *out)
{
    unsigned n = (unsigned) strlen(abc);

    for (unsigned k = 0; k < len; k++, i /= n) {
        out[k] = abc[i % n];
    }
    out[len] = 0;
}

static char *try_short(const struct crash_config *c, const struct suite *s,
                       guint32 seed)
{
    const char *abc = alphabet(c);
    unsigned total = 1;
    char *story = c->raw ? NULL : sequence_try(c, "!", seed, &s->limits);

    for (unsigned len = 1; len <= s->length && !story; len++) {
        /* Large clusters cost more and tell less. */
        unsigned step = len < s->length ? 1
            : c->cluster > 4096 ? s->stride * 4 : s->stride;

        total *= (unsigned) strlen(abc);
        for (unsigned i = step > 1 ? seed % step : 0; i < total && !story;
             i += step) {
            char sequence[8];

            sequence_nth(abc, len, i, sequence);
            story = sequence_try(c, sequence, i + 1, &s->limits);
        }
    }
    return story;
}

static void sequence_random(const struct crash_config *c, GRand *rnd, char *out)
{
    const char *abc = c->backing ? "DDDUZTFFRRpScgw" : "DDDUZTFFRgw";
    unsigned len = (unsigned) g_rand_int_range(rnd, 5, 40);

    for (unsigned i = 0; i < len; i++) {
        if (i && g_rand_int_range(rnd, 0, 3)) {
            *out++ = '|';
        }
        *out++ = abc[g_rand_int_range(rnd, 0, (gint32) strlen(abc))];
    }
    *out = 0;
}

static char *try_random(const struct crash_config *c, const struct suite *s,
                        guint32 seed)
{
    char *story = NULL;

    for (unsigned i = 0; i < s->random && !story; i++) {
        g_autoptr(GRand) rnd = g_rand_new_with_seed(seed + i);
        char sequence[100];

        sequence_random(c, rnd, sequence);
        story = sequence_try(c, sequence, seed + i, &s->random_limits);
    }
    return story;
}

static void print_story(const char *story)
{
    g_auto(GStrv) lines = g_strsplit(story, "\n", 0);

    printf("# replay: %s", replay);
    for (unsigned i = 0; lines[i]; i++) {
        printf("# %s\n", lines[i]);
    }
}

static bool suite_run(const struct suite *s, const struct crash_config *only,
                      guint32 seed)
{
    gint64 begun = g_get_monotonic_time();
    unsigned failed = 0, n = only ? 1 : crash_n_configs;
    double seconds;

    printf("1..%u\n# seed %u\n", n, seed);
    for (unsigned i = 0; i < n; i++) {
        const struct crash_config *c = only ? only : &crash_configs[i];
        uint64_t before = tally.distinct;
        gint64 start = g_get_monotonic_time();
        char *story = try_short(c, s, seed);

        if (!story) {
            story = try_random(c, s, seed);
        }
        if (story) {
            print_story(story);
            failed++;
        }
        g_free(story);
        printf("%sok %u %s # %" PRIu64 " states, %.1f s\n",
               story ? "not " : "", i + 1, c->name, tally.distinct - before,
               (double) (g_get_monotonic_time() - start) / 1e6);
        fflush(stdout);
    }
    seconds = (double) (g_get_monotonic_time() - begun) / 1e6;
    printf("# %" PRIu64 " states built, %" PRIu64 " distinct and verified, %"
           PRIu64 " gone on with, %" PRIu64 " crashed again, %" PRIu64
           " shown to qemu-img: %.1f s, %.0f states/s\n", tally.built,
           tally.distinct, tally.deep, tally.twice, tally.outside, seconds,
           (double) tally.distinct / seconds);
    return failed == 0;
}

/* --- barriers taken out --- */

static const struct crash_config *image_find(const char *name)
{
    for (unsigned i = 0; i < crash_n_configs; i++) {
        if (!g_strcmp0(crash_configs[i].name, name)) {
            return &crash_configs[i];
        }
    }
    return NULL;
}

static int barrier_off = -1;

bool barrier_is_off(enum barrier b)
{
    return (int) b == barrier_off;
}

static const char *const barrier_names[] = {
#define X(id, text) #id,
    BARRIERS(X)
#undef X
};

/* What finds the lack of a barrier quickly. Where it does not any more, the
 * search goes on through all short sequences and random ones. */
static const struct hunter {
    enum barrier b;
    const char *image, *sequence;
} hunters[] = {
    { BARRIER_GROUP_WAIT, "4k", "D|D|F|D|F|U|D|F|Z|F" },
    { BARRIER_GROUP_DATA, "4k-base", "aFaFW" },
    { BARRIER_GROUP_POINTERS, "4k", "aFaFW" },
    { BARRIER_TABLE_FIRST, "4k-base", "aFaFW" },
    { BARRIER_FILE_LENGTH, "4k", "uFrw" },
    { BARRIER_NEED_CHECK, "4k", "aFaFW" },
    { BARRIER_PIVOT_DATA, "4k-base", "sa" },
    { BARRIER_PIVOT_HEADER, "4k-base", "sa" },
    { BARRIER_RESIZE_CLEAR, "4k-long", "gF" },
    { BARRIER_RESIZE_HEADER, "4k", "gF" },
    { BARRIER_CREATE_TABLES, "4k-base", "!" },
    { BARRIER_CREATE_NAME, "4k", "!" },
    { BARRIER_QED_FUA, "4k-base", "x" },
    { BARRIER_FILE_FUA, "raw", "f" },
};

/* A mutant that lives this long is said to survive. */
#define MUTANT_SECONDS 25

static char *mutant_try(guint32 seed)
{
    static const struct suite rest = { "mutant", 2, 1, 30,
        { .per_instant = 100, .exhaustive = 6, .random = 2 },
        { .per_instant = 40, .random = 8, .instants = 30 } };
    char *story = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(hunters) && !story; i++) {
        if ((int) hunters[i].b == barrier_off) {
            story = sequence_try(image_find(hunters[i].image),
                                 hunters[i].sequence, seed, &full);
        }
    }
    for (unsigned k = 0; k < crash_n_configs && !story; k++) {
        story = try_short(&crash_configs[k], &rest, seed);
    }
    for (unsigned k = 0; k < crash_n_configs && !story; k++) {
        story = try_random(&crash_configs[k], &rest, seed);
    }
    return story;
}

static void on_alarm(int sig)
{
    _exit(0);
}

/* In a process of its own. An assertion that trips is no finding: whatever
 * trips it would, in a test without mutants. */
static bool mutant_found(int b, guint32 seed)
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        char *story;

        barrier_off = b;
        signal(SIGALRM, on_alarm);
        alarm(MUTANT_SECONDS);
        story = mutant_try(seed);
        if (story) {
            g_auto(GStrv) lines = g_strsplit(story, "\n", 2);

            printf("#   %s#   %s\n", replay, lines[0]);
        }
        fflush(stdout);
        _exit(story ? 1 : 0);
    }
    g_assert_cmpint(pid, >, 0);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static bool mutants_run(const char *name, guint32 seed)
{
    unsigned found = 0, tried = 0;

    for (int b = 0; b < BARRIER_COUNT; b++) {
        gint64 start = g_get_monotonic_time();
        bool ok;

        if (!g_str_equal(name, "all") && strcmp(name, barrier_names[b])) {
            continue;
        }
        tried++;
        ok = mutant_found(b, seed);
        found += ok;
        printf("%sok %u without %s # %.1f s\n", ok ? "" : "not ", tried,
               barrier_names[b],
               (double) (g_get_monotonic_time() - start) / 1e6);
    }
    printf("1..%u\n# %u of %u missing barriers found\n", tried, found, tried);
    return found == tried;
}

/* --- main --- */

static const struct suite *suite_find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(suites); i++) {
        if (!g_strcmp0(suites[i].name, name)) {
            return &suites[i];
        }
    }
    return NULL;
}

static char *opt_suite, *opt_image, *opt_sequence, *opt_mutate;
static gint opt_seed = 1;
static const GOptionEntry options[] = {
    { "suite", 0, 0, G_OPTION_ARG_STRING, &opt_suite, "Run a suite",
      "quick|check|soak" },
    { "image", 0, 0, G_OPTION_ARG_STRING, &opt_image, "On this image only",
      "NAME" },
    { "sequence", 0, 0, G_OPTION_ARG_STRING, &opt_sequence,
      "Try this sequence", "LETTERS" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &opt_seed, "Seed", "N" },
    { "mutate", 0, 0, G_OPTION_ARG_STRING, &opt_mutate,
      "Take a barrier out; a state must then fail", "all|NAME" },
    { NULL },
};

static bool replay_run(const struct crash_config *c)
{
    char *story = sequence_try(c, opt_sequence, (guint32) opt_seed, &full);

    printf("# %" PRIu64 " states\n", tally.distinct);
    if (story) {
        print_story(story);
    }
    return story == NULL;
}

int main(int argc, char **argv)
{
    GOptionContext *ctx = g_option_context_new("- power loss, simulated");
    g_autoptr(GError) err = NULL;
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    const struct crash_config *c;
    bool ok;

    g_option_context_add_main_entries(ctx, options, NULL);
    if (!g_option_context_parse(ctx, &argc, &argv, &err)) {
        fprintf(stderr, "crash-qed: %s\n", err->message);
        return 2;
    }
    g_option_context_free(ctx);
    signal(SIGABRT, on_abort);
    states_seen = g_hash_table_new(NULL, NULL);
    verify_outside = qemu_img != NULL;
    c = image_find(opt_image);
    if (opt_mutate) {
        ok = mutants_run(opt_mutate, (guint32) opt_seed);
    } else if (opt_sequence && c) {
        ok = replay_run(c);
    } else if (suite_find(opt_suite) && (c || !opt_image)) {
        ok = suite_run(suite_find(opt_suite), c, (guint32) opt_seed);
    } else {
        fprintf(stderr, "crash-qed: --suite, --mutate, or --image and "
                "--sequence\n");
        return 2;
    }
    g_hash_table_destroy(states_seen);
    return ok ? 0 : 1;
}
