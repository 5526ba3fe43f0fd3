/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fault-sweep: every call of every scenario fails.
 *
 *   fault-sweep [--most N]                 all; at most N places a sweep
 *   fault-sweep --only qed-raw/stream      one scenario
 *   fault-sweep --replay 'qed-raw/stream write 7 once 5'
 *
 * Each scenario runs in a process of its own: one TAP point.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fault.h"

/* A scenario that is swept this long, in seconds of the processor, hangs. */
enum { TIMEOUT_S = 300 };

enum { SHORT = 0, QEMU_EVERY = 60, LEAKS = 3 };

static int arg_most = 24;
static char *arg_only, *arg_replay;

/* What is tried at a kind of call; errno 0: it moves a part only. */
static const struct mode {
    enum sim_op op;
    int err;
    bool sticky, lands;
} modes[] = {
    { SIM_READ, EIO, false },
    { SIM_READ, EIO, true },
    { SIM_READ, SHORT, false },
    { SIM_READ, SHORT, true },
    { SIM_WRITE, EIO, false },
    { SIM_WRITE, EIO, true },
    { SIM_WRITE, ENOSPC, false },
    { SIM_WRITE, ENOSPC, true },
    { SIM_WRITE, EDQUOT, false },
    { SIM_WRITE, EDQUOT, true },
    { SIM_WRITE, SHORT, false },
    { SIM_WRITE, SHORT, true },
    { SIM_TRUNCATE, EIO, false },
    { SIM_TRUNCATE, ENOSPC, true },
    { SIM_FALLOCATE, EIO, false },
    { SIM_FALLOCATE, ENOSPC, true },
    { SIM_FDATASYNC, EIO, false },
    { SIM_FDATASYNC, EIO, true },
    { SIM_FDATASYNC, ENOSPC, false },
    { SIM_FSYNC, EIO, false },
    { SIM_FSYNC_DIR, EIO, false },
    { SIM_OPEN, EIO, false },
    { SIM_OPEN, EMFILE, true },
    { SIM_CREATE, ENOSPC, false },
    { SIM_UNLINK, EIO, false },
    { SIM_RENAME, EIO, false },
    { SIM_OTHER, EIO, false },
    { SIM_OTHER, EIO, true },
    /* A file system over a network that gave up; a signal, which is nothing. */
    { SIM_READ, ETIMEDOUT, true },
    { SIM_WRITE, ETIMEDOUT, false },
    { SIM_FDATASYNC, ETIMEDOUT, false },
    { SIM_READ, EINTR, false },
    { SIM_WRITE, EINTR, false },
    { SIM_TRUNCATE, EINTR, false },
    { SIM_FDATASYNC, EINTR, false },
    { SIM_OPEN, EINTR, false },
    /* It took place, and nobody knows. */
    { SIM_WRITE, EIO, false, true },
    { SIM_RENAME, EIO, false, true },
    { SIM_FDATASYNC, EIO, false, true },
    { SIM_WRITE, EIO, true, true },
    /* It failed, and nobody remembers. */
    { FORGET, EIO, false },
    { MEMORY, ENOMEM, false },
    { MEMORY, ENOMEM, true },
};

static const char *op_name(enum sim_op op)
{
    return op == MEMORY ? "memory" : op == FORGET ? "forget" : sim_op_name(op);
}

static const char *way_name(const struct sim_fault *f)
{
    return f->lands    ? (f->sticky ? "landed-sticky" : "landed")
           : f->sticky ? "sticky"
                       : "once";
}

static struct sim_image *files[20];
/* Of the process of a scenario, seen by its parent. */
static struct shared {
    unsigned runs, failed, shown;
    char now[200];
} * shared;

static CO_FN void prepare_run(struct rig *r)
{
    images_co_make(r->control, r->kind);
}

static struct sim_image *files_of(const struct kind *k)
{
    struct sim_image **p = &files[k - kinds];

    if (!*p) {
        struct rig r = { .kind = k, .strict = true, .fault.op = SIM_OP_COUNT };

        rig_run(&r, prepare_run, NULL, p);
    }
    return *p;
}

static CO_FN void scenario_run(struct rig *r)
{
    r->scenario->co_run(r);
}

static void rig_init(struct rig *r, const struct kind *k,
                     const struct scenario *s)
{
    *r = (struct rig) {
        .kind = k, .scenario = s, .value = V_GUEST - 1, .fault.op = SIM_OP_COUNT
    };
    disk_set(&r->disk, k->base ? V_BASE : V_ZERO);
}

/* The other program's opinion of /top, now and then: it takes much longer than
 * the run itself. */
static void show_qemu(const struct kind *k, const struct sim_image *img)
{
    static int have_qemu = -1;
    g_autofree char *path = NULL;
    uint64_t id = sim_image_find(img, "/top"), size;
    g_autofree char *bytes = NULL, *cmd = NULL;
    int status, fd;

    if (have_qemu < 0) {
        have_qemu = system("qemu-img --version > /dev/null 2>&1") == 0;
    }
    if (!have_qemu || !id || !strcmp(k->format, "raw") ||
        !strcmp(k->format, "cow") || shared->runs % QEMU_EVERY) {
        return;
    }
    fd = g_file_open_tmp("fault-sweep-XXXXXX", &path, NULL);
    size = sim_image_size(img, id);
    bytes = g_malloc(size);
    sim_image_read(img, id, 0, bytes, size);
    g_assert(fd >= 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
    close(fd);
    cmd = g_strdup_printf(
        "qemu-img check -q 'json:{\"driver\":\"%s\","
        "\"backing\":null,%s\"file\":{\"driver\":"
        "\"file\",\"filename\":\"%s\"}}' > /dev/null",
        k->format,
        k->data_file ? "\"data-file\":{\"driver\":\"null-co\"}," : "", path);
    status = system(cmd);
    shared->shown++;
    if (!WIFEXITED(status) ||
        (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != LEAKS)) {
        printf("# FAILED: qemu-img check says %d of %s\n", WEXITSTATUS(status),
               path);
        fflush(stdout);
        _exit(1);
    }
    unlink(path);
}

/* One fault and what follows. False: it never came. */
static bool fault_try(const struct kind *k, const struct scenario *s,
                      const struct sim_fault *f)
{
    struct sim_image *left, *again;
    struct rig r;
    bool hit;

    snprintf(shared->now, sizeof(shared->now), "%s/%s %s %u %s %d", k->name,
             s->name, op_name(f->op), f->nth, way_name(f), f->err);
    rig_init(&r, k, s);
    r.fault = *f;
    rig_run(&r, scenario_run, files_of(k), &left);
    hit = r.hit;
    shared->runs += hit;
    shared->failed += r.failed > 0;
    show_qemu(k, left);
    r.fault.op = SIM_OP_COUNT;
    r.strict = true;
    rig_run(&r, rig_co_aftermath, left, &again);
    sim_image_free(left);
    if (hit) {
        rig_run(&r, scenario_run, again, &left);
        rig_run(&r, rig_co_aftermath, left, NULL);
        sim_image_free(left);
    }
    sim_image_free(again);
    return hit;
}

/* All k, or as many as are wanted: the first ones, then further and further
 * apart. */
static void mode_sweep(const struct kind *k, const struct scenario *s,
                       const struct mode *m)
{
    struct sim_fault f = { .op = m->op,
                           .err = m->err,
                           .sticky = m->sticky,
                           .lands = m->lands,
                           .short_len = m->err ? 0 : SECTOR };
    unsigned n = 0;

    for (unsigned at = 1;; at += n < (unsigned)arg_most / 2 ? 1 : 1 + n / 4) {
        f.nth = at;
        if (!fault_try(k, s, &f) || ++n == (unsigned)arg_most) {
            break;
        }
    }
}

static void scenario_sweep(const struct kind *k, const struct scenario *s)
{
    const struct itimerval limit = { .it_value.tv_sec = TIMEOUT_S };

    setitimer(ITIMER_PROF, &limit, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        mode_sweep(k, s, &modes[i]);
    }
}

static bool suits(const struct kind *k, const struct scenario *s)
{
    return (!(s->needs & NEEDS_BASE) || k->base) &&
           (!(s->needs & NEEDS_MID) || k->mid) &&
           (!(s->needs & NEEDS_FORMAT) || strcmp(k->format, "raw")) &&
           (!(s->needs & NEEDS_BITMAPS) || k->bitmaps) &&
           (!k->full_end || !strcmp(s->name, "shrink"));
}

static bool scenario_judge(const struct kind *k, const struct scenario *s,
                           unsigned point)
{
    int status = 0;
    pid_t pid;

    memset(shared, 0, sizeof(*shared));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        scenario_sweep(k, s);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    if (status) {
        printf("# fault-sweep --replay '%s'%s\n", shared->now,
               WIFSIGNALED(status) ? " ends with a signal" : "");
    }
    printf("# %u faults, %u noticed, %u shown to qemu-img\n%sok %u %s/%s\n",
           shared->runs, shared->failed, shared->shown, status ? "not " : "",
           point, k->name, s->name);
    return status == 0;
}

static const struct kind *find_kind(const char *name, size_t len)
{
    for (unsigned i = 0; i < n_kinds; i++) {
        if (strlen(kinds[i].name) == len &&
            !strncmp(kinds[i].name, name, len)) {
            return &kinds[i];
        }
    }
    return NULL;
}

static int replay(const char *text)
{
    g_auto(GStrv) word = g_strsplit(text, " ", -1);
    struct sim_fault f = { 0 };
    const struct kind *k;

    if (g_strv_length(word) != 5) {
        return 2;
    }
    k = find_kind(word[0], strcspn(word[0], "/"));
    while (f.op < SIM_OP_COUNT && strcmp(op_name(f.op), word[1])) {
        f.op++;
    }
    if (!strcmp(word[1], op_name(MEMORY))) {
        f.op = MEMORY;
    } else if (!strcmp(word[1], op_name(FORGET))) {
        f.op = FORGET;
    }
    f.nth = (unsigned)atoi(word[2]);
    f.sticky = g_str_has_suffix(word[3], "sticky");
    f.lands = g_str_has_prefix(word[3], "landed");
    f.err = atoi(word[4]);
    f.short_len = f.err ? 0 : SECTOR;
    for (unsigned i = 0; k && i < n_scenarios; i++) {
        if (g_str_has_suffix(word[0], scenarios[i].name) &&
            !strcmp(strchr(word[0], '/') + 1, scenarios[i].name)) {
            printf("%s\n",
                   fault_try(k, &scenarios[i], &f) ? "fine" : "no fault");
            return 0;
        }
    }
    return 2;
}

static int sweep_all(void)
{
    unsigned point = 0, failures = 0, runs = 0;

    for (unsigned i = 0; i < n_kinds; i++) {
        files_of(&kinds[i]);
        for (unsigned s = 0; s < n_scenarios; s++) {
            g_autofree char *name = g_strdup_printf("%s/%s", kinds[i].name,
                                                    scenarios[s].name);

            if (suits(&kinds[i], &scenarios[s]) &&
                (!arg_only || g_pattern_match_simple(arg_only, name))) {
                failures += !scenario_judge(&kinds[i], &scenarios[s], ++point);
                runs += shared->runs;
            }
        }
    }
    printf("1..%u\n# %u faults\n", point, runs);
    return failures ? 1 : 0;
}

int main(int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "most", 0, 0, G_OPTION_ARG_INT, &arg_most, "Places a sweep", "N" },
        { "only", 0, 0, G_OPTION_ARG_STRING, &arg_only, "Some", "GLOB" },
        { "replay", 0, 0, G_OPTION_ARG_STRING, &arg_replay, "One", "FAULT" },
        G_OPTION_ENTRY_NULL
    };
    GOptionContext *context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        fprintf(stderr, "fault-sweep: %s\n", err->message);
        return 2;
    }
    g_option_context_free(context);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_assert(shared != MAP_FAILED);
    return arg_replay ? replay(arg_replay) : sweep_all();
}
