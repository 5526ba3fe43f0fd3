/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Slots are found by the number of their block (a hash table), and taken again
 * in the order of their last use (a list).  Neither is in the file: entries say
 * when their slots were used as of the last end of the daemon.
 *
 * Indices of slots are kept plus one, so that memory of zeroes is empty.
 */
#include "filter/cache/cache-store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/math.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "wire/cache-file.h"

/* Of the table, at once. */
#define TABLE_PIECE (1u << 20)

struct slot {
    uint64_t block;
    uint64_t used;
    uint32_t checksum;
    uint32_t hash_next;  /* plus one */
    uint32_t prev, next; /* in order of use, plus one */
    uint16_t pins;       /* who reads or writes it now */
    bool is_valid;       /* holds @block */
};

struct cache_store {
    struct io_file *file;
    struct cache_store_options options;
    struct cache_header header;
    struct slot *slots;
    uint32_t *buckets;    /* plus one */
    uint32_t mask;        /* of buckets */
    uint32_t first, last; /* most and least recently used, plus one */
    uint32_t fresh;       /* slots from here on were never used */
    GArray *free;         /* uint32_t: slots whose block is gone */
    uint64_t clock;       /* counts uses */
    bool is_off, has_changed, has_version;
};

static size_t block_bytes(const struct cache_store *s)
{
    return (size_t)1 << s->header.block_bits;
}

/* What the base has of @block. */
static size_t block_len(const struct cache_store *s, uint64_t block)
{
    return MIN(block_bytes(s),
               s->header.base_size - (block << s->header.block_bits));
}

static uint64_t slot_at(const struct cache_store *s, uint32_t i)
{
    return cache_data_at(s->header.slots) +
           ((uint64_t)i << s->header.block_bits);
}

/* --- in order of use --- */

static void order_remove(struct cache_store *s, uint32_t i)
{
    struct slot *slot = &s->slots[i];

    *(slot->prev ? &s->slots[slot->prev - 1].next : &s->first) = slot->next;
    *(slot->next ? &s->slots[slot->next - 1].prev : &s->last) = slot->prev;
    slot->prev = slot->next = 0;
}

static void order_add(struct cache_store *s, uint32_t i)
{
    struct slot *slot = &s->slots[i];

    slot->prev = 0;
    slot->next = s->first;
    *(s->first ? &s->slots[s->first - 1].prev : &s->last) = i + 1;
    s->first = i + 1;
    slot->used = ++s->clock;
}

/* --- by block --- */

static uint32_t *cache_bucket_of(const struct cache_store *s, uint64_t block)
{
    return &s->buckets[(uint32_t)(block * UINT64_C(0x9e3779b97f4a7c15) >> 32) &
                       s->mask];
}

/* Plus one. */
static uint32_t block_find(const struct cache_store *s, uint64_t block)
{
    uint32_t i = *cache_bucket_of(s, block);

    while (i && s->slots[i - 1].block != block) {
        i = s->slots[i - 1].hash_next;
    }
    return i;
}

static void slot_set(struct cache_store *s, uint32_t i,
                     const struct cache_entry *e)
{
    uint32_t *bucket = cache_bucket_of(s, e->block);
    struct slot *slot = &s->slots[i];

    slot->block = e->block;
    slot->checksum = e->checksum;
    slot->is_valid = true;
    slot->hash_next = *bucket;
    *bucket = i + 1;
    order_add(s, i);
}

static void slot_release(struct cache_store *s, uint32_t i)
{
    if (s->slots[i].pins == 0 && !s->slots[i].is_valid) {
        g_array_append_val(s->free, i);
    }
}

/* Its block is not there any more; the slot is free when nobody uses it. */
static void slot_forget(struct cache_store *s, uint32_t i)
{
    struct slot *slot = &s->slots[i];
    uint32_t *at = cache_bucket_of(s, slot->block);

    while (*at != i + 1) {
        at = &s->slots[*at - 1].hash_next;
    }
    *at = slot->hash_next;
    order_remove(s, i);
    slot->is_valid = false;
}

static void slot_unpin(struct cache_store *s, uint32_t i)
{
    s->slots[i].pins--;
    slot_release(s, i);
}

/* --- open --- */

static int store_refuse(const struct cache_store_options *o, GError **err)
{
    err_set(err, EINVAL, "'%s' is not the file of a cache", o->path);
    err_hint(err, "Name a file that is not there yet: it is made.");
    return -EINVAL;
}

static CO_FN int file_co_check(struct io_file *f,
                               const struct cache_store_options *o,
                               GError **err)
{
    struct stat st;
    int r = io_co_fstat(f, &st);

    if (r == 0 && !S_ISREG(st.st_mode)) {
        return store_refuse(o, err);
    }
    if (r == 0) {
        r = io_co_lock(f, 0, 1, IO_LOCK_EXCLUSIVE);
    }
    if (r == -EAGAIN) {
        err_set(err, EAGAIN, "The cache file '%s' is in use", o->path);
        err_hint(err, "A cache has one node; overlays share it by its name.");
        return -EAGAIN;
    }
    return r < 0 ? err_set_errno(err, -r, "Could not open the cache file '%s'",
                                 o->path)
                 : 0;
}

static void version_sum(const char *version, uint8_t sum[CACHE_VERSION_BYTES])
{
    GChecksum *c = g_checksum_new(G_CHECKSUM_SHA256);
    gsize len = CACHE_VERSION_BYTES;

    g_checksum_update(c, (const guchar *)version, -1);
    g_checksum_get_digest(c, sum, &len);
    g_checksum_free(c);
}

/* What the header is to say. */
static int header_init(struct cache_header *h,
                       const struct cache_store_options *o, GError **err)
{
    *h = (struct cache_header) {
        .epoch = loop_date_ns(loop_current()),
        .base_size = o->base_size,
        .block_bits = o->block_bits,
        .slots = cache_slots_of(o->limit, o->block_bits),
    };
    if (h->slots == 0) {
        return err_set(err, EINVAL,
                       "A cache of %" G_GUINT64_FORMAT
                       " bytes has no room for a block",
                       o->limit);
    }
    if (o->version) {
        version_sum(o->version, h->version);
    }
    return 0;
}

/* Does what the file says of itself fit @want? Then its epoch goes on. */
static bool header_fits(const struct cache_header *want,
                        const struct cache_header *is)
{
    return want->base_size == is->base_size &&
           want->block_bits == is->block_bits && want->slots == is->slots &&
           !memcmp(want->version, is->version, CACHE_VERSION_BYTES);
}

/* *@ret_kept: the file holds something of this version. */
static CO_FN int store_header_co_read(struct cache_store *s, bool *ret_kept,
                                      GError **err)
{
    const struct cache_store_options *o = &s->options;
    uint8_t buf[CACHE_HEADER_BYTES];
    struct cache_header is;
    struct iovec v;
    int r = io_co_preadv(s->file, 0, iov_one(&v, buf, sizeof(buf)));

    *ret_kept = false;
    if (r < 0) {
        return err_set_errno(err, -r, "Could not read the cache file '%s'",
                             o->path);
    }
    switch (cache_header_decode(buf, &is)) {
    case CACHE_NONE:
        /* Empty, or cut off before the header was there. */
        return buf_is_zero(buf, sizeof(buf)) ? 0 : store_refuse(o, err);
    case CACHE_GOOD:
        *ret_kept = o->version && header_fits(&s->header, &is);
        s->header.epoch = *ret_kept ? is.epoch
                                    : MAX(s->header.epoch, is.epoch + 1);
        break;
    case CACHE_DAMAGED: break;
    }
    return 0;
}

/* Begin anew. What stood there is of another epoch, whether it is gone or not. */
static CO_FN int store_co_reset(struct cache_store *s, GError **err)
{
    uint8_t buf[CACHE_HEADER_BYTES];
    struct iovec v;
    int r = io_co_truncate(s->file, 0);

    cache_header_encode(&s->header, buf);
    if (r == 0) {
        r = io_co_pwritev(s->file, 0, iov_one(&v, buf, sizeof(buf)),
                          IO_TAG_HEADER);
    }
    if (r == 0) {
        /* What is in the slots of a full disk can be found. */
        (void)io_co_fallocate(s->file, 0, 0, cache_data_at(s->header.slots));
    }
    return r < 0 ? err_set_errno(err, -r, "Could not write the cache file '%s'",
                                 s->options.path)
                 : 0;
}

struct used_slot {
    uint64_t used;
    uint32_t slot;
};

static int compare_used(const void *a, const void *b)
{
    const struct used_slot *x = a, *y = b;

    return x->used < y->used ? -1 : x->used > y->used;
}

/* Entries of blocks that the base has, each once. */
static void table_add(struct cache_store *s, uint32_t i, const uint8_t *buf,
                      GArray *found)
{
    struct cache_entry e;
    uint64_t blocks = (s->header.base_size + block_bytes(s) - 1) >>
                      s->header.block_bits;

    if (cache_entry_decode(buf, s->header.epoch, &e) && e.block < blocks &&
        !block_find(s, e.block)) {
        struct used_slot u = { e.used, i };

        slot_set(s, i, &e);
        g_array_append_val(found, u);
        s->fresh = i + 1;
    }
}

/* The last used first, as it was before. */
static void table_sort(struct cache_store *s, GArray *found)
{
    g_array_sort(found, compare_used);
    s->first = s->last = 0;
    for (guint i = 0; i < found->len; i++) {
        struct used_slot u = g_array_index(found, struct used_slot, i);

        order_add(s, u.slot);
        s->clock = MAX(s->clock, u.used);
    }
    for (uint32_t i = 0; i < s->fresh; i++) {
        slot_release(s, i);
    }
}

static CO_FN int store_table_co_read(struct cache_store *s, GError **err)
{
    uint64_t bytes = (uint64_t)s->header.slots * CACHE_ENTRY_BYTES;
    GArray *found = g_array_new(FALSE, FALSE, sizeof(struct used_slot));
    uint8_t *buf = io_buf_get(TABLE_PIECE);
    int r = 0;

    for (uint64_t at = 0; at < bytes && r == 0; at += TABLE_PIECE) {
        size_t len = MIN(TABLE_PIECE, bytes - at);
        struct iovec v;

        r = io_co_preadv(s->file, CACHE_HEADER_BYTES + at,
                         iov_one(&v, buf, len));
        for (size_t i = 0; r == 0 && i < len; i += CACHE_ENTRY_BYTES) {
            table_add(s, (uint32_t)((at + i) / CACHE_ENTRY_BYTES), buf + i,
                      found);
        }
    }
    io_buf_put(buf, TABLE_PIECE);
    table_sort(s, found);
    g_array_unref(found);
    return r < 0 ? err_set_errno(err, -r, "Could not read the cache file '%s'",
                                 s->options.path)
                 : 0;
}

static int store_allocate(struct cache_store *s, GError **err)
{
    uint64_t buckets = 1;

    while (buckets < s->header.slots) {
        buckets *= 2;
    }
    s->slots = g_try_new0(struct slot, s->header.slots);
    s->buckets = g_try_new0(uint32_t, buckets);
    s->mask = (uint32_t)(buckets - 1);
    s->free = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    return s->slots && s->buckets
               ? 0
               : err_set(err, ENOMEM,
                         "Not enough memory for a cache of %u blocks",
                         s->header.slots);
}

static CO_FN int store_co_start(struct cache_store *s, GError **err)
{
    bool kept = false;
    int r = file_co_check(s->file, &s->options, err);

    r = r < 0 ? r : header_init(&s->header, &s->options, err);
    r = r < 0 ? r : store_header_co_read(s, &kept, err);
    r = r < 0 ? r : store_allocate(s, err);
    if (r < 0) {
        return r;
    }
    return kept ? store_table_co_read(s, err) : store_co_reset(s, err);
}

int cache_store_co_open(const struct cache_store_options *o,
                        struct cache_store **ret, GError **err)
{
    struct cache_store *s = g_new0(struct cache_store, 1);
    int r = io_co_open(o->path, O_RDWR | O_CREAT | O_NOCTTY | O_NONBLOCK, 0600,
                       &s->file);

    s->options = *o;
    s->has_version = o->version != NULL;
    if (r < 0) {
        err_set_errno(err, -r, "Could not open the cache file '%s'", o->path);
    } else {
        r = store_co_start(s, err);
    }
    if (r < 0) {
        s->is_off = true;
        cache_store_co_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

/* --- close --- */

static void entry_put(const struct cache_store *s, uint32_t i, uint8_t *buf)
{
    const struct slot *slot = &s->slots[i];
    struct cache_entry e = { slot->block, slot->used, slot->checksum };

    if (slot->is_valid) {
        cache_entry_encode(&e, s->header.epoch, buf);
    } else {
        memset(buf, 0, CACHE_ENTRY_BYTES);
    }
}

/* When each was used. Nothing is lost if this fails but the order. */
static CO_FN void table_co_write(struct cache_store *s)
{
    uint64_t bytes = (uint64_t)s->fresh * CACHE_ENTRY_BYTES;
    uint8_t *buf = io_buf_get(TABLE_PIECE);
    int r = 0;

    for (uint64_t at = 0; at < bytes && r == 0; at += TABLE_PIECE) {
        size_t len = MIN(TABLE_PIECE, bytes - at);
        struct iovec v;

        for (size_t i = 0; i < len; i += CACHE_ENTRY_BYTES) {
            entry_put(s, (uint32_t)((at + i) / CACHE_ENTRY_BYTES), buf + i);
        }
        r = io_co_pwritev(s->file, CACHE_HEADER_BYTES + at,
                          iov_one(&v, buf, len), IO_TAG_META);
    }
    io_buf_put(buf, TABLE_PIECE);
}

void cache_store_co_close(struct cache_store *s)
{
    if (!s) {
        return;
    }
    if (s->has_changed && !s->is_off && s->has_version) {
        table_co_write(s);
    }
    io_co_close(s->file);
    g_free(s->slots);
    g_free(s->buckets);
    if (s->free) {
        g_array_unref(s->free);
    }
    g_free(s);
}

/* --- reading --- */

unsigned cache_store_run(const struct cache_store *s, uint64_t block,
                         unsigned max)
{
    uint32_t first = block_find(s, block);
    unsigned n = first ? 1 : 0;

    while (first && n < max && block_find(s, block + n) == first + n) {
        n++;
    }
    return n;
}

/* The first @n blocks at @buf that are what they were; what is not, goes. */
static unsigned slots_check(struct cache_store *s, uint32_t first,
                            uint64_t block, unsigned n, const uint8_t *buf)
{
    unsigned good = 0;

    for (unsigned i = 0; i < n; i++) {
        struct slot *slot = &s->slots[first + i];
        const uint8_t *at = buf + ((size_t)i << s->header.block_bits);
        bool fits = slot->is_valid &&
                    slot->checksum == cache_checksum(s->header.epoch, block + i,
                                                     at,
                                                     block_len(s, block + i));

        if (fits) {
            order_remove(s, first + i);
            order_add(s, first + i);
            good += good == i;
        } else if (slot->is_valid) {
            slot_forget(s, first + i);
            s->options.damaged(s->options.arg, block + i);
        }
    }
    s->has_changed = true;
    return good;
}

void cache_store_co_read(struct cache_store *s, uint64_t block, unsigned n,
                         uint8_t *buf, unsigned *ret_good)
{
    uint32_t first = block_find(s, block) - 1;
    size_t len = ((size_t)(n - 1) << s->header.block_bits) +
                 block_len(s, block + n - 1);
    struct iovec v;

    for (unsigned i = 0; i < n; i++) {
        s->slots[first + i].pins++;
    }
    if (io_co_preadv(s->file, slot_at(s, first), iov_one(&v, buf, len)) < 0) {
        memset(buf, 0, len); /* then it does not fit */
    }
    *ret_good = slots_check(s, first, block, n, buf);
    for (unsigned i = 0; i < n; i++) {
        slot_unpin(s, first + i);
    }
}

/* --- writing --- */

/* The slot that was used least; plus one. 0: all are in use now. */
static uint32_t slot_evict(struct cache_store *s)
{
    uint32_t i = s->last;

    while (i && s->slots[i - 1].pins) {
        i = s->slots[i - 1].prev;
    }
    if (i) {
        slot_forget(s, i - 1);
    }
    return i;
}

/* A slot for a new block, pinned; plus one. 0: there is none. */
static uint32_t slot_take(struct cache_store *s)
{
    uint32_t i;

    if (s->fresh < s->header.slots) {
        i = ++s->fresh;
    } else if (s->free->len > 0) {
        i = g_array_index(s->free, uint32_t, s->free->len - 1) + 1;
        g_array_set_size(s->free, s->free->len - 1);
    } else {
        i = slot_evict(s);
    }
    if (i) {
        s->slots[i - 1].pins++;
    }
    return i;
}

/* Blocks that go into slots in a row. */
struct piece {
    uint32_t first; /* slot */
    uint64_t block;
    unsigned n;
    const uint8_t *buf;
};

static CO_FN int piece_co_write_entries(struct cache_store *s,
                                        const struct piece *p)
{
    size_t len = (size_t)p->n * CACHE_ENTRY_BYTES;
    g_autofree uint8_t *buf = g_malloc(len);
    struct iovec v;

    for (unsigned i = 0; i < p->n; i++) {
        entry_put(s, p->first + i, buf + (size_t)i * CACHE_ENTRY_BYTES);
    }
    return io_co_pwritev(
        s->file, CACHE_HEADER_BYTES + (uint64_t)p->first * CACHE_ENTRY_BYTES,
        iov_one(&v, buf, len), IO_TAG_META);
}

static void store_turn_off(struct cache_store *s, int error)
{
    if (!s->is_off) {
        s->is_off = true;
        s->options.full(s->options.arg, error);
    }
}

/* From here on they are found. */
static void piece_set(struct cache_store *s, const struct piece *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        uint64_t block = p->block + i;
        struct cache_entry e = {
            .block = block,
            .checksum = cache_checksum(s->header.epoch, block,
                                       p->buf +
                                           ((size_t)i << s->header.block_bits),
                                       block_len(s, block)),
        };

        slot_set(s, p->first + i, &e);
    }
    s->has_changed = true;
}

static CO_FN void store_piece_co_write(struct cache_store *s,
                                       const struct piece *p)
{
    size_t len = ((size_t)(p->n - 1) << s->header.block_bits) +
                 block_len(s, p->block + p->n - 1);
    struct iovec v;
    int r = io_co_pwritev(s->file, slot_at(s, p->first),
                          iov_one(&v, (void *)p->buf, len), IO_TAG_DATA);

    if (r == 0) {
        piece_set(s, p);
        r = piece_co_write_entries(s, p);
    }
    for (unsigned i = 0; i < p->n; i++) {
        slot_unpin(s, p->first + i);
    }
    if (r < 0) {
        store_turn_off(s, r);
    }
}

void cache_store_co_write(struct cache_store *s, uint64_t block, unsigned n,
                          const uint8_t *buf)
{
    unsigned done = 0;

    while (done < n && !s->is_off) {
        struct piece p = {
            .first = slot_take(s),
            .block = block + done,
            .buf = buf + ((size_t)done << s->header.block_bits),
        };
        uint32_t next = p.first;

        if (!p.first) {
            return;
        }
        p.first--;
        do {
            p.n++;
            done++;
            next = done < n ? slot_take(s) : 0;
        } while (next == p.first + p.n + 1);
        store_piece_co_write(s, &p);
        if (next) { /* it goes on somewhere else */
            slot_unpin(s, next - 1);
        }
    }
}

bool cache_store_is_off(const struct cache_store *s)
{
    return s->is_off;
}
