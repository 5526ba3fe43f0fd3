/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Barriers taken out, one by one (base/barrier.h): for each, the simulator must
 * find a state that breaks a promise.
 */
#include "crash.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/barrier.h"

static int barrier_off = -1;

bool barrier_is_off(enum barrier b)
{
    return (int)b == barrier_off;
}

static const char *const barrier_names[] = {
#define X(id, text) #id,
    BARRIERS(X)
#undef X
};

bool barrier_take_out(const char *name)
{
    for (int b = 0; b < BARRIER_COUNT; b++) {
        if (!strcmp(name, barrier_names[b])) {
            barrier_off = b;
            return true;
        }
    }
    return false;
}

/* What finds the lack of a barrier quickly, for each format that has it. Where
 * it does not any more, the search goes on through all short sequences and
 * random ones on images of that format. */
static const struct hunter {
    enum barrier b;
    const char *image, *sequence;
} hunters[] = {
    { BARRIER_GROUP_WAIT, "4k", "D|D|F|D|F|U|D|F|Z|F" },
    { BARRIER_GROUP_DATA, "4k-base", "aFaFW" },
    { BARRIER_GROUP_POINTERS, "4k", "aFaFW" },
    { BARRIER_GROUP_AGE, "4k-base", "aw" },
    { BARRIER_TABLE_FIRST, "4k-base", "aFaFW" },
    { BARRIER_FILE_LENGTH, "4k", "uFrw" },
    { BARRIER_NEED_CHECK, "4k", "aFaFW" },
    { BARRIER_AUTOCLEAR, "4k-base", "^aF" },
    { BARRIER_REPAIR_ENTRIES, "4k", "@" },
    { BARRIER_REPAIR_COPIES, "4k-base", "&" },
    { BARRIER_PIVOT_DATA, "4k-base", "sa" },
    { BARRIER_PIVOT_NAME, "4k-mid", "k" },
    { BARRIER_PIVOT_HEADER, "4k-base", "sa" },
    { BARRIER_COMMIT_BASE, "4k-mid", "C" },
    { BARRIER_MIRROR_TARGET, "4k-base", "aFV" },
    { BARRIER_RESIZE_CLEAR, "4k-long", "gF" },
    { BARRIER_RESIZE_HEADER, "4k", "gF" },
    { BARRIER_EMPTY_TABLES, "4k-base", "aFh" },
    { BARRIER_CREATE_TABLES, "4k-base", "!" },
    { BARRIER_CREATE_HEADER, "4k", "!" },
    { BARRIER_CREATE_NAME, "4k", "!" },
    { BARRIER_FILE_SIZE, "file", "n" },
    { BARRIER_FILE_NAME, "file", "n" },
    { BARRIER_COW_FUA, "4k", "bFf" },
    { BARRIER_QED_DRAIN, "4k-base", "ad" },
    { BARRIER_QED_CLOSE, "4k-base", "a" },
    { BARRIER_QCOW2_TABLE_FIRST, "q4k-base", "aFaFW" },
    { BARRIER_QCOW2_REFCOUNTS, "q4k", "aFaFW" },
    { BARRIER_QCOW2_REFBLOCK, "q512", "bvaF" },
    { BARRIER_QCOW2_EMPTY_BLOCK, "q512", "bvFGabF" },
    { BARRIER_COW_FUA, "q4k", "bFf" },
    { BARRIER_QCOW2_DATA_FILE, "q4k-data", "aFaFW" },
    { BARRIER_QCOW2_DATA_FILE, "q4k-data-raw", "aF" },
    { BARRIER_QCOW2_L1_TABLE, "q512", "aFgF" },
    { BARRIER_QCOW2_RESIZE_CLEAR, "q4k-long", "gF" },
    { BARRIER_QCOW2_RESIZE_HEADER, "q4k", "gF" },
    { BARRIER_QCOW2_BITMAPS, "q4k-bitmap", "rFaw" },
    { BARRIER_BACKUP_TARGET, "q4k-bitmap", "aI" },
    { BARRIER_COW_FUA, "4k-base", "f" },
    { BARRIER_EARLY_FLUSH, "q4k-mid", "aFaFW" },
    { BARRIER_ZERO_FUA, "4k-base", "x" },
    { BARRIER_TAIL_FUA, "raw-direct", "m" },
    { BARRIER_DRIVER_FUA, "raw-throttle", "f" },
    { BARRIER_FILE_FUA, "raw", "f" },
    { BARRIER_REOPEN_FLUSH, "raw", "ao" },
    { BARRIER_GROUP_WAIT, "q4k", "D|D|F|D|F|U|D|F|Z|F" },
    { BARRIER_GROUP_DATA, "q4k-base", "aFaFW" },
    { BARRIER_GROUP_POINTERS, "q4k", "aFaFW" },
    { BARRIER_AUTOCLEAR, "q4k-base", "^aF" },
    { BARRIER_PIVOT_DATA, "q4k-base", "sa" },
    { BARRIER_PIVOT_NAME, "q4k-mid", "k" },
    { BARRIER_PIVOT_HEADER, "q4k-base", "sa" },
    { BARRIER_COMMIT_BASE, "q4k-mid", "C" },
    { BARRIER_MIRROR_TARGET, "q4k-base", "aFV" },
    { BARRIER_CREATE_TABLES, "q4k-base", "!" },
    { BARRIER_CREATE_HEADER, "q4k", "!" },
    { BARRIER_QCOW2_REPAIR, "q4k", "@" },
    { BARRIER_QCOW2_REBUILD, "q4k", "&" },
    { BARRIER_QCOW2_SETTLE, "q4k", "ad" },
    { BARRIER_QCOW2_SNAPSHOT, "q4k", "aFnaF" },
    { BARRIER_QCOW2_SNAPSHOT_HEADER, "q4k", "anubFlaF" },
    { BARRIER_QCOW2_QUARANTINE, "q4k", "aFtb" },
    { BARRIER_QCOW2_DISCARD, "q4k", "uFtFfF" },
    { BARRIER_QCOW2_ACCESS, "q4k-base", "uF~rtFFFfF" },
    { BARRIER_GROUP_WAIT, "c4k", "#D|D|F|D|F|U|D|F|Z|F" },
    { BARRIER_GROUP_POINTERS, "c4k", "aFaFW" },
    { BARRIER_OVERLAY_DATA, "c4k-base", "aFaFW" },
    { BARRIER_OVERLAY_BLOCK, "c4k-groups", "#bF" },
    { BARRIER_OVERLAY_FLUSH, "c4k", "aFaF" },
    { BARRIER_COW_FUA, "c4k", "bFf" },
    { BARRIER_OVERLAY_SETTLE, "c4k-base", "ad" },
    { BARRIER_OVERLAY_HEADER, "c4k-base", "sa" },
    { BARRIER_OVERLAY_POPULATED, "c4k-short", "#s" },
    { BARRIER_OVERLAY_CLEAR, "c4k-long", "gF" },
    { BARRIER_OVERLAY_EMPTY, "c4k-base", "aFh" },
    { BARRIER_OVERLAY_CREATE, "c4k-base", "*aF" },
    { BARRIER_FILE_RENAME, "c4k-base", "s" },
    { BARRIER_FILE_UNLINK, "c4k-base", "sa" },
    { BARRIER_CREATE_HEADER, "c4k", "!" },
    { BARRIER_CREATE_NAME, "c4k", "!" },
    { BARRIER_CHECKPOINT_BEGIN, "mirror", "JwwwwwwEN|a|b|d" },
    { BARRIER_CHECKPOINT_TAKE, "mirror", "JwwwwwwEN|a|b" },
    { BARRIER_CHECKPOINT_MARK, "mirror", "Jwwwwwwab" },
    { BARRIER_CHECKPOINT_SIDES, "mirror", "Jwwwwww" },
    { BARRIER_CHECKPOINT_SIDES, "commit", "Jwwwwww" },
    { BARRIER_CHECKPOINT_GONE, "mirror", "JwwwwwwX|a|b|d" },
    { BARRIER_JOURNAL_DATA, "journal", "12" },
    { BARRIER_JOURNAL_NAME, "journal", "12" },
};

/* A mutant that lives this long, in seconds of the processor, is said to
 * survive. */
#define MUTANT_SECONDS 25

static char *mutant_try(const struct hunter *h, guint32 seed)
{
    static const struct suite rest = {
        "mutant",
        2,
        1,
        1,
        30,
        { .per_instant = 100, .exhaustive = 6, .random = 2 },
        { .per_instant = 40, .random = 8, .instants = 30 }
    };
    const struct crash_config *c = image_find(h->image);
    char *story = NULL;

    for (guint32 i = 0; i < 8 && !story; i++) {
        story = sequence_try(c, h->sequence, seed + i, &limits_full);
    }
    for (unsigned k = 0; k < crash_n_configs && !story; k++) {
        if (crash_configs[k].format == c->format) {
            story = short_try(&crash_configs[k], &rest, seed);
        }
    }
    for (unsigned k = 0; k < crash_n_configs && !story; k++) {
        if (crash_configs[k].format == c->format) {
            story = random_try(&crash_configs[k], &rest, seed);
        }
    }
    return story;
}

static void on_time_up(int sig)
{
    _exit(0);
}

/* In a process of its own. An assertion that trips is no finding: whatever
 * trips it would, in a test without mutants. */
static bool mutant_found(const struct hunter *h, guint32 seed)
{
    const struct itimerval limit = { .it_value.tv_sec = MUTANT_SECONDS };
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        char *story;

        barrier_off = (int)h->b;
        signal(SIGPROF, on_time_up);
        setitimer(ITIMER_PROF, &limit, NULL);
        story = mutant_try(h, seed);
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

static bool has_hunter(int b)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(hunters); i++) {
        if ((int)hunters[i].b == b) {
            return true;
        }
    }
    return false;
}

bool mutants_run(const char *name, guint32 seed)
{
    bool all = g_str_equal(name, "all");
    unsigned found = 0, tried = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(hunters); i++) {
        const struct hunter *h = &hunters[i];
        gint64 start = g_get_monotonic_time();
        bool ok;

        if (!all && strcmp(name, barrier_names[h->b])) {
            continue;
        }
        tried++;
        ok = mutant_found(h, seed);
        found += ok;
        printf("%sok %u without %s, %s # %.1f s\n", ok ? "" : "not ", tried,
               barrier_names[h->b], image_find(h->image)->format->name,
               (double)(g_get_monotonic_time() - start) / 1e6);
    }
    for (int b = 0; all && b < BARRIER_COUNT; b++) {
        if (!has_hunter(b)) {
            printf("not ok %u nothing hunts %s\n", ++tried, barrier_names[b]);
        }
    }
    printf("1..%u\n# %u of %u missing barriers found\n", tried, found, tried);
    return found == tried;
}
