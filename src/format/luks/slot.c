/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Key slots: passphrase -> key of the slot -> stripes -> master key, which the
 * header's digest confirms.  And the making of a header with one slot.
 */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/luks/luks.h"

enum { HASH_MAX = 64, SLOT_ALIGN = 4096 };

static const struct {
    const char *name;
    gnutls_digest_algorithm_t digest;
    gnutls_mac_algorithm_t mac;
} luks_slot_hashes[] = {
    { "sha1", GNUTLS_DIG_SHA1, GNUTLS_MAC_SHA1 },
    { "sha224", GNUTLS_DIG_SHA224, GNUTLS_MAC_SHA224 },
    { "sha256", GNUTLS_DIG_SHA256, GNUTLS_MAC_SHA256 },
    { "sha384", GNUTLS_DIG_SHA384, GNUTLS_MAC_SHA384 },
    { "sha512", GNUTLS_DIG_SHA512, GNUTLS_MAC_SHA512 },
};

/* Index into hashes[]; the name was checked. */
static unsigned hash_index(const struct luks_header *h)
{
    unsigned i = 0;

    while (strcmp(luks_slot_hashes[i].name, h->hash) != 0) {
        i++;
        g_assert(i < G_N_ELEMENTS(luks_slot_hashes));
    }
    return i;
}

static int derive(const struct luks_header *h, const void *secret, size_t len,
                  const uint8_t *salt, uint32_t iterations, void *out,
                  size_t out_len)
{
    gnutls_datum_t key = { (unsigned char *)secret, (unsigned)len };
    gnutls_datum_t s = { (unsigned char *)salt, LUKS_SALT_BYTES };

    return gnutls_pbkdf2(luks_slot_hashes[hash_index(h)].mac, &key, &s,
                         iterations, out, out_len) < 0
               ? -EIO
               : 0;
}

/* --- anti-forensic stripes --- */

/* Replace each piece of @block, as long as the hash is, by the hash of its
 * number and itself. */
static int diffuse(const struct luks_header *h, uint8_t *block)
{
    gnutls_digest_algorithm_t alg = luks_slot_hashes[hash_index(h)].digest;
    unsigned piece = gnutls_hash_get_len(alg);
    uint8_t buf[4 + HASH_MAX], out[HASH_MAX];

    for (unsigned at = 0, i = 0; at < h->key_bytes; at += piece, i++) {
        unsigned len = MIN(piece, h->key_bytes - at);

        put_be32(buf, i);
        memcpy(buf + 4, block + at, len);
        if (gnutls_hash_fast(alg, buf, 4 + len, out) < 0) {
            return -EIO;
        }
        memcpy(block + at, out, len);
    }
    return 0;
}

static void xor_into(uint8_t *to, const uint8_t *from, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        to[i] ^= from[i];
    }
}

/* @acc = what all stripes but the last come to. */
static int stripes_fold(const struct luks_header *h, const uint8_t *material,
                        uint8_t *acc)
{
    int ret = 0;

    memset(acc, 0, h->key_bytes);
    for (unsigned i = 0; i < LUKS_STRIPES - 1 && ret == 0; i++) {
        xor_into(acc, material + (size_t)i * h->key_bytes, h->key_bytes);
        ret = diffuse(h, acc);
    }
    return ret;
}

static uint8_t *last_stripe(const struct luks_header *h, uint8_t *material)
{
    return material + (size_t)(LUKS_STRIPES - 1) * h->key_bytes;
}

static int stripes_merge(const struct luks_header *h, uint8_t *material,
                         uint8_t *ret_key)
{
    int ret = stripes_fold(h, material, ret_key);

    xor_into(ret_key, last_stripe(h, material), h->key_bytes);
    return ret;
}

/* @material holds random bytes; the last stripe is made to fit @key. */
static int stripes_split(const struct luks_header *h, uint8_t *material,
                         const uint8_t *key)
{
    uint8_t *last = last_stripe(h, material);
    int ret = stripes_fold(h, material, last);

    xor_into(last, key, h->key_bytes);
    return ret;
}

/* --- opening --- */

/* The cipher of the slot's material under the key that @pass gives. */
static int slot_cipher(const struct luks_header *h, unsigned i,
                       const void *passphrase, size_t pass_len,
                       struct luks_key **ret_k, GError **err)
{
    const struct luks_slot *s = &h->slots[i];
    uint8_t derived[LUKS_KEY_MAX];
    struct luks_cipher c;
    int ret = luks_cipher_parse(h, &c, err);

    if (ret < 0) {
        return ret;
    }
    if (derive(h, passphrase, pass_len, s->salt, s->iterations, derived,
               h->key_bytes) < 0) {
        return err_set(err, EIO,
                       "Could not derive the key of LUKS slot %u "
                       "with hash '%s'",
                       i, h->hash);
    }
    ret = luks_key_new(&c, derived, ret_k, err);
    gnutls_memset(derived, 0, sizeof(derived));
    return ret;
}

static int key_confirm(const struct luks_header *h, const uint8_t *key,
                       GError **err)
{
    uint8_t digest[LUKS_DIGEST_BYTES];

    if (derive(h, key, h->key_bytes, h->digest_salt, h->digest_iterations,
               digest, LUKS_DIGEST_BYTES) < 0) {
        return err_set(err, EIO,
                       "Could not hash the LUKS master key with "
                       "'%s'",
                       h->hash);
    }
    if (gnutls_memcmp(digest, h->digest, LUKS_DIGEST_BYTES) != 0) {
        return err_set(err, EACCES, "Not the passphrase of LUKS key slot");
    }
    return 0;
}

int luks_slot_open(const struct luks_header *h, unsigned i, uint8_t *material,
                   const void *passphrase, size_t pass_len,
                   struct luks_key **ret_k, GError **err)
{
    uint8_t master[LUKS_KEY_MAX];
    struct luks_key *k;
    struct luks_cipher c;
    uint64_t off;
    uint32_t len;
    int ret;

    luks_slot_range(h, i, &off, &len);
    ret = slot_cipher(h, i, passphrase, pass_len, &k, err);
    if (ret < 0) {
        return ret;
    }
    ret = luks_decrypt(k, 0, material, len);
    luks_key_free(k);
    if (ret == 0) {
        ret = stripes_merge(h, material, master);
    }
    if (ret < 0) {
        return err_set(err, EIO, "Could not decrypt LUKS key slot %u", i);
    }
    ret = key_confirm(h, master, err);
    if (ret == 0 && (ret = luks_cipher_parse(h, &c, err)) == 0) {
        ret = luks_key_new(&c, master, ret_k, err);
    }
    gnutls_memset(master, 0, sizeof(master));
    return ret;
}

/* --- creating --- */

static int plan_cipher(struct luks_create *c, struct luks_header *h,
                       GError **err)
{
    bool essiv, xts;
    uint64_t bits;

    c->cipher_alg = c->cipher_alg ? c->cipher_alg : "aes-256";
    c->cipher_mode = c->cipher_mode ? c->cipher_mode : "xts";
    c->ivgen_alg = c->ivgen_alg ? c->ivgen_alg : "plain64";
    c->hash_alg = c->hash_alg ? c->hash_alg : "sha256";
    c->iter_time = c->iter_time ? c->iter_time : LUKS_TIME_DEFAULT;
    essiv = strcmp(c->ivgen_alg, "essiv") == 0;
    xts = strcmp(c->cipher_mode, "xts") == 0;
    if (essiv && !c->ivgen_hash_alg) {
        c->ivgen_hash_alg = "sha256";
    }
    if (!g_str_has_prefix(c->cipher_alg, "aes-") ||
        !g_ascii_string_to_unsigned(c->cipher_alg + strlen("aes-"), 10, 0, 256,
                                    &bits, NULL)) {
        return err_set(err, EINVAL, "Cipher '%s' is not supported",
                       c->cipher_alg);
    }
    h->key_bytes = (uint32_t)bits / 8 * (xts ? 2 : 1);
    g_strlcpy(h->cipher, "aes", sizeof(h->cipher));
    g_strlcpy(h->hash, c->hash_alg, sizeof(h->hash));
    g_snprintf(h->mode, sizeof(h->mode), "%s-%s%s%s", c->cipher_mode,
               c->ivgen_alg, essiv ? ":" : "", essiv ? c->ivgen_hash_alg : "");
    return 0;
}

int luks_create_plan(struct luks_create *c, struct luks_header *ret_h,
                     GError **err)
{
    struct luks_header h = { .key_bytes = 0 };
    struct luks_cipher cipher;
    g_autofree char *uuid = g_uuid_string_random();
    uint64_t at = SLOT_ALIGN, step;
    int ret = plan_cipher(c, &h, err);

    if (ret == 0) {
        ret = luks_cipher_parse(&h, &cipher, err);
    }
    if (ret < 0) {
        return ret;
    }
    g_strlcpy(h.uuid, uuid, sizeof(h.uuid));
    step = round_up((uint64_t)h.key_bytes * LUKS_STRIPES, SLOT_ALIGN);
    for (unsigned i = 0; i < LUKS_SLOTS; i++, at += step) {
        h.slots[i].sector = (uint32_t)(at / LUKS_SECTOR);
        h.slots[i].stripes = LUKS_STRIPES;
    }
    h.payload_sector = (uint32_t)(at / LUKS_SECTOR);
    *ret_h = h;
    return 0;
}

/* Iterations that take @ms milliseconds for @bytes of key on this machine. */
static int iterations_measure(const struct luks_header *h, unsigned bytes,
                              unsigned ms, uint32_t *ret_iterations)
{
    enum { ENOUGH_US = 5000 };
    static const uint8_t salt[LUKS_SALT_BYTES];
    uint8_t out[LUKS_KEY_MAX];
    uint32_t n = 1000;

    for (;;) {
        gint64 start = g_get_monotonic_time(), took;
        int ret = derive(h, "measure", 7, salt, n, out, bytes);

        took = g_get_monotonic_time() - start;
        if (ret < 0) {
            return ret;
        }
        if (took >= ENOUGH_US || n >= LUKS_ITERATIONS_MAX / 16) {
            uint64_t want = (uint64_t)n * ms * 1000 / (uint64_t)MAX(took, 1);

            *ret_iterations = (uint32_t)CLAMP(want, LUKS_ITERATIONS_MIN,
                                              LUKS_ITERATIONS_MAX / 2);
            return 0;
        }
        n *= 2;
    }
}

static int create_fill(const struct luks_create *c, struct luks_header *h,
                       const void *passphrase, size_t pass_len, uint8_t *master,
                       uint8_t *material, GError **err)
{
    enum { DIGEST_SHARE = 8 }; /* the digest takes an eighth of the time */
    struct luks_slot *s = &h->slots[0];
    struct luks_key *k = NULL;
    uint64_t off;
    uint32_t len;
    int ret;

    luks_slot_range(h, 0, &off, &len);
    if (gnutls_rnd(GNUTLS_RND_KEY, master, h->key_bytes) < 0 ||
        gnutls_rnd(GNUTLS_RND_RANDOM, material, len) < 0 ||
        gnutls_rnd(GNUTLS_RND_RANDOM, s->salt, LUKS_SALT_BYTES) < 0 ||
        gnutls_rnd(GNUTLS_RND_RANDOM, h->digest_salt, LUKS_SALT_BYTES) < 0 ||
        iterations_measure(h, LUKS_DIGEST_BYTES,
                           MAX(c->iter_time / DIGEST_SHARE, 1),
                           &h->digest_iterations) < 0 ||
        iterations_measure(h, h->key_bytes, c->iter_time, &s->iterations) < 0 ||
        derive(h, master, h->key_bytes, h->digest_salt, h->digest_iterations,
               h->digest, LUKS_DIGEST_BYTES) < 0 ||
        stripes_split(h, material, master) < 0) {
        return err_set(err, EIO, "Could not make a LUKS key");
    }
    s->active = true;
    ret = slot_cipher(h, 0, passphrase, pass_len, &k, err);
    if (ret == 0) {
        ret = luks_encrypt(k, 0, material, len);
        luks_key_free(k);
        if (ret < 0) {
            err_set(err, EIO, "Could not encrypt the LUKS key");
        }
    }
    return ret;
}

int luks_create_key(const struct luks_create *c, struct luks_header *h,
                    const void *passphrase, size_t pass_len,
                    uint8_t *ret_material, GError **err)
{
    uint8_t master[LUKS_KEY_MAX];
    int ret = create_fill(c, h, passphrase, pass_len, master, ret_material,
                          err);

    gnutls_memset(master, 0, sizeof(master));
    return ret;
}
