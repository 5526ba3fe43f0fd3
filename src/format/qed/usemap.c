/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bitmap in pieces: see format/qed/usemap.h. */
#include "format/qed/usemap.h"
#include <errno.h>
#include <glib.h>

enum { PIECE_WORDS = 64, PIECE_BITS = PIECE_WORDS * 64 };

/* Of all pieces: 2^31 clusters side by side, which is 128 TiB of 64 KiB. */
#define MAP_MAX_BYTES (256u << 20)

struct qed_usemap {
    GHashTable *pieces; /* number -> uint64_t[PIECE_WORDS] */
    uint64_t count, end;
    uint64_t last;        /* the piece used last ... */
    uint64_t *last_words; /* ... or NULL */
};

struct qed_usemap *qed_usemap_new(void)
{
    struct qed_usemap *m = g_new0(struct qed_usemap, 1);

    m->pieces = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                      g_free);
    return m;
}

void qed_usemap_free(struct qed_usemap *m)
{
    if (m) {
        g_hash_table_destroy(m->pieces);
        g_free(m);
    }
}

/* The piece that holds @bit; NULL when it does not exist and is not @made, or
 * cannot be. */
static uint64_t *qed_piece_get(struct qed_usemap *m, uint64_t bit, bool make)
{
    uint64_t number = bit / PIECE_BITS;
    uint64_t *words;

    if (m->last_words && m->last == number) {
        return m->last_words;
    }
    words = g_hash_table_lookup(m->pieces, GSIZE_TO_POINTER(number));
    if (!words && make) {
        if (g_hash_table_size(m->pieces) >= MAP_MAX_BYTES / (PIECE_WORDS * 8)) {
            return NULL;
        }
        words = g_try_new0(uint64_t, PIECE_WORDS);
        if (!words) {
            return NULL;
        }
        g_hash_table_insert(m->pieces, GSIZE_TO_POINTER(number), words);
    }
    if (words) {
        m->last = number;
        m->last_words = words;
    }
    return words;
}

static uint64_t *word_of(uint64_t *words, uint64_t bit)
{
    return &words[bit % PIECE_BITS / 64];
}

int qed_usemap_mark(struct qed_usemap *m, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint64_t *words = qed_piece_get(m, i, false);
        if (words && (*word_of(words, i) >> (i % 64) & 1)) {
            return -EEXIST;
        }
    }
    for (uint64_t i = first; i < first + n; i++) {
        uint64_t *words = qed_piece_get(m, i, true);
        if (!words) {
            return -ENOMEM;
        }
        *word_of(words, i) |= UINT64_C(1) << (i % 64);
    }
    m->count += n;
    m->end = MAX(m->end, first + n);
    return 0;
}

uint64_t qed_usemap_count(const struct qed_usemap *m)
{
    return m->count;
}

uint64_t qed_usemap_end(const struct qed_usemap *m)
{
    return m->end;
}
