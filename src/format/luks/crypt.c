/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sectors.  A cipher handle of the library holds the IV, so each call makes
 * its own; setting up a key costs what a few sectors cost.  ECB of one block,
 * which ESSIV needs, is CBC of it with an IV of zeroes.
 */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "format/luks/luks.h"

enum { IV_BYTES = 16, ESSIV_KEY_BYTES = 32 };

struct luks_key {
    struct luks_cipher cipher;
    gnutls_cipher_algorithm_t alg;
    uint8_t key[LUKS_KEY_MAX];
    uint8_t essiv_key[ESSIV_KEY_BYTES];
};

static gnutls_cipher_algorithm_t algorithm(const struct luks_cipher *c)
{
    if (c->mode == LUKS_XTS) {
        return c->key_bytes == 64 ? GNUTLS_CIPHER_AES_256_XTS
                                  : GNUTLS_CIPHER_AES_128_XTS;
    }
    return c->key_bytes == 32   ? GNUTLS_CIPHER_AES_256_CBC
           : c->key_bytes == 24 ? GNUTLS_CIPHER_AES_192_CBC
                                : GNUTLS_CIPHER_AES_128_CBC;
}

static int cipher_init(gnutls_cipher_hd_t *ret_h, gnutls_cipher_algorithm_t alg,
                       const uint8_t *key, unsigned key_bytes)
{
    static const uint8_t zero[IV_BYTES];
    gnutls_datum_t k = { (uint8_t *)key, key_bytes };
    gnutls_datum_t iv = { (uint8_t *)zero, IV_BYTES };

    return gnutls_cipher_init(ret_h, alg, &k, &iv) < 0 ? -EIO : 0;
}

int luks_key_new(const struct luks_cipher *c, const uint8_t *key,
                 struct luks_key **ret_k, GError **err)
{
    struct luks_key *k = g_new0(struct luks_key, 1);
    gnutls_cipher_hd_t h;

    k->cipher = *c;
    k->alg = algorithm(c);
    memcpy(k->key, key, c->key_bytes);
    if (cipher_init(&h, k->alg, k->key, c->key_bytes) < 0 ||
        gnutls_hash_fast(GNUTLS_DIG_SHA256, k->key, c->key_bytes,
                         k->essiv_key) < 0) {
        luks_key_free(k);
        return err_set(err, ENOTSUP, "The crypto library refuses cipher '%s'",
                       gnutls_cipher_get_name(algorithm(c)));
    }
    gnutls_cipher_deinit(h);
    *ret_k = k;
    return 0;
}

void luks_key_free(struct luks_key *k)
{
    if (k) {
        gnutls_memset(k, 0, sizeof(*k));
        g_free(k);
    }
}

/* The handles of one call. */
struct crypt {
    gnutls_cipher_hd_t data, essiv;
};

static int crypt_begin(const struct luks_key *k, struct crypt *c)
{
    int ret = cipher_init(&c->data, k->alg, k->key, k->cipher.key_bytes);

    if (ret == 0 && k->cipher.iv == LUKS_IV_ESSIV) {
        ret = cipher_init(&c->essiv, GNUTLS_CIPHER_AES_256_CBC, k->essiv_key,
                          ESSIV_KEY_BYTES);
        if (ret < 0) {
            gnutls_cipher_deinit(c->data);
        }
    }
    return ret;
}

static void crypt_end(const struct luks_key *k, struct crypt *c)
{
    gnutls_cipher_deinit(c->data);
    if (k->cipher.iv == LUKS_IV_ESSIV) {
        gnutls_cipher_deinit(c->essiv);
    }
}

static int crypt_set_sector(const struct luks_key *k, struct crypt *c,
                            uint64_t sector)
{
    uint8_t iv[IV_BYTES] = { 0 }, zero[IV_BYTES] = { 0 };

    if (k->cipher.iv == LUKS_IV_PLAIN) {
        put_le32(iv, (uint32_t)sector);
    } else {
        put_le64(iv, sector);
    }
    if (k->cipher.iv == LUKS_IV_ESSIV) {
        gnutls_cipher_set_iv(c->essiv, zero, IV_BYTES);
        if (gnutls_cipher_encrypt(c->essiv, iv, IV_BYTES) < 0) {
            return -EIO;
        }
    }
    gnutls_cipher_set_iv(c->data, iv, IV_BYTES);
    return 0;
}

static int crypt_run(const struct luks_key *k, uint64_t sector, uint8_t *buf,
                     size_t len,
                     int (*one)(gnutls_cipher_hd_t h, void *text, size_t size))
{
    struct crypt c = { NULL, NULL };
    int ret = crypt_begin(k, &c);

    if (ret < 0) {
        return ret;
    }
    g_assert(len % LUKS_SECTOR == 0);
    for (size_t at = 0; at < len && ret == 0; at += LUKS_SECTOR) {
        ret = crypt_set_sector(k, &c, sector++);
        if (ret == 0 && one(c.data, buf + at, LUKS_SECTOR) < 0) {
            ret = -EIO;
        }
    }
    crypt_end(k, &c);
    return ret;
}

static int encrypt_one(gnutls_cipher_hd_t h, void *text, size_t size)
{
    return gnutls_cipher_encrypt(h, text, size);
}

static int decrypt_one(gnutls_cipher_hd_t h, void *text, size_t size)
{
    return gnutls_cipher_decrypt(h, text, size);
}

int luks_encrypt(const struct luks_key *k, uint64_t sector, void *buf,
                 size_t len)
{
    return crypt_run(k, sector, buf, len, encrypt_one);
}

int luks_decrypt(const struct luks_key *k, uint64_t sector, void *buf,
                 size_t len)
{
    return crypt_run(k, sector, buf, len, decrypt_one);
}
