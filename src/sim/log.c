/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log of the simulated machine, its faults and latencies. */
#include <string.h>
#include "base/endian.h"
#include "sim/sim-priv.h"

static const char *const op_names[] = {
    [SIM_CREATE] = "create",       [SIM_OPEN] = "open",
    [SIM_CLOSE] = "close",         [SIM_READ] = "read",
    [SIM_WRITE] = "write",         [SIM_TRUNCATE] = "truncate",
    [SIM_FALLOCATE] = "fallocate", [SIM_FDATASYNC] = "fdatasync",
    [SIM_FSYNC] = "fsync",         [SIM_RENAME] = "rename",
    [SIM_UNLINK] = "unlink",       [SIM_FSYNC_DIR] = "fsync-dir",
    [SIM_MARK] = "mark",           [SIM_OTHER] = "other",
};
G_STATIC_ASSERT(G_N_ELEMENTS(op_names) == SIM_OP_COUNT);

const char *sim_op_name(enum sim_op op)
{
    return op_names[op];
}

static enum sim_op sim_op_of(enum io_op op)
{
    static const unsigned char map[IO_OP_COUNT] = {
        [IO_OP_READ] = SIM_READ,           [IO_OP_WRITE] = SIM_WRITE,
        [IO_OP_COPY] = SIM_WRITE,          [IO_OP_CLONE] = SIM_WRITE,
        [IO_OP_FDATASYNC] = SIM_FDATASYNC, [IO_OP_FSYNC] = SIM_FSYNC,
        [IO_OP_FALLOCATE] = SIM_FALLOCATE, [IO_OP_OPEN] = SIM_OPEN,
        [IO_OP_CLOSE] = SIM_CLOSE,         [IO_OP_TRUNCATE] = SIM_TRUNCATE,
        [IO_OP_RENAME] = SIM_RENAME,       [IO_OP_UNLINK] = SIM_UNLINK,
        [IO_OP_FSYNC_DIR] = SIM_FSYNC_DIR,
    };

    /* 0 is SIM_CREATE, which is no request of its own. */
    return map[op] ? (enum sim_op)map[op] : SIM_OTHER;
}

/* The bytes of a write as they are now. */
static unsigned char *gather(const struct io_req *r)
{
    unsigned char *data = g_malloc(r->len);
    size_t off = 0;

    for (unsigned i = 0; i < r->n_iov; i++) {
        memcpy(data + off, r->iov[i].iov_base, r->iov[i].iov_len);
        off += r->iov[i].iov_len;
    }
    return data;
}

/* A copy is a write of what the source holds now. */
static void record_copy(struct sim *s, struct sim_record *rec,
                        const struct io_req *r)
{
    struct sim_handle *src = sim_handle(s, r->fd);
    uint64_t size = src ? sim_image_size(s->live, src->file) : 0;

    rec->off = r->off2;
    rec->len = r->off < size ? MIN(r->len, size - r->off) : 0;
    rec->data = g_malloc(rec->len);
    if (src) {
        sim_image_read(s->live, src->file, r->off, rec->data, rec->len);
    }
}

struct sim_record *sim_record_new(struct sim *s, struct io_req *r)
{
    struct sim_record *rec = g_new0(struct sim_record, 1);
    bool copies = r->op == IO_OP_COPY || r->op == IO_OP_CLONE;
    struct sim_handle *h = r->path ? NULL
                                   : sim_handle(s, copies ? r->fd2 : r->fd);

    rec->op = r->op == IO_OP_CLONE && !s->shares ? SIM_OTHER : sim_op_of(r->op);
    rec->tag = r->tag;
    rec->file = h ? h->file : 0;
    rec->off = r->off;
    rec->len = r->len;
    rec->mode = r->op == IO_OP_FALLOCATE ? r->flags : 0;
    rec->path = r->path ? g_canonicalize_filename(r->path, "/")
                        : g_strdup(h ? h->path : NULL);
    rec->path2 = r->path2 ? g_canonicalize_filename(r->path2, "/") : NULL;
    if (r->op == IO_OP_WRITE) {
        rec->data = gather(r);
    } else if (copies && rec->op == SIM_WRITE) {
        record_copy(s, rec, r);
    }
    return rec;
}

void sim_record_free(void *p)
{
    struct sim_record *rec = p;

    g_free(rec->data);
    g_free(rec->path);
    g_free(rec->path2);
    g_free(rec);
}

const struct sim_record *const *sim_log(struct sim *s, size_t *ret_n)
{
    *ret_n = s->log->len;
    return (const struct sim_record *const *)s->log->pdata;
}

void sim_log_reset(struct sim *s, bool enable)
{
    /* What is under way stays, or its completion would find no record. */
    for (unsigned i = s->log->len; i-- > 0;) {
        struct sim_record *rec = g_ptr_array_index(s->log, i);

        if (rec->completed) {
            g_ptr_array_remove_index(s->log, i);
        }
    }
    s->log_on = enable;
}

uint64_t sim_instant(struct sim *s)
{
    return s->instant;
}

uint64_t sim_mark(struct sim *s, const char *name, uint64_t value)
{
    struct sim_record *rec = g_new0(struct sim_record, 1);

    rec->op = SIM_MARK;
    rec->path = g_strdup(name);
    rec->off = value;
    rec->submitted = rec->completed = ++s->instant;
    if (s->log_on) {
        g_ptr_array_add(s->log, rec);
    } else {
        sim_record_free(rec);
    }
    return s->instant;
}

/* FNV-1a. */
static uint64_t hash_bytes(uint64_t h, const void *buf, size_t len)
{
    const unsigned char *p = buf;

    for (size_t i = 0; i < len; i++) {
        h = (h ^ p[i]) * 0x100000001b3u;
    }
    return h;
}

static uint64_t hash_word(uint64_t h, uint64_t word)
{
    uint8_t bytes[sizeof(word)];

    put_le64(bytes, word);
    return hash_bytes(h, bytes, sizeof(bytes));
}

static uint64_t hash_text(uint64_t h, const char *text)
{
    return text ? hash_bytes(h, text, strlen(text) + 1) : h;
}

uint64_t sim_log_hash(struct sim *s)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (unsigned i = 0; i < s->log->len; i++) {
        const struct sim_record *r = g_ptr_array_index(s->log, i);
        const uint64_t words[] = {
            r->op,  r->submitted,      r->completed, (uint64_t)r->result,
            r->tag, r->file,           r->file2,     r->off,
            r->len, (uint64_t)r->mode,
        };

        for (unsigned w = 0; w < G_N_ELEMENTS(words); w++) {
            h = hash_word(h, words[w]);
        }
        h = hash_text(h, r->path);
        h = hash_text(h, r->path2);
        h = r->data ? hash_bytes(h, r->data, r->len) : h;
    }
    return h;
}

void sim_inject(struct sim *s, const struct sim_fault *f)
{
    struct sim_fault copy = *f;

    g_assert(f->nth > 0 && (f->err || f->short_len || f->delay_ns));
    copy.path = f->path ? g_canonicalize_filename(f->path, "/") : NULL;
    g_array_append_val(s->faults, copy);
}

void sim_faults_clear(struct sim *s)
{
    for (unsigned i = 0; i < s->faults->len; i++) {
        g_free((char *)g_array_index(s->faults, struct sim_fault, i).path);
    }
    g_array_set_size(s->faults, 0);
}

unsigned sim_open_files(const struct sim *s)
{
    return g_hash_table_size(s->handles);
}

uint64_t sim_count(const struct sim *s, enum sim_op op)
{
    return s->count[op];
}

void sim_set_latency(struct sim *s, enum sim_op op, uint64_t min_ns,
                     uint64_t max_ns)
{
    g_assert(min_ns <= max_ns);
    s->latency[op].min_ns = min_ns;
    s->latency[op].max_ns = max_ns;
}

void sim_reseed(struct sim *s, uint64_t seed)
{
    s->rng = seed;
}

struct sim_image *sim_live(struct sim *s)
{
    return s->live;
}

void sim_set_shares(struct sim *s, bool on)
{
    s->shares = on;
}

void sim_restore(struct sim *s, const struct sim_image *img)
{
    g_assert(g_hash_table_size(s->handles) == 0);
    sim_image_free(s->live);
    s->live = sim_image_copy(img);
    s->last_file = MAX(s->last_file, sim_image_last_id(img));
}
