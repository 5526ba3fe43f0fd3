/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that go on after a crash (L4, L5): a mirror of "/source" to "/target", or
 * a commit of "/mid" into "/base", with a checkpoint, beside a guest.
 *
 * Letters: J starts the job, B a mirror that writes to both sides at once; w
 * waits for the checkpoint to be kept; a to d and z are changes by the guest; X
 * cancels the job, K completes it, E is the end of the daemon and N a new one,
 * which goes on with the job.  '|' before a letter: beside the one before.
 *
 * In every state in which the job would go on, what the checkpoint says need not
 * be copied is the same on both sides; and the job ends with what is right.
 */
#include "crash.h"
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/commit/commit.h"
#include "job/copy/checkpoint.h"
#include "job/mirror/mirror.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

#define PATH "/state/j.checkpoint"
#define MIB (UINT64_C(1) << 20)
#define CHUNK 4096u
/* At the start there is data at each half MiB. */
#define FILLED (UINT64_C(32) << 10)
/* So slow that the checkpoint is kept on the way. */
#define SPEED (UINT64_C(64) << 10)
/* One state in so many goes on with the job. */
#define EVERY_RESUMED 8

/* What a job works on; both are closed together. */
struct disk {
    struct node *top;   /* what the guest uses */
    struct node *above; /* what is copied ... */
    struct node *below; /* ... to what */
};

struct play {
    struct oracle *o;
    struct disk disk;
    struct backend *guest; /* NULL: no daemon runs */
    uint64_t last_id;
    struct co_latch running;
    GRand *rnd;
    bool entered;  /* the journal has the job ... */
    bool switched; /* ... and says that the target is the disk */
};
static struct play play;

static bool is_commit(void)
{
    return world.config->mid;
}

/* --- images --- */

static json_t *raw_options(const char *path)
{
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:s}}", "driver", "raw",
                     "discard", "unmap", "file", "driver", "file", "filename",
                     path, "locking", "off", "discard", "unmap");
}

static json_t *qed_options(const char *path, json_t *backing)
{
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:o*}", "driver", "qed", "file",
                     "driver", "file", "filename", path, "locking", "off",
                     "backing", backing);
}

static struct node *node_co_get(json_t *options, unsigned flags)
{
    g_autoptr(GError) err = NULL;
    struct node *n;

    if (node_co_open(world.graph, options, flags, &n, &err) < 0) {
        g_error("open: %s", err->message);
    }
    json_decref(options);
    return n;
}

static CO_FN void disk_co_open(struct disk *d, unsigned flags)
{
    if (is_commit()) {
        d->top = node_co_get(qed_options("/top", NULL), flags);
        d->above = node_ref(node_skip_filters(node_backing(d->top)));
        d->below = node_backing(d->above)
                       ? node_ref(node_skip_filters(node_backing(d->above)))
                       : NULL;
    } else {
        d->above = node_co_get(raw_options("/source"), flags);
        d->top = node_ref(d->above);
        d->below = node_co_get(world.config->base_format
                                   ? qed_options("/target", NULL)
                                   : raw_options("/target"),
                               flags);
    }
}

static CO_FN void disk_co_close(struct disk *d)
{
    node_co_unref(d->top);
    node_co_unref(d->above);
    if (d->below) {
        node_co_unref(d->below);
    }
    *d = (struct disk) { 0 };
}

static CO_FN int chunk_co_put(struct node *n, uint64_t off, uint64_t id)
{
    uint8_t buf[CHUNK];
    struct iovec v;

    for (unsigned i = 0; i < CHUNK / GRAIN; i++) {
        stamp_put(buf + i * GRAIN, id, off / GRAIN + i);
    }
    return node_co_pwritev(n, off, iov_one(&v, buf, CHUNK), 0);
}

static CO_FN void image_co_make(const char *path, const char *format,
                                const char *backing, uint64_t id)
{
    const struct crash_config *c = world.config;
    bool qed = g_str_equal(format, "qed");
    const struct node_driver *drv = qed ? &qed_driver : &raw_driver;
    g_autoptr(GError) err = NULL;
    json_t *o = json_pack("{s:I, s:s*, s:s*}", "size", (json_int_t)c->size,
                          "backing_file", backing, "backing_fmt",
                          !backing                        ? NULL
                          : g_str_equal(backing, "/base") ? "raw"
                                                          : "qed");
    struct node *n;

    if (qed) {
        json_object_set_new(o, "cluster_size", json_integer(c->cluster));
    }
    if (image_co_create(world.graph, drv, path, o, &err) < 0) {
        g_error("create: %s", err->message);
    }
    json_decref(o);
    n = node_co_get(qed ? qed_options(path, backing ? json_null() : NULL)
                        : raw_options(path),
                    NODE_RDWR);
    /* On each side something else. */
    for (uint64_t off = 0; id && off + CHUNK <= c->size; off += CHUNK) {
        if (off % (MIB / 2) < FILLED) {
            g_assert(chunk_co_put(n, off, id) == 0);
        }
    }
    node_co_unref(n);
}

void checkpoint_co_prepare(void)
{
    if (is_commit()) {
        image_co_make("/base", "raw", NULL, ID_BASE_FILE);
        image_co_make("/mid", "qed", "/base", ID_MID);
        image_co_make("/top", "qed", "/mid", 0);
    } else {
        image_co_make("/source", "raw", NULL, ID_BASE_FILE);
        image_co_make("/target", world.config->base_format ? "qed" : "raw",
                      NULL, ID_LITTER);
    }
}

/* --- the daemon --- */

static struct op *op_begin(enum op_kind kind)
{
    struct op *op = oracle_add(play.o, &(struct op) { .kind = kind });

    op->begun = sim_mark(world.sim, "begin", play.o->n_ops);
    return op;
}

static CO_FN void op_co_note(enum op_kind kind)
{
    struct op *op = op_begin(kind);

    co_sleep(5000000); /* the journal is written */
    op->ended = sim_mark(world.sim, "end", play.o->n_ops);
}

/* The journal forgets it, unless the next daemon goes on. */
static CO_FN void on_settle(struct job *j, bool by_shutdown, void *arg)
{
    if (!by_shutdown) {
        op_co_note(OP_ERASE);
        play.entered = false;
    }
}

static CO_FN int on_switching(struct job *j, GError **err, void *arg)
{
    op_co_note(OP_MOVE);
    play.switched = true;
    return 0;
}

static void on_event(const char *name, json_t *data, void *arg)
{
}

static CO_FN void daemon_co_begin(void)
{
    const struct job_settle settle = { on_settle, on_switching, NULL };

    jobs_set_settle(world.jobs, &settle);
    disk_co_open(&play.disk, NODE_RDWR);
    g_assert(backend_co_new(play.disk.top, "guest",
                            PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL, NULL,
                            NULL, &play.guest, NULL) == 0);
}

/* Guests first. */
static CO_FN void daemon_co_end(void)
{
    co_latch_co_wait(&play.running);
    if (play.guest) {
        backend_co_free(g_steal_pointer(&play.guest));
        jobs_co_cancel_all(world.jobs);
        disk_co_close(&play.disk);
        jobs_free(world.jobs);
        world.jobs = jobs_new(world.loop, on_event, NULL);
    }
}

static CO_FN int job_co_begin(const struct disk *d, bool blocking, bool resumed)
{
    const struct job_params job = { .id = "j",
                                    .speed = SPEED,
                                    .auto_finalize = true,
                                    .auto_dismiss = true,
                                    .checkpoint = PATH,
                                    .resumed = resumed };
    const struct commit_params commit = {
        .job = job, .node = d->top, .top = d->above, .base = d->below
    };
    const struct mirror_params mirror = { .job = job,
                                          .node = d->above,
                                          .target = d->below,
                                          .write_blocking = blocking,
                                          .unmap = true };
    struct job *j;

    return is_commit() ? commit_co_start(world.jobs, &commit, &j, NULL)
                       : mirror_co_start(world.jobs, &mirror, &j, NULL);
}

/* A commit that has ended took "/mid" out of the chain. */
static bool disk_has_work(const struct disk *d)
{
    return d->below &&
           (!is_commit() || node_overlay_of(d->top, d->above) != NULL);
}

static CO_FN void job_co_start(bool blocking, bool resumed)
{
    if (disk_has_work(&play.disk) && play.entered == resumed &&
        !play.switched && !jobs_find(world.jobs, "j")) {
        if (!resumed) {
            op_co_note(OP_RECORD);
            play.entered = true;
        }
        if (job_co_begin(&play.disk, blocking, resumed) < 0) {
            op_co_note(OP_ERASE); /* it is over */
            play.entered = false;
        } else if (resumed) {
            cover(COVER_RESUME);
        }
    }
}

/* --- letters --- */

static CO_FN void guest_co_change(char letter)
{
    uint64_t size = node_size(play.disk.top);
    static const uint64_t places[] = { 16 * CHUNK, 20 * CHUNK, MIB - CHUNK / 2,
                                       2 * MIB + 3 * CHUNK };
    uint8_t buf[CHUNK];
    struct iovec v;
    uint64_t off = letter == 'z' ? MIB : places[letter - 'a'];
    uint64_t id = ++play.last_id;

    g_assert(off + CHUNK <= size);
    for (unsigned i = 0; i < CHUNK / GRAIN; i++) {
        stamp_put(buf + i * GRAIN, id, off / GRAIN + i);
    }
    if (letter == 'z') {
        (void)backend_co_zero(play.guest, off, MIB, IO_MAY_UNMAP);
    } else {
        (void)backend_co_pwritev(play.guest, off, iov_one(&v, buf, CHUNK), 0);
    }
}

static CO_FN void job_co_cancel(void)
{
    struct job *j = jobs_find(world.jobs, "j");

    if (j && job_user_cancel(j, true, NULL) == 0) {
        job_co_wait_concluded(j);
        cover(COVER_RESUME_CANCEL);
    }
}

static CO_FN void job_co_finish(void)
{
    struct job *j = jobs_find(world.jobs, "j");

    while ((j = jobs_find(world.jobs, "j")) && j->state != JOB_READY) {
        co_sleep(100000000);
    }
    if (j && job_user_co_complete(j, NULL) == 0) {
        job_co_wait_concluded(j);
    }
}

static CO_FN void letter_co_do(char letter)
{
    struct op *op = op_begin(strchr("abcdz", letter) ? OP_WRITE : OP_WAIT);

    op->first = (uint64_t)letter; /* for the story */
    if (letter == 'w') {
        co_sleep(UINT64_C(1300000000));
    } else if (play.guest) {
        switch (letter) {
        case 'J':
        case 'B': job_co_start(letter == 'B', false); break;
        case 'N': job_co_start(false, true); break;
        case 'X': job_co_cancel(); break;
        case 'K': job_co_finish(); break;
        default: guest_co_change(letter); break;
        }
    }
    op->ended = sim_mark(world.sim, "end", play.o->n_ops);
}

struct task {
    char letter;
    uint64_t delay_ns;
};

static CO_FN void letter_entry(void *arg)
{
    struct task *t = arg;

    if (t->delay_ns) {
        co_sleep(t->delay_ns);
    }
    letter_co_do(t->letter);
    g_free(t);
    co_latch_done(&play.running);
}

/* What happens beside something happens with it, or at some time during it. */
static void letter_start(char letter, bool beside)
{
    struct task *t = g_new0(struct task, 1);

    t->letter = letter;
    if (beside && g_rand_boolean(play.rnd)) {
        t->delay_ns = 1000 * (uint64_t)g_rand_int_range(play.rnd, 1, 8000);
    }
    co_latch_add(&play.running);
    co_start(world.loop, letter_entry, t);
}

static CO_FN void letter_co_begin(char letter, bool beside)
{
    if (!beside || strchr("EN", letter)) {
        co_latch_co_wait(&play.running);
    }
    if (letter == 'E' || (letter == 'N' && play.guest)) {
        daemon_co_end();
    }
    if (letter == 'N' && !play.switched) {
        checkpoint_co_take(PATH);
        daemon_co_begin();
    }
    if (letter != 'E') {
        letter_start(letter, beside);
    }
}

CO_FN void checkpoint_co_play(const char *sequence, GRand *rnd,
                              struct oracle *o)
{
    play = (struct play) { .o = o, .rnd = rnd, .last_id = ID_RECOVERY };
    daemon_co_begin();
    for (const char *p = sequence; *p; p++) {
        bool beside = *p == '|';

        p += beside;
        letter_co_begin(*p, beside);
    }
    daemon_co_end();
    oracle_index(o);
}

const char *const checkpoint_mirrors[] = {
    "Jwwwwww|a|b",   "Jwwwwwwab",       "Jwwww|c|a|bwEN|a|bwX|a|b|d",
    "JwwwwwwX|a|b",  "JwabwwwzEN|cwwK", "BwwwwwawzcE",
    "JwwwwK|a|b|cd", "JwENwENwwEN|a",   NULL,
};
const char *const checkpoint_commits[] = {
    "Jwwwwwww",
    "Jww|aENwwENwww",
    "JwwwX|aJwwENww",
    NULL,
};

/* --- after a crash --- */

/* Has the journal the job, and is it to go on? */
static bool job_goes_on(const struct oracle *o)
{
    bool entered = false;

    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *op = &o->ops[i];
        bool begun = op->begun && op->begun <= o->at;
        bool ended = op->ended && op->ended <= o->at;

        entered = (entered || (op->kind == OP_RECORD && begun)) &&
                  !(op->kind == OP_ERASE && ended) &&
                  !(op->kind == OP_MOVE && ended);
    }
    return entered;
}

static CO_FN char *range_co_compare(const struct disk *d, uint64_t off,
                                    uint64_t len)
{
    g_autofree uint8_t *a = g_malloc(len), *b = g_malloc(len);
    struct iovec v;

    g_assert(node_co_preadv(d->above, off, iov_one(&v, a, len), 0) == 0);
    g_assert(node_co_preadv(d->below, off, iov_one(&v, b, len), 0) == 0);
    for (uint64_t i = 0; i < len; i += SECTOR) {
        if (memcmp(a + i, b + i, SECTOR) != 0) {
            return g_strdup_printf("sector %" G_GUINT64_FORMAT
                                   " is not the same on both sides (L4)",
                                   (off + i) / SECTOR);
        }
    }
    return NULL;
}

static CO_FN char *checkpoint_co_compare(const struct disk *d)
{
    uint64_t size = node_size(d->above), len;
    struct node *images[] = { d->above, d->below };
    struct checkpoint *cp;
    char *bad = NULL;

    if (checkpoint_co_open(PATH, size, images, 2, true, &cp, NULL) < 0) {
        return g_strdup("the checkpoint cannot be opened");
    }
    for (uint64_t off = 0; off < size && !bad; off += len) {
        if (!checkpoint_run(cp, off, MIB, &len)) {
            cover(COVER_CHECKPOINT);
            bad = range_co_compare(d, off, len);
        }
    }
    checkpoint_co_close(cp);
    return bad;
}

static CO_FN void disk_co_read(const struct disk *d, uint8_t *buf)
{
    struct iovec v;

    g_assert(
        node_co_preadv(d->top, 0, iov_one(&v, buf, node_size(d->top)), 0) == 0);
}

/* The next daemon: the target is a copy in the end; of a commit, the disk is what
 * it was. */
static CO_FN char *job_co_go_on(const struct disk *d)
{
    uint64_t size = node_size(d->top);
    g_autofree uint8_t *before = g_malloc(size), *after = g_malloc(size);
    struct job *j;
    char *bad = NULL;

    disk_co_read(d, before);
    if (job_co_begin(d, false, true) < 0) {
        return g_strdup("the job does not go on");
    }
    j = jobs_find(world.jobs, "j");
    (void)job_user_set_speed(j, 0, NULL);
    while ((j = jobs_find(world.jobs, "j")) && j->state != JOB_READY) {
        co_sleep(100000000);
    }
    if (j) {
        job_user_cancel(j, false, NULL);
        job_co_wait_concluded(j);
    }
    if (!is_commit()) {
        bad = range_co_compare(d, 0, size);
    }
    disk_co_read(d, after);
    return bad                           ? bad
           : memcmp(before, after, size) ? g_strdup("the disk has changed")
                                         : NULL;
}

CO_FN char *checkpoint_co_verify(struct state *st)
{
    struct disk d;
    char *bad = NULL;

    if (!job_goes_on(st->o)) {
        return NULL;
    }
    checkpoint_co_take(PATH);
    disk_co_open(&d, NODE_RDWR);
    if (d.below) { /* else the commit is over */
        bad = checkpoint_co_compare(&d);
    }
    disk_co_close(&d);
    if (!bad && st->hash % EVERY_RESUMED == 0) {
        disk_co_open(&d, NODE_RDWR);
        bad = d.below ? job_co_go_on(&d) : NULL;
        disk_co_close(&d);
    }
    return bad;
}
