/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header: big-endian, at fixed offsets.  Nothing of it is used before
 * luks_header_decode() has checked it.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/luks/luks.h"

enum {
    AT_VERSION = 6,
    AT_CIPHER = 8,
    AT_MODE = 40,
    AT_HASH = 72,
    AT_PAYLOAD = 104,
    AT_KEY_BYTES = 108,
    AT_DIGEST = 112,
    AT_DIGEST_SALT = 132,
    AT_DIGEST_ITERATIONS = 164,
    AT_UUID = 168,
    AT_SLOTS = 208,
    SLOT_BYTES = 48,
    SLOT_ITERATIONS = 4,
    SLOT_SALT = 8,
    SLOT_SECTOR = 40,
    SLOT_STRIPES = 44,
    NAME_BYTES = 32,
    UUID_BYTES = 40,
};
G_STATIC_ASSERT((int)AT_SLOTS + LUKS_SLOTS * SLOT_BYTES ==
                (int)LUKS_HEADER_BYTES);

static const uint8_t luks_magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };
#define SLOT_ACTIVE UINT32_C(0x00ac71f3)
#define SLOT_UNUSED UINT32_C(0x0000dead)

/* Field of @max bytes, NUL-padded. False: not printable, not ended. */
static bool take_name(const uint8_t *buf, size_t max, char *ret)
{
    size_t len = strnlen((const char *)buf, max);

    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isprint((char)buf[i])) {
            return false;
        }
    }
    memcpy(ret, buf, len);
    ret[len] = 0;
    return true;
}

static int slot_decode(const uint8_t *buf, struct luks_slot *s)
{
    uint32_t state = get_be32(buf);

    s->active = state == SLOT_ACTIVE;
    s->iterations = get_be32(buf + SLOT_ITERATIONS);
    memcpy(s->salt, buf + SLOT_SALT, LUKS_SALT_BYTES);
    s->sector = get_be32(buf + SLOT_SECTOR);
    s->stripes = get_be32(buf + SLOT_STRIPES);
    return s->active || state == SLOT_UNUSED ? 0 : -EINVAL;
}

void luks_slot_range(const struct luks_header *h, unsigned i, uint64_t *ret_off,
                     uint32_t *ret_len)
{
    *ret_off = (uint64_t)h->slots[i].sector * LUKS_SECTOR;
    *ret_len = (uint32_t)round_up((uint64_t)h->key_bytes * LUKS_STRIPES,
                                  LUKS_SECTOR);
}

/* Slots lie behind the header, inside of the area, and apart from each other.
 * Unused ones too: somebody may use them one day. */
static int slots_validate(const struct luks_header *h, uint64_t area,
                          GError **err)
{
    uint64_t iterations = h->digest_iterations, off, other;
    uint32_t len;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &h->slots[i];

        luks_slot_range(h, i, &off, &len);
        if (s->stripes != LUKS_STRIPES) {
            return err_set(err, EINVAL,
                           "LUKS key slot %u has %u stripes "
                           "instead of %d",
                           i, s->stripes, LUKS_STRIPES);
        }
        if (off < LUKS_HEADER_BYTES || !range_inside(off, len, area)) {
            return err_set(err, EINVAL,
                           "LUKS key slot %u at offset %" PRIu64
                           " lies outside of the header's %" PRIu64 " bytes",
                           i, off, area);
        }
        for (unsigned j = 0; j < i; j++) {
            luks_slot_range(h, j, &other, &len);
            if (ranges_overlap(off, len, other, len)) {
                return err_set(err, EINVAL,
                               "LUKS key slots %u and %u overlap "
                               "at offset %" PRIu64,
                               j, i, off);
            }
        }
        if (s->active && s->iterations == 0) {
            return err_set(err, EINVAL,
                           "LUKS key slot %u has an iteration "
                           "count of 0",
                           i);
        }
        iterations += s->active ? s->iterations : 0;
    }
    if (iterations > LUKS_ITERATIONS_MAX) {
        return err_set(err, EINVAL,
                       "LUKS header asks for %" PRIu64
                       " iterations; at most %d are done",
                       iterations, LUKS_ITERATIONS_MAX);
    }
    return 0;
}

static int luks_header_validate(const struct luks_header *h, uint64_t area,
                                GError **err)
{
    struct luks_cipher c;
    int ret = luks_cipher_parse(h, &c, err);

    if (ret < 0) {
        return ret;
    }
    if (h->digest_iterations == 0) {
        return err_set(err, EINVAL,
                       "LUKS header has a digest iteration count "
                       "of 0");
    }
    return slots_validate(h, area, err);
}

int luks_header_decode(const uint8_t *buf, size_t len, uint64_t area,
                       struct luks_header *ret_h, GError **err)
{
    struct luks_header h = { .key_bytes = 0 };

    if (len < LUKS_HEADER_BYTES || area < LUKS_HEADER_BYTES) {
        return err_set(err, EINVAL, "LUKS header is cut off after %zu bytes",
                       len);
    }
    if (memcmp(buf, luks_magic, sizeof(luks_magic)) != 0) {
        return err_set(err, EINVAL, "LUKS header has no magic number");
    }
    if (get_be16(buf + AT_VERSION) != 1) {
        return err_set(err, ENOTSUP, "LUKS version %u is not supported",
                       get_be16(buf + AT_VERSION));
    }
    if (!take_name(buf + AT_CIPHER, NAME_BYTES, h.cipher) ||
        !take_name(buf + AT_MODE, NAME_BYTES, h.mode) ||
        !take_name(buf + AT_HASH, NAME_BYTES, h.hash) ||
        !take_name(buf + AT_UUID, UUID_BYTES, h.uuid)) {
        return err_set(err, EINVAL, "LUKS header has a name that is not text");
    }
    h.payload_sector = get_be32(buf + AT_PAYLOAD);
    h.key_bytes = get_be32(buf + AT_KEY_BYTES);
    memcpy(h.digest, buf + AT_DIGEST, LUKS_DIGEST_BYTES);
    memcpy(h.digest_salt, buf + AT_DIGEST_SALT, LUKS_SALT_BYTES);
    h.digest_iterations = get_be32(buf + AT_DIGEST_ITERATIONS);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (slot_decode(buf + AT_SLOTS + i * SLOT_BYTES, &h.slots[i]) < 0) {
            return err_set(err, EINVAL,
                           "LUKS key slot %u is neither active "
                           "nor unused",
                           i);
        }
    }
    int ret = luks_header_validate(&h, area, err);
    if (ret == 0) {
        *ret_h = h;
    }
    return ret;
}

void luks_header_encode(const struct luks_header *h,
                        uint8_t buf[LUKS_HEADER_BYTES])
{
    memset(buf, 0, LUKS_HEADER_BYTES);
    memcpy(buf, luks_magic, sizeof(luks_magic));
    put_be16(buf + AT_VERSION, 1);
    memcpy(buf + AT_CIPHER, h->cipher, strlen(h->cipher));
    memcpy(buf + AT_MODE, h->mode, strlen(h->mode));
    memcpy(buf + AT_HASH, h->hash, strlen(h->hash));
    memcpy(buf + AT_UUID, h->uuid, strlen(h->uuid));
    put_be32(buf + AT_PAYLOAD, h->payload_sector);
    put_be32(buf + AT_KEY_BYTES, h->key_bytes);
    memcpy(buf + AT_DIGEST, h->digest, LUKS_DIGEST_BYTES);
    memcpy(buf + AT_DIGEST_SALT, h->digest_salt, LUKS_SALT_BYTES);
    put_be32(buf + AT_DIGEST_ITERATIONS, h->digest_iterations);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &h->slots[i];
        uint8_t *at = buf + AT_SLOTS + i * SLOT_BYTES;

        put_be32(at, s->active ? SLOT_ACTIVE : SLOT_UNUSED);
        put_be32(at + SLOT_ITERATIONS, s->iterations);
        memcpy(at + SLOT_SALT, s->salt, LUKS_SALT_BYTES);
        put_be32(at + SLOT_SECTOR, s->sector);
        put_be32(at + SLOT_STRIPES, s->stripes);
    }
}

/* "xts-plain64", "cbc-essiv:sha256" */
static const struct {
    const char *name;
    enum luks_mode mode;
    enum luks_iv iv;
} modes[] = {
    { "xts-plain64", LUKS_XTS, LUKS_IV_PLAIN64 },
    { "xts-plain", LUKS_XTS, LUKS_IV_PLAIN },
    { "cbc-plain64", LUKS_CBC, LUKS_IV_PLAIN64 },
    { "cbc-plain", LUKS_CBC, LUKS_IV_PLAIN },
    { "cbc-essiv:sha256", LUKS_CBC, LUKS_IV_ESSIV },
};
static const char *const luks_header_hashes[] = { "sha1",   "sha224", "sha256",
                                                  "sha384", "sha512", NULL };

static bool key_fits(enum luks_mode mode, uint32_t bytes)
{
    return mode == LUKS_XTS ? bytes == 32 || bytes == 64
                            : bytes == 16 || bytes == 24 || bytes == 32;
}

int luks_cipher_parse(const struct luks_header *h, struct luks_cipher *ret_c,
                      GError **err)
{
    unsigned i = 0;

    if (strcmp(h->cipher, "aes") != 0) {
        return err_set(err, ENOTSUP, "LUKS cipher '%s' is not supported",
                       h->cipher);
    }
    if (!g_strv_contains(luks_header_hashes, h->hash)) {
        return err_set(err, ENOTSUP, "LUKS hash '%s' is not supported",
                       h->hash);
    }
    while (i < G_N_ELEMENTS(modes) && strcmp(h->mode, modes[i].name) != 0) {
        i++;
    }
    if (i == G_N_ELEMENTS(modes)) {
        return err_set(err, ENOTSUP, "LUKS cipher mode '%s' is not supported",
                       h->mode);
    }
    if (!key_fits(modes[i].mode, h->key_bytes)) {
        return err_set(err, ENOTSUP,
                       "LUKS keys of %u bytes are not supported "
                       "with '%s'",
                       h->key_bytes, h->mode);
    }
    *ret_c = (struct luks_cipher) { modes[i].mode, modes[i].iv, h->key_bytes };
    return 0;
}

static json_t *slots_info(const struct luks_header *h)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &h->slots[i];
        json_t *o = json_pack("{s:b}", "active", s->active);

        if (s->active) {
            json_object_set_new(o, "iters", json_integer(s->iterations));
        }
        json_object_set_new(o, "key-offset",
                            json_integer((json_int_t)s->sector * LUKS_SECTOR));
        if (s->active) {
            json_object_set_new(o, "stripes", json_integer(s->stripes));
        }
        json_array_append_new(list, o);
    }
    return list;
}

json_t *luks_header_info(const struct luks_header *h)
{
    struct luks_cipher c = { LUKS_CBC, LUKS_IV_PLAIN, 0 };
    static const char *const ivs[] = { "plain", "plain64", "essiv" };
    char alg[16];
    json_t *o;

    luks_cipher_parse(h, &c, NULL);
    g_snprintf(alg, sizeof(alg), "aes-%u",
               c.key_bytes * 8 / (c.mode == LUKS_XTS ? 2 : 1));
    o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:I,s:I}", "ivgen-alg",
                  ivs[c.iv], "hash-alg", h->hash, "cipher-alg", alg, "uuid",
                  h->uuid, "format", "luks", "cipher-mode",
                  c.mode == LUKS_XTS ? "xts" : "cbc", "slots", slots_info(h),
                  "payload-offset", (json_int_t)h->payload_sector * LUKS_SECTOR,
                  "master-key-iters", (json_int_t)h->digest_iterations);
    if (c.iv == LUKS_IV_ESSIV) {
        json_object_set_new(o, "ivgen-hash-alg", json_string("sha256"));
    }
    return o;
}
