/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LUKS version 1: header, key slots, sectors.  Pure: the caller does the I/O,
 * and calls what is marked slow on a thread of the pool
 * (format/alloc/cpu-pool.h).
 *
 *   header (592 bytes)   cipher, hash, a digest of the master key, 8 slots
 *   slot material        the master key, blown up to 4000 stripes of which all
 *                        are needed, encrypted with a key made of a passphrase
 *   payload              sectors of 512 bytes, each with the IV of its number
 *
 * AES alone: XTS with 256 or 512 bits of key, CBC with 128, 192 or 256; IVs
 * plain, plain64 and ESSIV over sha256.  Anything else is refused by its name.
 * All numbers of the header are checked before they are used, and a header may
 * ask for LUKS_ITERATIONS_MAX rounds of hashing in all: a few seconds.
 * Keys are wiped when they are freed.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/annot.h"

enum {
    LUKS_SECTOR = 512,
    LUKS_HEADER_BYTES = 592,
    LUKS_SLOTS = 8,
    LUKS_STRIPES = 4000,
    LUKS_SALT_BYTES = 32,
    LUKS_DIGEST_BYTES = 20,
    LUKS_KEY_MAX = 64,
    /* Of key material of one slot. */
    LUKS_MATERIAL_MAX = LUKS_KEY_MAX * LUKS_STRIPES,
    LUKS_ITERATIONS_MIN = 1000,
    LUKS_ITERATIONS_MAX = 50 * 1000 * 1000,
    /* Time of unlocking that a new header is made for, ms. */
    LUKS_TIME_DEFAULT = 2000,
};

struct luks_slot {
    bool active;
    uint32_t iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    uint32_t sector; /* of the material */
    uint32_t stripes;
};

/* Host byte order; strings end with NUL. */
struct luks_header {
    char cipher[33], mode[33], hash[33], uuid[41];
    uint32_t payload_sector;
    uint32_t key_bytes;
    uint8_t digest[LUKS_DIGEST_BYTES], digest_salt[LUKS_SALT_BYTES];
    uint32_t digest_iterations;
    struct luks_slot slots[LUKS_SLOTS];
};

enum luks_mode { LUKS_CBC, LUKS_XTS };
enum luks_iv { LUKS_IV_PLAIN, LUKS_IV_PLAIN64, LUKS_IV_ESSIV };
struct luks_cipher {
    enum luks_mode mode;
    enum luks_iv iv;
    unsigned key_bytes;
};

/* --- header.c --- */

/* Read and check a header that owns @area bytes with its key material. -EINVAL
 * damaged; -ENOTSUP a cipher, mode, hash or version we have not got. */
int luks_header_decode(const uint8_t *buf, size_t len, uint64_t area,
                       struct luks_header *ret_h, GError **err);
void luks_header_encode(const struct luks_header *h,
                        uint8_t buf[LUKS_HEADER_BYTES]);
/* Where the material of slot @i is, from the start of the header; bytes. */
void luks_slot_range(const struct luks_header *h, unsigned i, uint64_t *ret_off,
                     uint32_t *ret_len);
/* The members "ivgen-alg" ... "slots" as the tools of QEMU show them. */
json_t *luks_header_info(const struct luks_header *h);
/* 0, -ENOTSUP. */
int luks_cipher_parse(const struct luks_header *h, struct luks_cipher *ret_c,
                      GError **err);

/* --- crypt.c: sectors --- */

struct luks_key;
/* @key: @c.key_bytes, copied. */
int luks_key_new(const struct luks_cipher *c, const uint8_t *key,
                 struct luks_key **ret_k, GError **err);
void luks_key_free(struct luks_key *k); /* NULL is fine */
/* In place; @len is whole sectors, @sector the number of the first. 0 or -EIO.
 * About 1 GiB/s. Any thread, several at once. */
int luks_encrypt(const struct luks_key *k, uint64_t sector, void *buf,
                 size_t len);
int luks_decrypt(const struct luks_key *k, uint64_t sector, void *buf,
                 size_t len);

/* --- slot.c: passphrases; all slow --- */

/* Try @pass on slot @i with its @material, which is overwritten. 0 with a key;
 * -EACCES it is not this passphrase; -ENOTSUP, -EIO. */
int luks_slot_open(const struct luks_header *h, unsigned i, uint8_t *material,
                   const void *passphrase, size_t pass_len,
                   struct luks_key **ret_k, GError **err);

/* What a new header is to be like; NULL or 0: the default. */
struct luks_create {
    const char *cipher_alg;     /* "aes-256" */
    const char *cipher_mode;    /* "xts" */
    const char *ivgen_alg;      /* "plain64" */
    const char *ivgen_hash_alg; /* "sha256", with essiv */
    const char *hash_alg;       /* "sha256" */
    unsigned iter_time;         /* ms of one unlocking on this machine */
};
/* Fill in what is missing, check it, lay the slots out. No keys yet; fast.
 * -EINVAL. */
int luks_create_plan(struct luks_create *c, struct luks_header *ret_h,
                     GError **err);
/* A new master key in slot 0. @ret_material: LUKS_MATERIAL_MAX bytes, of which
 * luks_slot_range() says how many count. */
int luks_create_key(const struct luks_create *c, struct luks_header *h,
                    const void *passphrase, size_t pass_len,
                    uint8_t *ret_material, GError **err);
