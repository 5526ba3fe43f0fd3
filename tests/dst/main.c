/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dst: runs seeds, each in a process of its own.
 *
 *   dst [--first N] [--count N] [--repeat N]   TAP: one point for all of them
 *   dst --story --seed N                       one seed, told
 *
 * Some seeds are run twice and must leave the same trace.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "dst.h"

enum { TIME_LIMIT_S = 120, TWICE_EVERY = 20, MOST_FAILURES = 10 };

/* Seeds that once failed. */
static const uint64_t old_failures[] = {
    1,      301909, /* a read at the end of a growing file */
    309852,         /* the end while a query looks at files */
    142,            /* a write of a client that is gone over a newer one */
    30247,          /* a snapshot that fails while nothing can be read */
    48,             /* a stream that took the base from a snapshot */
    703046,         /* a commit of an image that is smaller than its base */
    704206, 704298, /* a commit that begins while another one ends */
    9039,           /* a job that ends while its disk is resized */
    706380,         /* a mirror that copies the same for ever */
};

static gint64 arg_seed = -1, arg_first = 1, arg_count = 50;

static void child(uint64_t seed, int fd)
{
    /* Of the processor: other work on the machine does not count. */
    const struct itimerval limit = { .it_value.tv_sec = TIME_LIMIT_S };
    uint64_t hash;

    setitimer(ITIMER_PROF, &limit, NULL);
    hash = world_run(seed);
    fflush(stdout);
    _exit(write(fd, &hash, sizeof(hash)) == sizeof(hash) ? 0 : 1);
}

/* Run @seed in a process. False: it failed, and said so. */
static bool run_seed(uint64_t seed, uint64_t *ret_hash)
{
    int fds[2], status;
    bool ok;
    pid_t pid;

    fflush(stdout);
    if (pipe(fds) < 0) {
        return false;
    }
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        child(seed, fds[1]);
    }
    close(fds[1]);
    ok = pid > 0 && read(fds[0], ret_hash, sizeof(*ret_hash)) ==
                        (ssize_t)sizeof(*ret_hash);
    close(fds[0]);
    if (pid > 0) {
        waitpid(pid, &status, 0);
        ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (WIFSIGNALED(status)) {
            printf("# seed %" PRIu64 " ends with signal %d\n"
                   "# replay: dst --story --seed %" PRIu64 "\n",
                   seed, WTERMSIG(status), seed);
        }
    }
    return ok;
}

static bool judge(uint64_t seed, bool twice)
{
    uint64_t a = 0, b = 0;

    if (!run_seed(seed, &a)) {
        printf("# seed %" PRIu64 " failed\n", seed);
        return false;
    }
    if (twice && (!run_seed(seed, &b) || a != b)) {
        printf("# seed %" PRIu64 " leaves two traces: %016" PRIx64
               " %016" PRIx64 "\n",
               seed, a, b);
        return false;
    }
    return true;
}

static unsigned run_old(void)
{
    unsigned failures = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(old_failures); i++) {
        failures += !judge(old_failures[i], true);
    }
    printf("%sok 1 seeds that once failed\n", failures ? "not " : "");
    return failures;
}

static unsigned run_many(void)
{
    unsigned failures = 0;

    for (gint64 i = 0; i < arg_count && failures < MOST_FAILURES; i++) {
        failures += !judge((uint64_t)(arg_first + i), i % TWICE_EVERY == 0);
    }
    printf("%sok 2 seeds %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT "\n",
           failures ? "not " : "", arg_first, arg_first + arg_count - 1);
    return failures;
}

int main(int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &arg_seed, "Run one seed", "N" },
        { "first", 0, 0, G_OPTION_ARG_INT64, &arg_first, "First of many", "N" },
        { "count", 0, 0, G_OPTION_ARG_INT64, &arg_count, "How many", "N" },
        { "story", 0, 0, G_OPTION_ARG_NONE, &story_loud, "Tell it", NULL },
        G_OPTION_ENTRY_NULL
    };
    GOptionContext *context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;
    unsigned failures;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        fprintf(stderr, "dst: %s\n", err->message);
        return 2;
    }
    g_option_context_free(context);
    if (arg_seed >= 0) {
        printf("trace %016" PRIx64 "\n", world_run((uint64_t)arg_seed));
        return 0;
    }
    printf("1..2\n");
    failures = run_old();
    failures += run_many();
    return failures ? 1 : 0;
}
