/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LUKS headers, keys and sectors: round trips, hostile headers, and whole
 * volumes exchanged with qemu-img in both directions.
 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "format/luks/luks.h"

enum { AREA = 4 << 20, PAYLOAD = 1 << 20 };

static const struct kind {
    const char *alg, *mode, *iv, *hash;
    bool both_ways; /* qemu-img makes it too */
} kinds[] = {
    { "aes-256", "xts", "plain64", "sha256", true },
    { "aes-128", "xts", "plain", "sha1", true },
    { "aes-256", "cbc", "essiv", "sha256", true },
    { "aes-192", "cbc", "plain64", "sha512", false },
    { "aes-128", "cbc", "plain", "sha384", true },
};

static struct luks_create create_of(const struct kind *k)
{
    return (struct luks_create) {
        .cipher_alg = k->alg,
        .cipher_mode = k->mode,
        .ivgen_alg = k->iv,
        .hash_alg = k->hash,
        .iter_time = 1,
    };
}

/* A header with passphrase "open sesame", its material, and the key. */
static struct luks_header make(const struct kind *k, uint8_t *material)
{
    struct luks_create c = create_of(k);
    struct luks_header h;
    GError *err = NULL;

    luks_create_plan(&c, &h, &err);
    g_assert_no_error(err);
    luks_create_key(&c, &h, "open sesame", 11, material, &err);
    g_assert_no_error(err);
    return h;
}

static void fill(uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(i * 7 + i / 512);
    }
}

static void test_round_trip(void)
{
    uint8_t *material = g_malloc(LUKS_MATERIAL_MAX);
    uint8_t *copy = g_malloc(LUKS_MATERIAL_MAX);
    uint8_t buf[4096], was[4096], again[4096], raw[LUKS_HEADER_BYTES];

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct luks_header h = make(&kinds[i], material), back;
        struct luks_key *k;
        GError *err = NULL;

        luks_header_encode(&h, raw);
        luks_header_decode(raw, sizeof(raw), AREA, &back, &err);
        g_assert_no_error(err);
        g_assert_cmpmem(&h, sizeof(h), &back, sizeof(back));

        memcpy(copy, material, LUKS_MATERIAL_MAX);
        g_assert_cmpint(
            luks_slot_open(&back, 0, copy, "open sesamf", 11, &k, NULL), ==,
            -EACCES);
        memcpy(copy, material, LUKS_MATERIAL_MAX);
        luks_slot_open(&back, 0, copy, "open sesame", 11, &k, &err);
        g_assert_no_error(err);

        fill(was, sizeof(was));
        memcpy(buf, was, sizeof(buf));
        g_assert_cmpint(luks_encrypt(k, 1000, buf, sizeof(buf)), ==, 0);
        g_assert_true(memcmp(buf, was, sizeof(buf)) != 0);
        memcpy(again, was, sizeof(again));
        luks_encrypt(k, 1001, again, sizeof(again));
        g_assert_true(memcmp(buf, again, 512) != 0);
        /* From the middle: each sector stands alone. */
        g_assert_cmpint(luks_decrypt(k, 1003, buf + 3 * 512, 512), ==, 0);
        g_assert_cmpmem(buf + 3 * 512, 512, was + 3 * 512, 512);
        g_assert_cmpint(luks_encrypt(k, 1003, buf + 3 * 512, 512), ==, 0);
        g_assert_cmpint(luks_decrypt(k, 1000, buf, sizeof(buf)), ==, 0);
        g_assert_cmpmem(buf, sizeof(buf), was, sizeof(was));
        luks_key_free(k);
    }
    g_free(material);
    g_free(copy);
}

/* --- hostile headers --- */

static int decode(const uint8_t *raw, uint64_t area, char **ret_text)
{
    struct luks_header h;
    GError *err = NULL;
    int r = luks_header_decode(raw, LUKS_HEADER_BYTES, area, &h, &err);

    g_assert_cmpint(r, ==, err ? -err->code : 0);
    *ret_text = err ? g_strdup(err->message) : NULL;
    g_clear_error(&err);
    return r;
}

static void test_hostile_fields(void)
{
    static const struct {
        unsigned at;
        uint32_t value;
        const char *says;
    } rows[] = {
        { 0, 0, "magic" },
        { 4, 0xbabe0002, "version 2" },
        { 8, 0x74776f66, "cipher 'twof'" },
        { 40, 0x6c72772d, "cipher mode 'lrw-" },
        { 72, 0x6d643500, "hash 'md5'" },
        { 72, 0x01020304, "not text" },
        { 108, 0, "keys of 0 bytes" },
        { 108, 0xffffffff, "keys of 4294967295 bytes" },
        { 108, 63, "keys of 63 bytes" },
        { 164, 0, "iteration count of 0" },
        { 164, 0xffffffff, "iterations" },
        { 208, 0x12345678, "neither active" },
        { 212, 0, "iteration count of 0" },
        { 212, 0x7fffffff, "iterations" },
        { 248, 0, "key slot 0 at offset 0" },
        { 248, 0xffffffff, "key slot 0 at offset" },
        { 252, 0xffffffff, "4294967295 stripes" },
        { 252, 0, "0 stripes" },
        { 296, 8, "slots 0 and 1 overlap" },
    };
    uint8_t *material = g_malloc(LUKS_MATERIAL_MAX);
    struct luks_header h = make(&kinds[0], material);
    uint8_t good[LUKS_HEADER_BYTES], raw[LUKS_HEADER_BYTES];
    char *text;

    luks_header_encode(&h, good);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        memcpy(raw, good, sizeof(raw));
        put_be32(raw + rows[i].at, rows[i].value);
        g_assert_cmpint(decode(raw, AREA, &text), <, 0);
        if (!strstr(text, rows[i].says)) {
            g_error("row %u: \"%s\" lacks \"%s\"", i, text, rows[i].says);
        }
        g_free(text);
    }
    /* The area ends before the last slot does. */
    g_assert_cmpint(decode(good, 2000000, &text), ==, -EINVAL);
    g_assert_nonnull(strstr(text, "key slot 7"));
    g_free(text);
    g_assert_cmpint(decode(good, 2068480, &text), ==, 0);
    g_assert_cmpint(decode(good, 100, &text), ==, -EINVAL);
    g_free(text);
    g_free(material);
}

static void test_hostile_random(void)
{
    uint8_t *material = g_malloc(LUKS_MATERIAL_MAX);
    struct luks_header h = make(&kinds[0], material), back;
    uint8_t raw[LUKS_HEADER_BYTES];

    for (unsigned round = 0; round < 20000; round++) {
        luks_header_encode(&h, raw);
        for (unsigned i = 0; i <= round % 4; i++) {
            raw[g_test_rand_int_range(0, LUKS_HEADER_BYTES)] = (uint8_t)
                g_test_rand_int();
        }
        if (luks_header_decode(raw, sizeof(raw), AREA, &back, NULL) == 0) {
            for (unsigned i = 0; i < LUKS_SLOTS; i++) {
                uint64_t off;
                uint32_t len;

                luks_slot_range(&back, i, &off, &len);
                g_assert_cmpuint(len, <=, LUKS_MATERIAL_MAX);
                g_assert_cmpuint(off + len, <=, AREA);
            }
        }
    }
    g_free(material);
}

static void test_create_refuses(void)
{
    static const struct kind bad[] = {
        { "twofish-256", "xts", "plain64", "sha256", false },
        { "aes-192", "xts", "plain64", "sha256", false },
        { "aes-4096", "xts", "plain64", "sha256", false },
        { "aes-256", "ctr", "plain64", "sha256", false },
        { "aes-256", "xts", "essiv", "sha256", false },
        { "aes-256", "xts", "plain64", "md5", false },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct luks_create c = create_of(&bad[i]);
        struct luks_header h;
        GError *err = NULL;

        g_assert_cmpint(luks_create_plan(&c, &h, &err), <, 0);
        g_assert_nonnull(err);
        g_error_free(err);
    }
}

/* --- with qemu-img --- */

static bool tool(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static bool tool(const char *fmt, ...)
{
    g_autofree char *cmd = NULL;
    int status = -1;
    va_list ap;

    va_start(ap, fmt);
    cmd = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return g_spawn_command_line_sync(cmd, NULL, NULL, &status, NULL) &&
           status == 0;
}

/* QEMU measures its processor and sometimes finds that no time passed. */
static bool tool_create(const struct kind *k, const char *path)
{
    for (unsigned i = 0; i < 50; i++) {
        if (tool(
                "qemu-img create -q -f luks --object secret,id=s,data=swordfish "
                "-o key-secret=s,iter-time=10,cipher-alg=%s,cipher-mode=%s,"
                "ivgen-alg=%s%s,hash-alg=%s %s %d",
                k->alg, k->mode, k->iv,
                strcmp(k->iv, "essiv") ? "" : ",ivgen-hash-alg=sha256", k->hash,
                path, PAYLOAD)) {
            return true;
        }
    }
    return false;
}

static void check_theirs(const struct kind *k, const char *dir)
{
    g_autofree char *luks = g_build_filename(dir, "theirs.luks", NULL);
    g_autofree char *raw = g_build_filename(dir, "plain.raw", NULL);
    uint8_t *plain = g_malloc(PAYLOAD);
    struct luks_header h;
    struct luks_key *key;
    GError *err = NULL;
    uint64_t off, payload;
    uint32_t len;
    char *file;
    gsize file_len;

    fill(plain, PAYLOAD);
    g_file_set_contents(raw, (char *)plain, PAYLOAD, &err);
    g_assert_no_error(err);
    g_assert_true(tool_create(k, luks));
    g_assert_true(
        tool("qemu-img convert -n --object secret,id=s,data=swordfish "
             "-f raw %s --target-image-opts "
             "driver=luks,key-secret=s,file.filename=%s",
             raw, luks));
    g_assert_true(g_file_get_contents(luks, &file, &file_len, NULL));
    luks_header_decode((uint8_t *)file, file_len, file_len, &h, &err);
    g_assert_no_error(err);
    luks_slot_range(&h, 0, &off, &len);
    luks_slot_open(&h, 0, (uint8_t *)file + off, "swordfish", 9, &key, &err);
    g_assert_no_error(err);
    payload = (uint64_t)h.payload_sector * LUKS_SECTOR;
    g_assert_cmpuint(file_len, >=, payload + PAYLOAD);
    g_assert_cmpint(luks_decrypt(key, 0, file + payload, PAYLOAD), ==, 0);
    g_assert_cmpmem(file + payload, PAYLOAD, plain, PAYLOAD);
    luks_key_free(key);
    g_free(file);
    g_free(plain);
}

static void check_ours(const struct kind *k, const char *dir)
{
    g_autofree char *luks = g_build_filename(dir, "ours.luks", NULL);
    g_autofree char *raw = g_build_filename(dir, "back.raw", NULL);
    uint8_t *material = g_malloc(LUKS_MATERIAL_MAX);
    uint8_t *plain = g_malloc(PAYLOAD), *copy = g_malloc(LUKS_MATERIAL_MAX);
    struct luks_header h = make(k, material);
    size_t payload = (size_t)h.payload_sector * LUKS_SECTOR;
    uint8_t *file = g_malloc0(payload + PAYLOAD);
    struct luks_key *key;
    GError *err = NULL;
    uint64_t off;
    uint32_t len;
    char *back;
    gsize back_len;

    luks_slot_range(&h, 0, &off, &len);
    luks_header_encode(&h, file);
    memcpy(file + off, material, len);
    memcpy(copy, material, len);
    luks_slot_open(&h, 0, copy, "open sesame", 11, &key, &err);
    g_assert_no_error(err);
    fill(plain, PAYLOAD);
    memcpy(file + payload, plain, PAYLOAD);
    luks_encrypt(key, 0, file + payload, PAYLOAD);
    g_file_set_contents(luks, (char *)file, (gssize)(payload + PAYLOAD), &err);
    g_assert_no_error(err);
    g_assert_true(tool("qemu-img convert --object "
                       "'secret,id=s,data=open sesame' --image-opts -O raw "
                       "driver=luks,key-secret=s,file.filename=%s %s",
                       luks, raw));
    g_assert_true(g_file_get_contents(raw, &back, &back_len, NULL));
    g_assert_cmpmem(back, back_len, plain, PAYLOAD);
    luks_key_free(key);
    g_free(back);
    g_free(file);
    g_free(plain);
    g_free(copy);
    g_free(material);
}

static void test_qemu(void)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    g_autofree char *dir = NULL;

    if (!qemu_img) {
        g_test_skip("qemu-img is missing (qemu-utils)");
        return;
    }
    dir = g_dir_make_tmp("sluice-luks-XXXXXX", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (kinds[i].both_ways) {
            check_theirs(&kinds[i], dir);
            check_ours(&kinds[i], dir);
        }
    }
    g_assert_true(tool("rm -r %s", dir));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/luks/round-trip", test_round_trip);
    g_test_add_func("/luks/hostile-fields", test_hostile_fields);
    g_test_add_func("/luks/hostile-random", test_hostile_random);
    g_test_add_func("/luks/create-refuses", test_create_refuses);
    g_test_add_func("/luks/qemu", test_qemu);
    return g_test_run();
}
