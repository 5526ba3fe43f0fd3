/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 header extensions: a list that keeps what it does not know byte for
 * byte.  Written small and changing ones first, so that all that matters stays
 * in the first sector and changes by one write.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "wire/qcow2.h"

#define EXT_HEAD 8
/* An entry of the feature name table: kind, bit, name. */
#define FEATURE_LEN 48
#define FEATURE_NAME_AT 2

static const struct feature {
    uint8_t kind, bit;
    const char *name;
} features[] = {
    { QCOW2_INCOMPATIBLE, 0, "dirty bit" },
    { QCOW2_INCOMPATIBLE, 1, "corrupt bit" },
    { QCOW2_INCOMPATIBLE, 2, "external data file" },
    { QCOW2_INCOMPATIBLE, 3, "compression type" },
    { QCOW2_INCOMPATIBLE, 4, "extended L2 entries" },
    { QCOW2_COMPATIBLE, 0, "lazy refcounts" },
    { QCOW2_AUTOCLEAR, 0, "bitmaps" },
    { QCOW2_AUTOCLEAR, 1, "raw external data" },
};

static void ext_clear(gpointer p)
{
    struct qcow2_ext *e = p;

    g_free(e->data);
}

GArray *qcow2_exts_new(void)
{
    GArray *exts = g_array_new(FALSE, FALSE, sizeof(struct qcow2_ext));

    g_array_set_clear_func(exts, ext_clear);
    return exts;
}

static struct qcow2_ext *ext_at(const GArray *exts, guint i)
{
    return &g_array_index(exts, struct qcow2_ext, i);
}

static struct qcow2_ext *qcow2_ext_find(const GArray *exts, uint32_t type)
{
    for (guint i = 0; i < exts->len; i++) {
        if (ext_at(exts, i)->type == type) {
            return ext_at(exts, i);
        }
    }
    return NULL;
}

const struct qcow2_ext *qcow2_exts_find(const GArray *exts, uint32_t type)
{
    return qcow2_ext_find(exts, type);
}

const struct qcow2_ext *qcow2_exts_doubled(const GArray *exts)
{
    for (guint i = 0; i < exts->len; i++) {
        if (ext_at(exts, i)->doubled) {
            return ext_at(exts, i);
        }
    }
    return NULL;
}

static void append(GArray *exts, uint32_t type, const void *data, uint32_t len)
{
    struct qcow2_ext e = { type, len, g_memdup2(data, len), false };

    g_array_append_val(exts, e);
}

void qcow2_exts_set(GArray *exts, uint32_t type, const void *data, uint32_t len)
{
    struct qcow2_ext *e = qcow2_ext_find(exts, type);

    if (e && !data) {
        g_array_remove_index(exts, (guint)(e - ext_at(exts, 0)));
    } else if (e) {
        uint8_t *copy = g_memdup2(data, len);
        g_free(e->data);
        e->data = copy;
        e->len = len;
    } else if (data) {
        append(exts, type, data, len);
    }
}

GArray *qcow2_exts_copy(const GArray *exts)
{
    GArray *copy = qcow2_exts_new();

    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *e = ext_at(exts, i);
        append(copy, e->type, e->data, e->len);
    }
    return copy;
}

static bool is_known(uint32_t type)
{
    return type == QCOW2_EXT_FORMAT || type == QCOW2_EXT_FEATURES ||
           type == QCOW2_EXT_BITMAPS || type == QCOW2_EXT_CRYPT ||
           type == QCOW2_EXT_DATA_FILE;
}

int qcow2_exts_decode(GArray *exts, const uint8_t *area, size_t len,
                      uint64_t at, uint64_t *ret_where, GError **err)
{
    size_t pos = 0;

    while (len - pos >= EXT_HEAD) {
        uint32_t type = get_be32(area + pos);
        uint32_t size = get_be32(area + pos + 4);

        if (type == QCOW2_EXT_END) {
            break;
        }
        *ret_where = at + pos;
        pos += EXT_HEAD;
        if (size > len - pos) {
            return err_set(err, EINVAL,
                           "qcow2 header extension 0x%08" PRIx32
                           " at offset %" PRIu64 " has %" PRIu32 " bytes: it "
                           "does not fit the header",
                           type, *ret_where, size);
        }
        if (is_known(type) && qcow2_ext_find(exts, type)) {
            qcow2_exts_set(exts, type, area + pos, size);
            qcow2_ext_find(exts, type)->doubled = true;
        } else {
            append(exts, type, area + pos, size);
        }
        pos += min_u64(round_up(size, 8), len - pos);
    }
    return 0;
}

static size_t ext_size(const struct qcow2_ext *e)
{
    return EXT_HEAD + round_up(e->len, 8);
}

size_t qcow2_exts_size(const GArray *exts)
{
    size_t sum = EXT_HEAD;

    for (guint i = 0; i < exts->len; i++) {
        sum += ext_size(ext_at(exts, i));
    }
    return sum;
}

static size_t put_ext(uint8_t *buf, uint32_t type, const void *data,
                      uint32_t len)
{
    size_t size = EXT_HEAD + round_up(len, 8);

    memset(buf, 0, size);
    put_be32(buf, type);
    put_be32(buf + 4, len);
    if (len > 0) {
        memcpy(buf + EXT_HEAD, data, len);
    }
    return size;
}

/* 0: the ones that change, 1: the unknown, 2: names */
static int rank(uint32_t type)
{
    return type == QCOW2_EXT_FEATURES ? 2 : !is_known(type);
}

size_t qcow2_exts_encode(const GArray *exts, uint8_t *buf, size_t room)
{
    const struct qcow2_ext *names = qcow2_ext_find(exts, QCOW2_EXT_FEATURES);
    size_t need = qcow2_exts_size(exts) - (names ? ext_size(names) : 0);
    size_t pos = 0;

    if (need > room) {
        return 0;
    }
    for (int r = 0; r < 2; r++) {
        for (guint i = 0; i < exts->len; i++) {
            const struct qcow2_ext *e = ext_at(exts, i);
            if (rank(e->type) == r) {
                pos += put_ext(buf + pos, e->type, e->data, e->len);
            }
        }
    }
    if (names && room - need >= EXT_HEAD + FEATURE_LEN) {
        size_t fit = (room - need - EXT_HEAD) / FEATURE_LEN * FEATURE_LEN;
        pos += put_ext(buf + pos, names->type, names->data,
                       (uint32_t)MIN(fit, names->len));
    }
    return pos + put_ext(buf + pos, QCOW2_EXT_END, NULL, 0);
}

bool qcow2_exts_closed(const uint8_t *area, size_t len)
{
    size_t pos = 0;

    while (len - pos >= EXT_HEAD) {
        if (get_be32(area + pos) == QCOW2_EXT_END) {
            return true;
        }
        pos += min_u64(EXT_HEAD + round_up(get_be32(area + pos + 4), 8),
                       len - pos);
    }
    return false;
}

bool qcow2_exts_patch(uint8_t *area, size_t len, const struct qcow2_ext *e)
{
    size_t pos = 0;

    while (len - pos >= EXT_HEAD && get_be32(area + pos) != QCOW2_EXT_END) {
        size_t size = EXT_HEAD + round_up(get_be32(area + pos + 4), 8);

        if (size > len - pos) {
            return false;
        }
        if (get_be32(area + pos) == e->type) {
            if (size != ext_size(e)) {
                return false;
            }
            put_ext(area + pos, e->type, e->data, e->len);
            return true;
        }
        pos += size;
    }
    return false;
}

/* --- names of features --- */

/* A name from the image, made fit for a message. */
static char *name_from_table(const struct qcow2_ext *table,
                             enum qcow2_feature_kind kind, unsigned bit)
{
    /* The last entry may be cut short: zeroes follow. */
    for (uint32_t at = 0; at + FEATURE_NAME_AT < table->len;
         at += FEATURE_LEN) {
        const uint8_t *entry = table->data + at;
        uint32_t room = table->len - at - FEATURE_NAME_AT;
        char *name;

        if (entry[0] != kind || entry[1] != bit) {
            continue;
        }
        name = g_strndup((const char *)entry + FEATURE_NAME_AT,
                         MIN(FEATURE_LEN - FEATURE_NAME_AT, room));
        for (char *c = name; *c; c++) {
            *c = g_ascii_isprint(*c) ? *c : '?';
        }
        return name;
    }
    return NULL;
}

static char *feature_name(const GArray *exts, enum qcow2_feature_kind kind,
                          unsigned bit)
{
    const struct qcow2_ext *table = qcow2_ext_find(exts, QCOW2_EXT_FEATURES);
    char *name = table ? name_from_table(table, kind, bit) : NULL;

    for (size_t i = 0; !name && i < G_N_ELEMENTS(features); i++) {
        if (features[i].kind == kind && features[i].bit == bit) {
            name = g_strdup(features[i].name);
        }
    }
    return name;
}

char *qcow2_feature_names(const GArray *exts, enum qcow2_feature_kind kind,
                          uint64_t bits)
{
    GString *all = g_string_new(NULL);
    uint64_t unnamed = 0;

    for (unsigned bit = 0; bit < 64; bit++) {
        g_autofree char *name = NULL;

        if (!(bits & (UINT64_C(1) << bit))) {
            continue;
        }
        name = feature_name(exts, kind, bit);
        if (name && *name) {
            g_string_append_printf(all, "%s%s", all->len ? ", " : "", name);
        } else {
            unnamed |= UINT64_C(1) << bit;
        }
    }
    if (unnamed) {
        g_string_append_printf(all, "%sUnknown %s feature: %" PRIx64,
                               all->len ? ", " : "",
                               kind == QCOW2_INCOMPATIBLE ? "incompatible"
                               : kind == QCOW2_COMPATIBLE ? "compatible"
                                                          : "autoclear",
                               unnamed);
    }
    return g_string_free(all, FALSE);
}

void qcow2_exts_add_feature_names(GArray *exts)
{
    uint8_t table[FEATURE_LEN * G_N_ELEMENTS(features)] = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        uint8_t *entry = table + i * FEATURE_LEN;

        entry[0] = features[i].kind;
        entry[1] = features[i].bit;
        memcpy(entry + FEATURE_NAME_AT, features[i].name,
               strlen(features[i].name));
    }
    qcow2_exts_set(exts, QCOW2_EXT_FEATURES, table, sizeof(table));
}
