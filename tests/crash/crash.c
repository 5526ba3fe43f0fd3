/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash: the crash simulator's program; see doc/testing.rst.
 *
 *   crash --suite quick|check|soak        TAP, one point for each image
 *   crash --mutate all|NAME               is every barrier needed?
 *   crash --image I --sequence S [--seed N]   replay one
 *   ... --without NAME                    the same, without a barrier
 */
#include "crash.h"
#include <execinfo.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "graph/driver.h"

static const struct suite suites[] = {
    { "quick",
      2,
      23,
      1,
      1,
      { .per_instant = 20, .exhaustive = 3, .random = 1, .instants = 8 },
      { .per_instant = 12, .random = 2, .instants = 6 } },
    { "check",
      3,
      301,
      3,
      12,
      { .per_instant = 40, .exhaustive = 5, .random = 2, .instants = 20 },
      { .per_instant = 30, .random = 6, .instants = 20 } },
    { "soak",
      3,
      1,
      1,
      1500,
      { .per_instant = 4000, .exhaustive = 10, .random = 20 },
      { .per_instant = 100, .random = 20, .instants = 60 } },
};
const struct limits limits_full = { .per_instant = 600,
                                    .exhaustive = 8,
                                    .random = 10 };

static const char *alphabet(const struct crash_config *c)
{
    return c->alphabet    ? c->alphabet
           : c->far       ? c->snapshots ? "aufbvexztFrqpsScgwWdoynljXY"
                                         : "aufbvexztFrqpsScgwWdoyXY"
           : c->snapshots ? c->backing ? "aufbvexztFrqpsScgwWdoyNnljMV"
                                       : "aufbvexztFrgwWdoyNnlj"
           : c->bitmap
               ? c->backing ? "aufbvexztFrqpsScgwWdoyI" : "aufbvexztFrgwWdoyI"
           : c->mid     ? "aufbvexztFrqpsSkCcgwWdoy"
           : c->backing ? "aufbvexztFrqpsScgwWdoyMVO"
           : c->direct  ? "aufbvemxztFrgwWdoy"
                        : "aufbvexztFrgwWdoy";
}

/* What a sequence may begin with. */
struct prelude {
    bool creates;       /* '!': the creation is looked at, too */
    bool littered;      /* '#': an earlier crash has left traces */
    bool again;         /* '*': the creation of one where one was */
    bool broken, worse; /* '@', '&': the image is broken first */
    bool autoclear;     /* '^': it has a bit that nobody knows */
    bool compressed;    /* '%': some of it is compressed */
};

static const char *prelude_take(const char *sequence, struct prelude *p)
{
    *p = (struct prelude) { 0 };
    for (;; sequence++) {
        if (*sequence == '!') {
            p->creates = true;
        } else if (*sequence == '#') {
            p->littered = true;
        } else if (*sequence == '*') {
            p->creates = p->again = true;
        } else if (*sequence == '@') {
            p->broken = true;
        } else if (*sequence == '&') {
            p->broken = p->worse = true;
        } else if (*sequence == '^') {
            p->autoclear = true;
        } else if (*sequence == '%') {
            p->compressed = true;
        } else {
            return sequence;
        }
    }
}

/* --- one sequence --- */

struct one {
    const char *sequence;
    guint32 seed;
    const struct limits *limits;
    char *story;
};
char replay[600];

static void on_abort(int sig)
{
    static const char head[] = "\n# replay: ";

    void *frames[40];

    backtrace_symbols_fd(frames, backtrace(frames, G_N_ELEMENTS(frames)),
                         STDOUT_FILENO);
    if (write(STDOUT_FILENO, head, sizeof(head) - 1) < 0 ||
        write(STDOUT_FILENO, replay, strlen(replay)) < 0) {
        _exit(2);
    }
}

/* The image as the sequence finds it, and the log from then on. */
static CO_FN void one_prepare(const struct prelude *p, struct oracle *o,
                              struct sim_image **ret_start)
{
    bool guest = !world.config->co_run;

    sim_log_reset(world.sim, false);
    oracle_init(o, world.config);
    if (world.config->co_prepare) {
        world.config->co_prepare();
    }
    if (guest) {
        world_co_make_base();
        world_init(o);
    }
    if (guest && (!p->creates || p->again)) {
        world_co_make_image();
    }
    if (guest && p->again) {
        world_co_abandon();
    }
    if (p->littered) {
        world.config->format->litter(sim_live(world.sim), world.config);
    }
    if (p->broken) {
        world_co_damage(o, p->worse);
    }
    if (p->compressed) {
        world_co_compress(o);
    }
    if (p->autoclear) {
        world_set_autoclear();
    }
    *ret_start = sim_image_copy(sim_live(world.sim));
    sim_log_reset(world.sim, true);
    if (guest && p->creates) {
        world_co_make_image();
        o->created = sim_mark(world.sim, "created", 0);
        cover(COVER_CREATE);
    }
}

static CO_FN void one_run(void *arg)
{
    struct one *one = arg;
    const struct crash_config *c = world.config;
    g_autoptr(GRand) rnd = g_rand_new_with_seed(one->seed);
    struct sim_image *start;
    struct prelude prelude;
    struct history h;
    struct oracle o;
    const char *letters = prelude_take(one->sequence, &prelude);

    one_prepare(&prelude, &o, &start);
    if (c->co_run) {
        c->co_run(letters, rnd, &o);
    } else {
        world_co_run(letters, rnd, &o);
    }
    history_take(&h, world.sim, start, c);
    sim_log_reset(world.sim, false);
    one->story = g_steal_pointer(&world.bad_read);
    if (!one->story) {
        one->story = states_co_try(&h, &o, one->limits, rnd, 0);
    }
    history_done(&h);
    oracle_done(&o);
}

char *sequence_try(const struct crash_config *c, const char *sequence,
                   guint32 seed, const struct limits *limits)
{
    struct one one = { sequence, seed, limits, NULL };

    g_snprintf(replay, sizeof(replay),
               "crash --image %s --sequence '%s' "
               "--seed %u\n",
               c->name, sequence, seed);
    world_run(c, seed, one_run, &one);
    return one.story;
}

/* --- many --- */

/* Large clusters cost more and tell less. */
static bool is_large(const struct crash_config *c)
{
    return c->cluster > 4096 || c->fill > 1000;
}

/* The @i-th sequence of @len letters. */
static void sequence_nth(const char *abc, unsigned len, unsigned i, char *out)
{
    unsigned n = (unsigned)strlen(abc);

    for (unsigned k = 0; k < len; k++, i /= n) {
        out[k] = abc[i % n];
    }
    out[len] = 0;
}

/* Version 2 cannot say that it was not closed. */
static bool can_break(const struct crash_config *c)
{
    return c->format->damage && !(c->options && strstr(c->options, "0.10"));
}

/* Sequences that begin in another way than with a sound image, or that found
 * something once. */
CO_FN_LOOKS
static char *special_try(const struct crash_config *c, const struct suite *s,
                         guint32 seed)
{
    static const char *const created[] = { "!", "!aF", "!sa" };
    static const char *const found[] = { "So",   "|S|o|S|o", "r|S|o|r|o", "aFh",
                                         "ahaF", "bzFhrs",   "ppppp" };
    /* A base that goes away, at all times. */
    static const char *const away[] = {
        "XuFs",    "X|u|F|sW",  "YuFrF",       "Yr|u|v|r",      "YsFs",
        "Y|S|u|r", "YSW|s",     "XaFzFtF|v|b", "Y|D|D|D|R|R|F", "Ypppp",
        "rYvFrWs", "S|Yu|v|eF", "YnuFlF",
    };
    /* Clusters that snapshots share with the disk. */
    static const char *const shared[] = {
        "aFnaF", "naFvF",    "aFjaF",           "uFnaFjvF",
        "rjaF",  "anubFlaF", "bnznfnFlFtFlFbF", "nFD|D|FnD|T|FlD|D|F",
    };
    /* The same, prepared while the guest goes on. */
    static const char *const prepared[] = {
        "aFNnaF",
        "aFN|b|vnbF",
        "uFNa|fbnvFlaF",
        "aFNnN|u|bnN|tFnF",
        "bFN|D|F|DnN|T|D|FnD|F",
        "NnaFNdbNnFlF",
        "aFNlbF",
        "aFNoaF",
        "bNN|z|FtFnjF",
        "bNFG",
        "NgnF",
        "D|NF|D|D|FnNFD|T|ZnFlF",
    };
    /* Clusters that are freed and used again. */
    static const char *const freed[] = {
        "uF~rtFFFfF",
        "uFtFfF",
        "bF~qTFDF~RTFDF",
        "DF|T|F|D|F|T|F|D",
    };
    /* Clusters and tables behind the end of a smaller disk. */
    static const char *const shrunk[] = {
        "ubFG", "beFGaF", "uFbFGbF|e|zF", "bnFGuFlF", "bFGbFGvFW",
    };
    /* Clusters that read as zeroes, and the version that has none. */
    static const char *const amended[] = {
        "zFA", "zA",   "azFA|u|F", "xFAzF",   "bFzFA|b|z|tF",
        "AzA", "zAAF", "bzA|a|F",  "aFtFAuF", "xA|DF|Z|D|AF",
    };
    static const char *const broken[] = {
        "@",       "@y",  "@aF",    "@a|y|bF", "@dyF",  "@gF",       "^",
        "^a",      "^uF", "^gF",    "@^",      "@^fw",  "&",         "&aF",
        "&gF",     "&^y", "%",      "%aF",     "%u|vF", "%tF|aF",    "%zaF",
        "%|a|s|F", "%sF", "%ftabF", "%rx|u|F", "*",     "*aF",       "#",
        "#aF",     "#ub", "#gF",    "#te",     "#sF",   "#|S|a|z|R", "#pppp",
    };
    char *story = NULL;

    if (c->fill > 1000 && s->length < 3) {
        return NULL; /* not in a hurry */
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(created) && !story; i++) {
        const char *letters = created[i] + 1;
        bool can = !c->co_run &&
                   strspn(letters, alphabet(c)) == strlen(letters);

        story = can ? sequence_try(c, created[i], seed, &s->limits) : NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(broken) && !story; i++) {
        bool can = strchr("@&", broken[i][0]) ? can_break(c)
                   : broken[i][0] == '#'      ? c->format->litter != NULL
                   : broken[i][0] == '*'      ? c->format->abandon != NULL
                   : broken[i][0] == '%'
                       ? c->format->compress && c->cluster == 4096
                       : c->format->set_autoclear != NULL;

        can = can && !c->co_run && (c->backing || !strpbrk(broken[i], "sSp"));
        story = can ? sequence_try(c, broken[i], seed, &s->limits) : NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(freed) && !c->co_run; i++) {
        for (guint32 k = 1; k <= (s->length > 2 ? 6 : 1) && !story; k++) {
            story = sequence_try(c, freed[i], k, &s->random_limits);
        }
    }
    /* A snapshot copies all tables: of a full image too many to try. */
    for (unsigned i = 0; i < G_N_ELEMENTS(shared) && c->fill <= 1000 &&
                         c->format->drv->co_snapshot;
         i++) {
        story = story ? story
                      : sequence_try(c, shared[i], seed, &s->random_limits);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(prepared) && c->snapshots; i++) {
        for (guint32 k = 1; k <= (s->length > 2 ? 6 : 1) && !story; k++) {
            story = sequence_try(c, prepared[i], k, &s->random_limits);
        }
    }
    for (unsigned i = 0;
         i < G_N_ELEMENTS(shrunk) && c->format == &format_qcow2 &&
         c->fill <= 1000 && !story;
         i++) {
        bool can = c->snapshots || !strchr(shrunk[i], 'n');

        story = can ? sequence_try(c, shrunk[i], seed, &s->limits) : NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(amended) &&
                         c->format == &format_qcow2 && c->fill <= 1000;
         i++) {
        story = story ? story : sequence_try(c, amended[i], seed, &s->limits);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(away) && c->far; i++) {
        bool can = c->snapshots || !strchr(away[i], 'n');

        for (guint32 k = 1; can && k <= (s->length > 2 ? 12 : 2) && !story;
             k++) {
            story = sequence_try(c, away[i], k, &s->random_limits);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(found) && c->backing; i++) {
        for (guint32 k = 1; k <= (is_large(c) ? 1 : 3) && !story; k++) {
            story = sequence_try(c, found[i], k, &s->random_limits);
        }
    }
    return story;
}

/* Those that the configuration has itself, each with many writes; the soak tries
 * them again and again. */
CO_FN_LOOKS static char *given_try(const struct crash_config *c,
                                   const struct suite *s, guint32 seed)
{
    struct limits few = s->random_limits;
    unsigned rounds = MAX(s->random / 12, 1);
    char *story = NULL;

    few.instants = MIN(few.instants, rounds > 1 ? 60 : 8);
    for (unsigned i = 0; i < rounds && !story; i++) {
        for (unsigned k = 0; c->sequences[k] && !story; k++) {
            story = sequence_try(c, c->sequences[k], seed + i, &few);
        }
    }
    return story;
}

CO_FN_LOOKS
char *short_try(const struct crash_config *c, const struct suite *s,
                guint32 seed)
{
    const char *abc = alphabet(c);
    unsigned total = 1;
    char *story = c->sequences ? given_try(c, s, seed)
                               : special_try(c, s, seed);

    for (unsigned len = 1; len <= s->length && !story && !c->sequences; len++) {
        /* Those of the journal cost nothing. */
        unsigned step = c->co_run          ? 1
                        : len == s->length ? s->stride * (is_large(c) ? 16 : 1)
                        : len == 2 ? s->pairs * (c->fill > 1000 ? 32 : 1)
                                   : 1;
        /* Other ones on each image. */
        unsigned first = (seed + (unsigned)(c - crash_configs)) % step;

        total *= (unsigned)strlen(abc);
        for (unsigned i = first; i < total && !story; i += step) {
            char sequence[8];

            sequence_nth(abc, len, i, sequence);
            story = sequence_try(c, sequence, i + 1, &s->limits);
        }
    }
    return story;
}

static void sequence_random(const struct crash_config *c, GRand *rnd, char *out)
{
    const char *abc = c->far         ? "DDDUZTFFRRpScgwdoyXYY"
                      : c->mid       ? "DDDUZTFFRRpSkCcgwdoy"
                      : c->snapshots ? c->backing ? "DDDUZTFFRRpScgwdoyNNnljMV"
                                                  : "DDDUZTFFRgwdoyNNnlj"
                      : c->backing   ? "DDDUZTFFRRpScgwdoyMVO"
                                     : "DDDUZTFFRgwdoy";
    unsigned len = (unsigned)g_rand_int_range(rnd, 5, 40);
    bool shrinks = c->format == &format_qcow2;

    for (unsigned i = 0; i < len; i++) {
        unsigned k;

        if (i && g_rand_int_range(rnd, 0, 3)) {
            *out++ = '|';
        }
        k = (unsigned)g_rand_int_range(rnd, 0, (gint32)strlen(abc) + shrinks);
        *out++ = abc[k] ? abc[k] : 'G';
    }
    *out = 0;
}

CO_FN_LOOKS
char *random_try(const struct crash_config *c, const struct suite *s,
                 guint32 seed)
{
    char *story = NULL;

    unsigned n = c->co_run ? 0 : is_large(c) ? s->random / 4 : s->random;

    for (unsigned i = 0; i < n && !story; i++) {
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

/* All of one image; false when a promise was broken. */
static bool suite_run_image(const struct suite *s, const struct crash_config *c,
                            guint32 seed, unsigned number)
{
    uint64_t before = tally.distinct;
    gint64 start = g_get_monotonic_time();
    char *story = short_try(c, s, seed);
    bool ok;

    if (!story) {
        story = random_try(c, s, seed);
    }
    ok = story == NULL;
    if (story) {
        print_story(story);
    }
    g_free(story);
    printf("%sok %u %s # %" PRIu64 " states, %.1f s\n", ok ? "" : "not ",
           number, c->name, tally.distinct - before,
           (double)(g_get_monotonic_time() - start) / 1e6);
    fflush(stdout);
    return ok;
}

static void print_tally(double seconds)
{
    printf("# %" PRIu64 " states built, %" PRIu64
           " distinct and verified, %" PRIu64 " gone on with, %" PRIu64
           " crashed again, %" PRIu64 " checked and %" PRIu64
           " compared by qemu-img: %.1f s, %.0f "
           "states/s\n",
           tally.built, tally.distinct, tally.deep, tally.twice, tally.outside,
           tally.compared, seconds, (double)tally.distinct / seconds);
}

/* "qcow2", "cow", or "qed" for the rest. */
static const char *group_of(const struct crash_config *c)
{
    return c->format == &format_qcow2 ? "qcow2"
           : c->format == &format_cow ? "cow"
                                      : "qed";
}

/* @only: one image; else those of @group. */
static bool suite_run(const struct suite *s, const struct crash_config *only,
                      const char *group, guint32 seed)
{
    gint64 begun = g_get_monotonic_time();
    unsigned n = 0;
    bool ok = true;

    printf("# seed %u\n", seed);
    for (unsigned i = 0; i < crash_n_configs; i++) {
        const struct crash_config *c = &crash_configs[i];

        if (only ? c == only : g_str_equal(group_of(c), group)) {
            ok = suite_run_image(s, c, seed, ++n) && ok;
        }
    }
    print_tally((double)(g_get_monotonic_time() - begun) / 1e6);
    if (!only) {
        bool all = cover_report(group);

        printf("%sok %u every kind of operation happened\n", all ? "" : "not ",
               ++n);
        ok = ok && all;
    }
    printf("1..%u\n", n);
    return ok;
}

const struct crash_config *image_find(const char *name)
{
    for (unsigned i = 0; i < crash_n_configs; i++) {
        if (!g_strcmp0(crash_configs[i].name, name)) {
            return &crash_configs[i];
        }
    }
    return NULL;
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

static char *opt_suite, *opt_image, *opt_sequence, *opt_mutate, *opt_without,
    *opt_group;
static gint opt_seed = 1;
static const GOptionEntry options[] = {
    { "suite", 0, 0, G_OPTION_ARG_STRING, &opt_suite, "Run a suite",
      "quick|check|soak" },
    { "group", 0, 0, G_OPTION_ARG_STRING, &opt_group,
      "On images of this kind: qed (and all others), qcow2, cow", "KIND" },
    { "image", 0, 0, G_OPTION_ARG_STRING, &opt_image, "On this image only",
      "NAME" },
    { "sequence", 0, 0, G_OPTION_ARG_STRING, &opt_sequence, "Try this sequence",
      "LETTERS" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &opt_seed, "Seed", "N" },
    { "mutate", 0, 0, G_OPTION_ARG_STRING, &opt_mutate,
      "Take a barrier out; a state must then fail", "all|NAME" },
    { "without", 0, 0, G_OPTION_ARG_STRING, &opt_without,
      "Run without this barrier", "NAME" },
    { NULL },
};

/* Thoroughly, then just as the suites do it. */
static bool replay_run(const struct crash_config *c)
{
    guint32 seed = (guint32)opt_seed;
    char *story = sequence_try(c, opt_sequence, seed, &limits_full);

    for (unsigned i = 0; i + 1 < G_N_ELEMENTS(suites) && !story; i++) {
        const struct suite *s = &suites[i];

        story = sequence_try(c, opt_sequence, seed, &s->limits);
        if (!story) {
            story = sequence_try(c, opt_sequence, seed, &s->random_limits);
        }
    }
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
        fprintf(stderr, "crash: %s\n", err->message);
        return 2;
    }
    g_option_context_free(ctx);
    signal(SIGABRT, on_abort);
    states_seen = g_hash_table_new(NULL, NULL);
    verify_outside = qemu_img != NULL;
    c = image_find(opt_image);
    if (opt_without && !barrier_take_out(opt_without)) {
        fprintf(stderr, "crash: no barrier '%s'\n", opt_without);
        return 2;
    }
    if (opt_mutate) {
        ok = mutants_run(opt_mutate, (guint32)opt_seed);
    } else if (opt_sequence && c) {
        ok = replay_run(c);
    } else if (suite_find(opt_suite) && (c || !opt_image)) {
        ok = suite_run(suite_find(opt_suite), c, opt_group ? opt_group : "qed",
                       (guint32)opt_seed);
    } else {
        fprintf(stderr, "crash: --suite, --mutate, or --image and "
                        "--sequence\n");
        return 2;
    }
    g_hash_table_destroy(states_seen);
    return ok ? 0 : 1;
}
