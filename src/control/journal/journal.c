/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal's table is the JSON that is written: an object by job id, each
 * {command, arguments}.  `state` stands beside it and is not written: what is
 * read from the file is waiting, what is recorded now is active.
 *
 * One start of an id is under way at a time (journal_co_begin_start()), be it a
 * command's or our own.  A command whose id waits to be resumed replaces the
 * entry only once its job has started: one that is refused, or that a power cut
 * ends before it was answered, leaves the entry as it was.
 *
 * All of it is touched on the data loop of the daemon alone.  Jobs and commands of
 * iothreads cross over to it (struct crossing) and wait.
 */
#include "control/journal/journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "base/names.h"
#include "base/text.h"
#include "control/control-int.h"
#include "job/copy/checkpoint.h"
#include "job/job.h"
#include "loop/io.h"

enum {
    JOURNAL_SIZE_MAX = 16 << 20,
    JOURNAL_VERSION = 1,
    LOCK_TRIES = 20,
    LOCK_PAUSE_NS = 50000000,
};

struct journal {
    struct control *c;
    CO_FN_PTR journal_co_restart_fn *co_restart;
    char *dir, *path, *tmp;
    struct io_file *lock;
    struct co_mutex writing;
    json_t *entries;      /* id -> {command, arguments} */
    GHashTable *waiting;  /* ids */
    GHashTable *starting; /* id -> struct journal_start, borrowed */
    struct co_queue start_ended;
    bool resuming;      /* start-up is over */
    uint64_t n_retries; /* calls of journal_co_retry() */
};

/* --- crossing over --- */

/* Whoever crosses waits, so what is pointed to may be his. */
struct crossing {
    struct journal *j;
    const char *id, *command;
    const json_t *args;
    struct journal_start *start;
    GError **err;
    bool flag;
    int result;
};

static CO_FN int journal_co_cross(struct crossing *x, void (*co_fn)(void *arg))
{
    control_co_cross(x->j->c, co_fn, x);
    return x->result;
}

/* --- messages --- */

static void complain(const GError *err)
{
    g_autofree char *msg = err_dup_message(err);
    const char *hint = err_get_hint(err);

    fprintf(stderr, "sluiced: %s\n", msg);
    if (hint) {
        fprintf(stderr, "%s\n", hint);
    }
}

static void complain_of_job(const char *id, const char *what, const GError *err)
{
    GError *told = g_error_copy(err);

    err_prefix(&told, "job '%s' of the journal %s", id, what);
    complain(told);
    g_error_free(told);
}

/* --- the file --- */

/* Always a new file: what lies at @path may be a link that somebody planted. */
static CO_FN int write_co_all(const char *path, char *text, GError **err)
{
    struct iovec store;
    struct io_file *f;
    int r = io_co_unlink(path);

    if (r == 0 || r == -ENOENT) {
        r = io_co_open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600,
                       &f);
    }
    if (r == 0) {
        r = io_co_pwritev(f, 0, iov_one(&store, text, strlen(text)),
                          IO_TAG_JOURNAL);
        if (r == 0) {
            r = BARRIER(JOURNAL_DATA, io_co_fsync(f));
        }
        io_co_close(f);
    }
    return r < 0 ? err_set_errno(err, -r, "Could not write '%s'", path) : 0;
}

static CO_FN int journal_co_write(struct journal *j, GError **err)
{
    json_t *all;
    char *text;
    int r;

    co_mutex_co_lock(&j->writing);
    all = json_pack("{s:i,s:O}", "version", JOURNAL_VERSION, "jobs",
                    j->entries);
    text = json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    r = write_co_all(j->tmp, text, err);
    free(text);
    if (r == 0) {
        r = io_co_rename(j->tmp, j->path);
        if (r == 0) {
            r = BARRIER(JOURNAL_NAME, io_co_fsync_parent(j->path));
        }
        if (r < 0) {
            err_set_errno(err, -r, "Could not replace '%s'", j->path);
        }
    }
    co_mutex_unlock(&j->writing);
    return r;
}

static int entry_check(const json_t *entry, GError **err)
{
    const char *name = arg_str(entry, "command");
    const struct schema_command *command = name ? schema_find_command(name)
                                                : NULL;

    return command ? schema_check(command->args,
                                  json_object_get(entry, "arguments"), err)
                   : err_set(err, EINVAL, "its command is not known");
}

static int journal_parse(struct journal *j, const char *text, size_t len,
                         GError **err)
{
    json_error_t je;
    json_t *all = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    json_t *jobs = json_object_get(all, "jobs");
    const char *id;
    json_t *entry;
    int r = 0;

    if (!all || !json_is_object(jobs) ||
        json_integer_value(json_object_get(all, "version")) !=
            JOURNAL_VERSION) {
        r = err_set(err, EINVAL, "Journal '%s' cannot be read: %s", j->path,
                    all ? "not of this version" : je.text);
        err_hint(err, "Move it away to start without the jobs it holds.");
        json_decref(all);
        return r;
    }
    json_object_foreach(jobs, id, entry) {
        g_autoptr(GError) bad = NULL;

        if (entry_check(entry, &bad) < 0) {
            complain_of_job(id, "is skipped", bad);
        } else {
            json_object_set(j->entries, id, entry);
            g_hash_table_add(j->waiting, g_strdup(id));
        }
    }
    json_decref(all);
    return 0;
}

static CO_FN int journal_co_read(struct journal *j, GError **err)
{
    g_autofree char *text = NULL;
    struct iovec store;
    struct io_file *f;
    uint64_t size = 0;
    int r = io_co_open(j->path, O_RDONLY | O_NOFOLLOW, 0, &f);

    if (r == -ENOENT) {
        return 0;
    }
    if (r < 0) {
        return err_set_errno(err, -r, "Could not open '%s'", j->path);
    }
    r = io_co_size(f, &size);
    if (r == 0 && size > JOURNAL_SIZE_MAX) {
        r = -EFBIG;
    }
    if (r == 0) {
        text = g_malloc(size + 1);
        r = io_co_preadv(f, 0, iov_one(&store, text, size));
    }
    io_co_close(f);
    if (r < 0) {
        return err_set_errno(err, -r, "Could not read '%s'", j->path);
    }
    return journal_parse(j, text, size, err);
}

/* --- life --- */

static void journal_free(struct journal *j)
{
    json_decref(j->entries);
    g_hash_table_destroy(j->waiting);
    g_hash_table_destroy(j->starting);
    g_free(j->dir);
    g_free(j->path);
    g_free(j->tmp);
    g_free(j);
}

char *journal_checkpoint(const struct journal *j, const char *id)
{
    return j && text_is_id(id) ? g_strdup_printf("%s/%s.checkpoint", j->dir, id)
                               : NULL;
}

static CO_FN void switching_entry(void *arg)
{
    struct crossing *x = arg;
    json_t *entry = json_object_get(x->j->entries, x->id);

    if (entry) {
        json_object_set_new(entry, "switched", json_true());
        x->result = journal_co_write(x->j, x->err);
    }
}

/* Before guests go on on another image. */
static CO_FN int journal_co_switching(struct job *job, GError **err, void *arg)
{
    struct crossing x = { .j = arg, .id = job->id, .err = err };

    return journal_co_cross(&x, switching_entry);
}

static CO_FN void settle_entry(void *arg)
{
    struct crossing *x = arg;
    struct journal_start *s = g_hash_table_lookup(x->j->starting, x->id);

    if (s) {
        s->settled = true;
    }
    if (!x->flag) {
        journal_co_erase(x->j, x->id);
    }
}

/* A job has ended, live and durable; the event comes after this. */
static CO_FN void journal_co_settle(struct job *job, bool by_shutdown,
                                    void *arg)
{
    struct crossing x = { .j = arg, .id = job->id, .flag = by_shutdown };

    journal_co_cross(&x, settle_entry);
}

void journal_attach(struct journal *j, struct jobs *jobs)
{
    struct job_settle settle = { journal_co_settle, journal_co_switching, j };

    if (j) {
        jobs_set_settle(jobs, &settle);
    }
}

/* No guest is there yet. */
static CO_FN void journal_co_take_checkpoints(const struct journal *j)
{
    json_t *entry;
    const char *id;

    json_object_foreach(j->entries, id, entry) {
        g_autofree char *path = journal_checkpoint(j, id);

        if (path) {
            checkpoint_co_take(path);
        }
    }
}

int journal_co_open(struct control *c, const char *dir,
                    journal_co_restart_fn *co_restart,
                    struct journal **ret_journal, GError **err)
{
    struct journal *j = g_new0(struct journal, 1);
    g_autofree char *lock = g_build_filename(dir, "lock", NULL);
    int r;

    j->c = c;
    j->co_restart = co_restart;
    j->dir = g_strdup(dir);
    j->path = g_build_filename(dir, "jobs.json", NULL);
    j->tmp = g_build_filename(dir, "jobs.json.tmp", NULL);
    j->entries = json_object();
    j->waiting = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    j->starting = g_hash_table_new(g_str_hash, g_str_equal);
    r = io_co_open(lock, O_RDWR | O_CREAT | O_NOFOLLOW, 0600, &j->lock);
    if (r < 0) {
        err_set_errno(err, -r, "Could not use state directory '%s'", dir);
        goto fail;
    }
    r = io_co_lock(j->lock, 0, 1, IO_LOCK_EXCLUSIVE);
    for (unsigned i = 0; r == -EAGAIN && i < LOCK_TRIES; i++) {
        /* The kernel may still be clearing up after a daemon just killed. */
        co_sleep(LOCK_PAUSE_NS);
        r = io_co_lock(j->lock, 0, 1, IO_LOCK_EXCLUSIVE);
    }
    if (r < 0) {
        err_set(err, EBUSY, "State directory '%s' is in use by another daemon",
                dir);
        goto fail;
    }
    r = journal_co_read(j, err);
    if (r < 0) {
        goto fail;
    }
    journal_co_take_checkpoints(j);
    journal_attach(j, c->jobs);
    *ret_journal = j;
    return 0;
fail:
    io_co_close(j->lock);
    journal_free(j);
    return r;
}

void journal_co_close(struct journal *j)
{
    if (j) {
        io_co_close(j->lock);
        journal_free(j);
    }
}

/* --- starts --- */

static json_t *entry_new(const char *command, const json_t *args)
{
    return json_pack("{s:s,s:o}", "command", command, "arguments",
                     json_deep_copy(args));
}

/* Nobody else may be starting @s->id, which is borrowed. */
static void start_enter(struct journal *j, struct journal_start *s)
{
    s->was_waiting = g_hash_table_remove(j->waiting, s->id);
    g_hash_table_insert(j->starting, s->id, s);
}

static void start_leave(struct journal *j, struct journal_start *s)
{
    g_hash_table_remove(j->starting, s->id);
    co_queue_wake_all(&j->start_ended);
}

static CO_FN int start_co_begin(struct journal *j, const char *id,
                                const char *command, const json_t *args,
                                struct journal_start *s, GError **err)
{
    int r;

    while (g_hash_table_contains(j->starting, id)) {
        co_queue_co_wait(&j->start_ended);
    }
    if (names_owner(j->c->names, NAME_JOB, id)) {
        return 0;
    }
    s->id = g_strdup(id);
    s->entry = entry_new(command, args);
    start_enter(j, s);
    if (s->was_waiting) {
        return 0;
    }
    json_object_set(j->entries, id, s->entry);
    r = journal_co_write(j, err);
    if (r < 0) {
        json_object_del(j->entries, id);
        start_leave(j, s);
        g_clear_pointer(&s->id, g_free);
        g_clear_pointer(&s->entry, json_decref);
    }
    return r;
}

static CO_FN void begin_start_entry(void *arg)
{
    struct crossing *x = arg;

    x->result = start_co_begin(x->j, x->id, x->command, x->args, x->start,
                               x->err);
}

int journal_co_begin_start(struct journal *j, const char *id,
                           const char *command, const json_t *args,
                           struct journal_start *s, GError **err)
{
    struct crossing x = { j, id, command, args, s, err, false, 0 };

    *s = (struct journal_start) { 0 };
    return j && text_is_id(id) ? journal_co_cross(&x, begin_start_entry) : 0;
}

/* The job that replaces a waiting entry has started. */
static CO_FN void start_co_replace(struct journal *j, struct journal_start *s)
{
    g_autoptr(GError) err = NULL;

    json_object_set(j->entries, s->id, s->entry);
    if (journal_co_write(j, &err) < 0) {
        complain(err);
    }
}

static CO_FN void start_co_end(struct journal *j, struct journal_start *s,
                               bool started)
{
    if (started && s->was_waiting && !s->settled) {
        start_co_replace(j, s);
    } else if (!started && s->was_waiting) {
        g_hash_table_add(j->waiting, g_strdup(s->id));
    } else if (!started) {
        journal_co_erase(j, s->id);
    }
    start_leave(j, s);
    g_clear_pointer(&s->id, g_free);
    g_clear_pointer(&s->entry, json_decref);
}

static CO_FN void end_start_entry(void *arg)
{
    struct crossing *x = arg;

    start_co_end(x->j, x->start, x->flag);
}

void journal_co_end_start(struct journal *j, struct journal_start *s,
                          bool started)
{
    struct crossing x = { .j = j, .start = s, .flag = started };

    if (s->id) {
        journal_co_cross(&x, end_start_entry);
    }
}

/* --- changes --- */

static CO_FN void change_entry(void *arg)
{
    struct crossing *x = arg;
    json_t *args = json_object_get(json_object_get(x->j->entries, x->id),
                                   "arguments");
    json_t *changes;
    g_autoptr(GError) err = NULL;

    if (!args) {
        return;
    }
    changes = json_deep_copy(x->args);
    json_object_update(args, changes);
    json_decref(changes);
    if (journal_co_write(x->j, &err) < 0) {
        complain(err);
    }
}

void journal_co_change(struct journal *j, const char *id, const json_t *changes)
{
    struct crossing x = { .j = j, .id = id, .args = changes };

    if (j) {
        journal_co_cross(&x, change_entry);
    }
}

void journal_co_erase(struct journal *j, const char *id)
{
    g_autofree char *own_id = g_strdup(id), *checkpoint = NULL;
    g_autoptr(GError) err = NULL;

    if (!j || json_object_del(j->entries, id) < 0) {
        return;
    }
    g_hash_table_remove(j->waiting, id);
    if (journal_co_write(j, &err) < 0) {
        /* The entry outlives its job: at worst it is started once more. */
        complain(err);
    }
    checkpoint = journal_checkpoint(j, own_id);
    /* Another job of that id may have begun meanwhile. */
    if (checkpoint && !json_object_get(j->entries, own_id)) {
        (void)io_co_unlink(checkpoint);
    }
}

int journal_co_forget(struct journal *j, const char *id, GError **err)
{
    if (!j || !g_hash_table_contains(j->waiting, id)) {
        return err_set(err, ENOENT, "Job not found");
    }
    journal_co_erase(j, id);
    return 0;
}

static bool entry_switched(const json_t *entry)
{
    return json_is_true(json_object_get(entry, "switched"));
}

json_t *journal_describe(const struct journal *j)
{
    json_t *res = json_array(), *entry;
    const char *id;

    if (!j) {
        return res;
    }
    json_object_foreach(j->entries, id, entry) {
        bool waiting = g_hash_table_contains(j->waiting, id);
        const char *state = !waiting                ? "active"
                            : entry_switched(entry) ? "switched"
                                                    : "waiting";

        json_array_append_new(
            res,
            json_pack("{s:s,s:O,s:O,s:s}", "id", id, "command",
                      json_object_get(entry, "command"), "arguments",
                      json_object_get(entry, "arguments"), "state", state));
    }
    return res;
}

/* --- going on --- */

/* A start of an entry's job, on the data loop of its device. */
struct restart {
    struct journal *j;
    struct control *c; /* there */
    const char *command, *checkpoint;
    const json_t *args;
    GError **err;
    int result;
};

static CO_FN void restart_entry(void *arg)
{
    struct restart *r = arg;
    const char *device = arg_str(r->args, "device");
    const char *target = arg_str(r->args, "target");
    json_t *args;

    if (r->c->stopping || !node_find_any(r->c->graph, device, NULL) ||
        (g_str_equal(r->command, "blockdev-mirror") &&
         !node_find_any(r->c->graph, target, NULL))) {
        return;
    }
    args = json_deep_copy(r->args);
    r->result = r->j->co_restart(r->c, r->command, args, r->checkpoint, r->err);
    json_decref(args);
}

/* On the control loop. */
static CO_FN void restart_co_there(struct control *c, void *arg)
{
    struct restart *r = arg;

    r->c = c;
    control_co_on_data(c, restart_entry, r);
}

static bool names_have(const struct journal *j, const char *device)
{
    return names_owner(j->c->names, NAME_BLOCK, device) != NULL;
}

/* Start entry @id when its device is there. 0, or -errno: it goes on
 * waiting. */
static CO_FN int resume_co_try(struct journal *j, const char *id)
{
    json_t *entry = json_object_get(j->entries, id);
    json_t *args = json_object_get(entry, "arguments");
    const char *device = arg_str(args, "device");
    g_autofree char *own_id = g_strdup(id);
    g_autofree char *checkpoint = journal_checkpoint(j, id);
    g_autofree char *command = g_strdup(arg_str(entry, "command"));
    struct journal_start s = { .id = own_id };
    g_autoptr(GError) err = NULL;
    struct restart r = { .j = j,
                         .command = command,
                         .checkpoint = checkpoint,
                         .args = args,
                         .err = &err,
                         .result = -ENOENT };

    if (entry_switched(entry) || !device || !names_have(j, device)) {
        return -ENOENT;
    }
    json_incref(args);
    start_enter(j, &s);
    control_co_find_and_run(j->c, device, restart_co_there, &r);
    json_decref(args);
    if (r.result < 0) {
        if (err) {
            complain_of_job(own_id,
                            r.result == -EALREADY ? "is over" : "cannot go on",
                            err);
        }
        g_hash_table_add(j->waiting, g_strdup(own_id));
    }
    start_leave(j, &s);
    if (r.result == -EALREADY) {
        journal_co_erase(j, own_id);
    }
    return r.result;
}

/* Nodes that came while it was tried may be what it lacked. */
static CO_FN void resume_co_one(struct journal *j, const char *id)
{
    uint64_t n;
    int r;

    do {
        n = j->n_retries;
        r = resume_co_try(j, id);
    } while (r < 0 && n != j->n_retries &&
             g_hash_table_contains(j->waiting, id));
}

/* Several may be under way: each takes what still waits, so that a job whose
 * start hangs keeps nobody waiting but its own caller. */
static CO_FN void retry_entry(void *arg)
{
    struct journal *j = ((struct crossing *)arg)->j;
    g_autoptr(GList) keys = NULL;
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);

    if (!j->resuming || !j->c->resume_jobs) {
        return;
    }
    j->n_retries++;
    keys = g_hash_table_get_keys(j->waiting);
    for (GList *k = keys; k; k = k->next) {
        g_ptr_array_add(ids, g_strdup(k->data));
    }
    for (unsigned i = 0; i < ids->len; i++) {
        if (g_hash_table_contains(j->waiting, ids->pdata[i])) {
            resume_co_one(j, ids->pdata[i]);
        }
    }
}

void journal_co_retry(struct journal *j)
{
    struct crossing x = { .j = j };

    if (j) {
        journal_co_cross(&x, retry_entry);
    }
}

void journal_co_resume(struct journal *j)
{
    if (j) {
        j->resuming = true;
        journal_co_retry(j);
    }
}
