/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encrypted images: unlocking, and guest data on its way to and from the file.
 *
 * A LUKS header stands in clusters of its own, which a header extension names.
 * Sectors of 512 bytes are encrypted with an IV that depends on their offset in
 * the file, so data that moves is encrypted anew.  What a cluster holds where
 * nobody wrote must be encrypted zeroes: a hole would be decrypted to random
 * bytes.
 *
 * A write of part of a sector reads the rest.  Meanwhile no other write may
 * touch these sectors: others wait for it, and it waits for those that began
 * before.
 *
 * Keys are derived, and more than a few sectors are computed, off the loop.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "base/options.h"
#include "format/alloc/cpu-pool.h"
#include "format/luks/luks.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/data/data.h"
#include "graph/secret.h"
#include "loop/io.h"

enum {
    EXT_BYTES = 16, /* offset, length */
    PIECE_MAX = 1 << 20,
    INLINE_MAX = 16 << 10, /* computed where it is asked for */
    HEADER_MAX = 64 << 20, /* with the key material; 2 MiB is usual */
};

/* A write under way; on its coroutine's stack. */
struct crypt_write {
    uint64_t start, end; /* file offsets, sectors */
    bool partial;
    struct crypt_write *next;
};

struct qcow2_crypt {
    uint64_t host, len; /* of the header in the file */
    struct luks_header h;
    struct luks_key *key; /* NULL: not unlocked */
    struct cpu_pool cpu_pool;
    struct crypt_write *writes;
    struct co_queue written;
};

/* --- opening --- */

struct unlock {
    struct qcow2_crypt *c;
    GBytes *pass;
    unsigned slot;
    uint8_t *material;
    GError **err;
    int result;
};

static void unlock_slot(void *arg)
{
    struct unlock *u = arg;
    gsize len;
    const void *pass = g_bytes_get_data(u->pass, &len);

    u->result = luks_slot_open(&u->c->h, u->slot, u->material, pass, len,
                               &u->c->key, u->err);
}

static CO_FN int slot_co_try(struct qcow2_image *img, unsigned slot,
                             GBytes *pass, GError **err)
{
    struct qcow2_crypt *c = img->crypt;
    struct unlock u = { .c = c, .pass = pass, .slot = slot, .err = err };
    struct iovec v;
    uint64_t off;
    uint32_t len;
    int ret;

    luks_slot_range(&c->h, slot, &off, &len);
    u.material = io_buf_get(len); /* at most 256000 bytes */
    ret = node_co_preadv(qcow2_file(img), c->host + off,
                         iov_one(&v, u.material, len), 0);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not read LUKS key slot %u", slot);
    } else {
        cpu_pool_co_run(&c->cpu_pool, unlock_slot, &u);
        ret = u.result;
    }
    io_buf_put(u.material, len);
    return ret;
}

static CO_FN int crypt_co_unlock(struct qcow2_image *img, const char *secret,
                                 GError **err)
{
    struct qcow2_crypt *c = img->crypt;
    GBytes *pass;
    int ret = secret_get(img->node->graph, secret, &pass, err);

    if (ret < 0) {
        return ret;
    }
    ret = -EACCES;
    for (unsigned i = 0; i < LUKS_SLOTS && ret == -EACCES; i++) {
        GError *why = NULL;

        if (c->h.slots[i].active) {
            ret = slot_co_try(img, i, pass, &why);
        }
        if (ret < 0 && ret != -EACCES) {
            g_propagate_error(err, why);
        } else {
            g_clear_error(&why);
        }
    }
    g_bytes_unref(pass);
    return ret == -EACCES ? err_set(err, EACCES,
                                    "Invalid password, cannot "
                                    "unlock any keyslot")
                          : ret;
}

static CO_FN int header_co_load(struct qcow2_image *img, GError **err)
{
    const struct qcow2_ext *e = qcow2_exts_find(img->exts, QCOW2_EXT_CRYPT);
    struct qcow2_crypt *c = img->crypt;
    uint8_t buf[LUKS_HEADER_BYTES];
    struct iovec v;
    int ret;

    if (!e || e->len != EXT_BYTES) {
        return err_set(err, EINVAL,
                       "The image is encrypted with LUKS, but its "
                       "header has %s extension that says where the LUKS "
                       "header is",
                       e ? "a damaged" : "no");
    }
    c->host = get_be64(e->data);
    c->len = get_be64(e->data + 8);
    if (c->host == 0 || c->host & (qcow2_cluster_size(img) - 1) ||
        c->len > HEADER_MAX ||
        !range_inside(c->host, c->len, UINT64_C(1) << 56)) {
        return node_corrupt(
            img->node, err, c->host,
            "the LUKS header of %" PRIu64 " bytes cannot be there", c->len);
    }
    ret = node_co_preadv(qcow2_file(img), c->host,
                         iov_one(&v, buf, sizeof(buf)), 0);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the LUKS header");
    }
    return luks_header_decode(buf, sizeof(buf), c->len, &c->h, err);
}

/* The members of "encrypt". */
static int qcow2_luks_take_options(struct opts *o, char **ret_format,
                                   char **ret_secret, GError **err)
{
    json_t *obj = opts_take_any(o, "encrypt");
    struct opts *sub;
    int ret;

    if (obj && !json_is_object(obj)) {
        json_decref(obj);
        return err_set(err, EINVAL,
                       "Invalid parameter type for 'encrypt', "
                       "expected: object");
    }
    sub = opts_new(obj);
    if ((ret = opts_take_str(sub, "format", ret_format, err)) >= 0 &&
        (ret = opts_take_str(sub, "key-secret", ret_secret, err)) >= 0) {
        ret = opts_finish(sub, err);
    }
    opts_free(sub);
    json_decref(obj);
    return ret;
}

static int check_format(const struct qcow2_image *img, const char *format,
                        GError **err)
{
    static const char *const names[] = { NULL, "aes", "luks" };
    const char *have = names[img->hdr.crypt_method];

    if (!have && format) {
        return err_set(err, EINVAL,
                       "No encryption in image header, but "
                       "options specified format '%s'",
                       format);
    }
    if (have && format && strcmp(have, format) != 0) {
        return err_set(err, EINVAL,
                       "Header reported '%s' encryption format "
                       "but options specify '%s'",
                       have, format);
    }
    return 0;
}

static CO_FN int luks_co_open(struct qcow2_image *img, const char *secret,
                              unsigned flags, GError **err)
{
    int ret;

    img->crypt = g_new0(struct qcow2_crypt, 1);
    ret = header_co_load(img, err);
    if (ret == 0 && secret) {
        ret = crypt_co_unlock(img, secret, err);
    } else if (ret == 0 && !(flags & (NODE_NO_IO | NODE_CHECK))) {
        ret = err_set(err, EINVAL,
                      "Parameter 'encrypt.key-secret' is required "
                      "for cipher");
    }
    return ret;
}

int qcow2_co_crypt_open(struct qcow2_image *img, struct opts *o, unsigned flags,
                        GError **err)
{
    g_autofree char *format = NULL, *secret = NULL;
    int ret = qcow2_luks_take_options(o, &format, &secret, err);

    if (ret == 0) {
        ret = check_format(img, format, err);
    }
    if (ret < 0 || img->hdr.crypt_method == QCOW2_CRYPT_NONE) {
        return ret;
    }
    if (img->hdr.crypt_method == QCOW2_CRYPT_AES) {
        return flags & NODE_NO_IO
                   ? 0
                   : err_set(err, ENOTSUP,
                             "AES encryption of qcow2 images is not "
                             "supported: convert the image to LUKS");
    }
    return luks_co_open(img, secret, flags, err);
}

void qcow2_crypt_close(struct qcow2_image *img)
{
    if (img->crypt) {
        g_assert(!img->crypt->writes);
        luks_key_free(img->crypt->key);
        g_clear_pointer(&img->crypt, g_free);
    }
}

void qcow2_crypt_range(const struct qcow2_image *img, uint64_t *ret_host,
                       uint64_t *ret_len)
{
    *ret_host = img->crypt ? img->crypt->host : 0;
    *ret_len = img->crypt ? img->crypt->len : 0;
}

void qcow2_crypt_info(const struct qcow2_image *img, json_t *data)
{
    json_t *o;

    if (img->crypt) {
        o = luks_header_info(&img->crypt->h);
        json_object_set_new(data, "encrypt", o);
    } else if (img->hdr.crypt_method == QCOW2_CRYPT_AES) {
        json_object_set_new(data, "encrypt",
                            json_pack("{s:s}", "format", "aes"));
    }
}

/* --- sectors --- */

struct sectors {
    const struct luks_key *key;
    uint64_t sector;
    void *buf;
    size_t len;
    bool encrypt;
    int result;
};

static void sectors_run(void *arg)
{
    struct sectors *s = arg;

    s->result = s->encrypt ? luks_encrypt(s->key, s->sector, s->buf, s->len)
                           : luks_decrypt(s->key, s->sector, s->buf, s->len);
}

/* @host, @len: whole sectors. */
static CO_FN int sectors_co_run(struct qcow2_crypt *c, uint64_t host, void *buf,
                                size_t len, bool encrypt)
{
    struct sectors s = { c->key, host / LUKS_SECTOR, buf, len, encrypt, 0 };

    if (!c->key) {
        return -EACCES;
    }
    if (len <= INLINE_MAX) {
        sectors_run(&s);
    } else {
        cpu_pool_co_run(&c->cpu_pool, sectors_run, &s);
    }
    return s.result;
}

static CO_FN int sectors_co_read(struct qcow2_image *img, uint64_t host,
                                 void *buf, size_t len, unsigned flags)
{
    struct iovec v;
    int ret = qcow2_co_data_read(img, host, iov_one(&v, buf, len), flags);

    return ret < 0 ? ret : sectors_co_run(img->crypt, host, buf, len, false);
}

static bool whole_sectors(uint64_t host, uint64_t len)
{
    return (host | len) % LUKS_SECTOR == 0;
}

/* The sectors that [@host, @host+@len) touches. */
static uint64_t sectors_start(uint64_t host)
{
    return round_down(host, LUKS_SECTOR);
}

static size_t sectors_len(uint64_t host, uint64_t len)
{
    return (size_t)(round_up(host + len, LUKS_SECTOR) - sectors_start(host));
}

static CO_FN int piece_co_read(struct qcow2_image *img, uint64_t host,
                               struct iov iov, unsigned flags)
{
    uint64_t start = sectors_start(host);
    size_t len = sectors_len(host, iov.len);
    void *direct = whole_sectors(host, iov.len) ? iov_contiguous(iov) : NULL;
    uint8_t *buf = direct ? direct : io_buf_get(len);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = sectors_co_read(img, start, buf, len, flags);
    if (!direct) {
        iov_from_buf(iov, 0, buf + (host - start), iov.len);
        io_buf_put(buf, len);
    }
    return ret;
}

/* Bytes of the request from @at on that one piece takes. */
static size_t piece_len(uint64_t host, struct iov iov, size_t at)
{
    uint64_t room = PIECE_MAX - (host + at) % LUKS_SECTOR;

    return (size_t)min_u64(iov.len - at, room);
}

int qcow2_co_crypt_read(struct qcow2_image *img, uint64_t off, uint64_t host,
                        struct iov iov, unsigned flags)
{
    int ret = 0;

    for (size_t at = 0, n; at < iov.len && ret == 0; at += n) {
        n = piece_len(host, iov, at);
        ret = piece_co_read(img, host + at, iov_slice(iov, at, n), flags);
    }
    return ret;
}

/* --- writing --- */

static bool must_wait(const struct qcow2_crypt *c, const struct crypt_write *w)
{
    for (const struct crypt_write *o = c->writes; o; o = o->next) {
        if ((o->partial || w->partial) && o->start < w->end &&
            w->start < o->end) {
            return true;
        }
    }
    return false;
}

static CO_FN void write_co_begin(struct qcow2_crypt *c, struct crypt_write *w)
{
    while (must_wait(c, w)) {
        co_queue_co_wait(&c->written);
    }
    w->next = c->writes;
    c->writes = w;
}

static void write_end(struct qcow2_crypt *c, struct crypt_write *w)
{
    struct crypt_write **at = &c->writes;

    while (*at != w) {
        at = &(*at)->next;
    }
    *at = w->next;
    co_queue_wake_all(&c->written);
}

/* What the sectors at both ends of @buf hold besides the guest's bytes. */
static CO_FN int edges_co_read(struct qcow2_image *img, uint64_t host,
                               size_t len, uint8_t *buf)
{
    uint64_t start = sectors_start(host), end = host + len;
    uint64_t last = sectors_start(end);
    int ret = 0;

    if (start != host) {
        ret = sectors_co_read(img, start, buf, LUKS_SECTOR, 0);
    }
    if (ret == 0 && last != end && (last != start || start == host)) {
        ret = sectors_co_read(img, last, buf + (last - start), LUKS_SECTOR, 0);
    }
    return ret;
}

static CO_FN int piece_co_write(struct qcow2_image *img, uint64_t host,
                                struct iov iov, unsigned flags)
{
    struct qcow2_crypt *c = img->crypt;
    uint64_t start = sectors_start(host);
    size_t len = sectors_len(host, iov.len);
    struct crypt_write w = { start, start + len, !whole_sectors(host, iov.len),
                             NULL };
    uint8_t *buf = io_buf_get(len);
    struct iovec v;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    write_co_begin(c, &w);
    if (w.partial) {
        ret = edges_co_read(img, host, iov.len, buf);
    }
    if (ret == 0) {
        iov_to_buf(iov, 0, buf + (host - start), iov.len);
        ret = sectors_co_run(c, start, buf, len, true);
    }
    if (ret == 0) {
        ret = qcow2_co_data_write(img, start, iov_one(&v, buf, len), flags);
    }
    write_end(c, &w);
    io_buf_put(buf, len);
    return ret;
}

int qcow2_co_crypt_write(struct qcow2_image *img, uint64_t off, uint64_t host,
                         struct iov iov, unsigned flags)
{
    int ret = 0;

    for (size_t at = 0, n; at < iov.len && ret == 0; at += n) {
        n = piece_len(host, iov, at);
        ret = piece_co_write(img, host + at, iov_slice(iov, at, n), flags);
    }
    return ret;
}
