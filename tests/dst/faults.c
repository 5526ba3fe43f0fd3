/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storage that fails, falls short, is slow or hangs for seconds. */
#include <errno.h>
#include <string.h>
#include "dst.h"

enum { BURST = 6, MOST_FAULTS = 60, MOST_HANGS = 6 };

struct trouble {
    enum sim_op op;
    const char *path; /* NULL: the base, whatever its name */
    int err;
    bool is_short, hangs;
};
static const struct trouble troubles[F_KINDS] = {
    [F_BASE_READ] = { SIM_READ, "/base.img", EIO },
    [F_BASE_HANG] = { SIM_READ, "/base.img", .hangs = true },
    [F_BASE_SLOW] = { SIM_READ, "/base.img" },
    [F_TOP_READ] = { SIM_READ, "/top.img", EIO },
    [F_TOP_WRITE] = { SIM_WRITE, "/top.img", EIO },
    [F_TOP_NOSPACE] = { SIM_WRITE, "/top.img", ENOSPC },
    [F_TOP_SYNC] = { SIM_FDATASYNC, "/top.img", EIO },
    [F_COPY_WRITE] = { SIM_WRITE, NULL, EIO },
    [F_COPY_NOSPACE] = { SIM_WRITE, NULL, ENOSPC },
    [F_COPY_SLOW] = { SIM_WRITE, NULL, .hangs = true },
    [F_SHORT] = { SIM_WRITE, "/top.img", .is_short = true },
};

/* A cow overlay has two files; the data file is opened by this name, and keeps
 * its faults when it gets another one. */
static const char *top_file(struct world *w)
{
    return w->cfg.format[L_TOP] != IMG_COW ? "/top.img"
           : rng_percent(&w->rng, 50)      ? "/top.img.cow"
                                           : "/top.img.partial";
}

static void inject(struct world *w, enum fault_kind kind)
{
    static const char *const copies[] = { "/copy0.img", "/copy1.img",
                                          "/copy2.img", "/copy3.img" };
    const struct trouble *t = &troubles[kind];
    struct sim_fault f = { .op = t->op,
                           .path = t->path,
                           .err = t->err,
                           .nth = 1 + rng_below(&w->rng, BURST) };

    if (f.path && g_str_equal(f.path, "/top.img")) {
        f.path = top_file(w);
    }
    if (kind >= F_COPY_WRITE) {
        f.path = copies[rng_below(&w->rng, G_N_ELEMENTS(copies))];
    }
    if (t->hangs) {
        f.delay_ns = (1 + rng_below(&w->rng, 5)) * SEC;
    } else if (t->is_short) {
        f.op = rng_percent(&w->rng, 50) ? SIM_WRITE : SIM_READ;
        f.short_len = SECTOR * (1 + rng_below(&w->rng, 8));
    }
    sim_inject(w->sim, &f);
    story(w, "fault: %s of %s %s", sim_op_name(f.op), f.path,
          f.err      ? g_strerror(f.err)
          : t->hangs ? "hangs"
                     : "is short");
}

static CO_FN void faults_entry(void *arg)
{
    struct world *w = arg;
    enum fault_kind kinds[F_KINDS];
    unsigned n = 0;

    for (int i = 0; i < F_KINDS; i++) {
        /* A part of a sector may be torn by a short transfer (A1). */
        if (w->cfg.fault[i] && i != F_BASE_SLOW &&
            !(i == F_SHORT && w->cfg.unaligned)) {
            kinds[n++] = i;
        }
    }
    for (unsigned i = 0, hangs = 0; n && i < MOST_FAULTS && w->phase == 1;
         i++) {
        enum fault_kind kind = kinds[rng_below(&w->rng, n)];

        co_sleep(1 + rng_below(&w->rng, w->cfg.fault_gap_ms * MS));
        if (w->trouble_ends || (troubles[kind].hangs && hangs++ > MOST_HANGS)) {
            continue;
        }
        inject(w, kind);
    }
    co_latch_done(&w->trouble);
}

void faults_start(struct world *w)
{
    struct sim_fault slow = { .op = SIM_READ,
                              .path = "/base.img",
                              .nth = 1,
                              .sticky = true,
                              .delay_ns = 20 * MS };

    if (w->cfg.fault[F_BASE_SLOW]) {
        sim_inject(w->sim, &slow);
    }
    co_latch_add(&w->trouble);
    co_start(w->loop, faults_entry, w);
}

void faults_co_stop(struct world *w)
{
    uint64_t instant = sim_instant(w->sim);

    w->trouble_ends = true;
    sim_faults_clear(w->sim);
    while (sim_is_pending(w->sim, instant)) {
        co_sleep(MS);
    }
}

/* Is @path that of the disk, or was it? */
static bool is_of_disk(struct world *w, const char *path)
{
    return (path && g_str_has_prefix(path, "/top.img")) ||
           (copies_moved(w) && path && g_str_has_prefix(path, "/copy"));
}

bool faults_hit_top(struct world *w)
{
    size_t n;
    const struct sim_record *const *log = sim_log(w->sim, &n);

    for (size_t i = 0; i < n; i++) {
        if (log[i]->completed && log[i]->result < 0 &&
            log[i]->result != -ENOTSUP && is_of_disk(w, log[i]->path) &&
            log[i]->op != SIM_OPEN) {
            return true;
        }
    }
    return false;
}
