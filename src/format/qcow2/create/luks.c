/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making the LUKS header of a new image: one key slot. */
#include <string.h>
#include "base/err.h"
#include "base/options.h"
#include "format/alloc/cpu-pool.h"
#include "format/luks/luks.h"
#include "format/qcow2/create/create.h"
#include "graph/secret.h"
#include "loop/io.h"

struct qcow2_crypt_options {
    char *secret, *cipher_alg, *cipher_mode, *ivgen_alg, *ivgen_hash_alg,
        *hash_alg;
    struct luks_create create; /* points to these */
    struct luks_header h;      /* without keys */
};

void qcow2_crypt_options_free(struct qcow2_crypt_options *c)
{
    if (c) {
        g_free(c->secret);
        g_free(c->cipher_alg);
        g_free(c->cipher_mode);
        g_free(c->ivgen_alg);
        g_free(c->ivgen_hash_alg);
        g_free(c->hash_alg);
        g_free(c);
    }
}

/* All but the format. */
static int options_take(struct opts *o, struct qcow2_crypt_options *c,
                        GError **err)
{
    const struct {
        const char *name;
        char **to;
    } strings[] = {
        { "encrypt.key-secret", &c->secret },
        { "encrypt.cipher-alg", &c->cipher_alg },
        { "encrypt.cipher-mode", &c->cipher_mode },
        { "encrypt.ivgen-alg", &c->ivgen_alg },
        { "encrypt.ivgen-hash-alg", &c->ivgen_hash_alg },
        { "encrypt.hash-alg", &c->hash_alg },
    };
    int64_t ms = LUKS_TIME_DEFAULT;
    int ret = opts_take_int(o, "encrypt.iter-time", &ms, err);

    for (unsigned i = 0; i < G_N_ELEMENTS(strings) && ret >= 0; i++) {
        ret = opts_take_str(o, strings[i].name, strings[i].to, err);
    }
    if (ret < 0) {
        return ret;
    }
    if (ms < 1 || ms > 60000) {
        return err_set(err, EINVAL,
                       "Parameter 'encrypt.iter-time' expects 1 "
                       "to 60000 ms");
    }
    c->create = (struct luks_create) { c->cipher_alg, c->cipher_mode,
                                       c->ivgen_alg,  c->ivgen_hash_alg,
                                       c->hash_alg,   (unsigned)ms };
    return 0;
}

/* Something was said of encryption; make sense of it. */
static int options_check(struct qcow2_crypt_options *c, const char *format,
                         GError **err)
{
    if (!format) {
        return err_set(err, EINVAL, "Parameter 'encrypt.format' is missing");
    }
    if (strcmp(format, "luks") != 0) {
        return err_set(err, EINVAL,
                       "Encryption format '%s' is not supported: "
                       "use 'luks'",
                       format);
    }
    if (!c->secret) {
        return err_set(err, EINVAL,
                       "Parameter 'encrypt.key-secret' is "
                       "required for cipher");
    }
    return luks_create_plan(&c->create, &c->h, err);
}

int qcow2_crypt_take_options(struct opts *o,
                             struct qcow2_crypt_options **ret_options,
                             GError **err)
{
    struct qcow2_crypt_options *c = g_new0(struct qcow2_crypt_options, 1);
    g_autofree char *format = NULL;
    bool aes = false, any;
    int ret = opts_take_bool(o, "encryption", &aes, err);

    if (ret >= 0) {
        ret = opts_take_str(o, "encrypt.format", &format, err);
    }
    if (ret >= 0 && aes && !format) {
        format = g_strdup("aes"); /* refused below */
    }
    if (ret >= 0) {
        ret = options_take(o, c, err);
    }
    any = format || c->secret || c->cipher_alg || c->cipher_mode ||
          c->ivgen_alg || c->ivgen_hash_alg || c->hash_alg;
    if (ret == 0 && any) {
        ret = options_check(c, format, err);
    }
    if (ret == 0 && any) {
        *ret_options = c;
    } else {
        qcow2_crypt_options_free(c);
    }
    return ret;
}

int qcow2_crypt_method(const struct qcow2_crypt_options *c)
{
    return c ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE;
}

uint64_t qcow2_crypt_header_bytes(const struct qcow2_crypt_options *c)
{
    return c ? (uint64_t)c->h.payload_sector * LUKS_SECTOR : 0;
}

struct making {
    const struct luks_create *create;
    struct luks_header h;
    GBytes *pass;
    uint8_t *material;
    GError **err;
    int result;
};

static void make_key(void *arg)
{
    struct making *m = arg;
    gsize len;
    const void *pass = g_bytes_get_data(m->pass, &len);

    m->result = luks_create_key(m->create, &m->h, pass, len, m->material,
                                m->err);
}

static CO_FN int qcow2_luks_create_parts_co_write(const struct making *m,
                                                  struct node *file,
                                                  uint64_t host)
{
    uint8_t *head = io_buf_get(LUKS_HEADER_BYTES);
    struct iovec v;
    uint64_t off;
    uint32_t len;
    int ret;

    luks_slot_range(&m->h, 0, &off, &len);
    luks_header_encode(&m->h, head);
    ret = node_co_pwritev(file, host + off, iov_one(&v, m->material, len), 0);
    if (ret == 0) {
        ret = node_co_pwritev(file, host, iov_one(&v, head, LUKS_HEADER_BYTES),
                              0);
    }
    io_buf_put(head, LUKS_HEADER_BYTES);
    return ret;
}

int qcow2_co_crypt_create(const struct qcow2_crypt_options *c,
                          struct node *file, uint64_t host, GError **err)
{
    struct making m = { .create = &c->create, .h = c->h, .err = err };
    struct cpu_pool cpu_pool = { 0 };
    int ret = secret_get(file->graph, c->secret, &m.pass, err);

    if (ret < 0) {
        return ret;
    }
    m.material = io_buf_get(LUKS_MATERIAL_MAX);
    cpu_pool_co_run(&cpu_pool, make_key, &m);
    ret = m.result;
    if (ret == 0) {
        ret = qcow2_luks_create_parts_co_write(&m, file, host);
        if (ret < 0) {
            err_set_errno(err, -ret, "Could not write the LUKS header");
        }
    }
    io_buf_put(m.material, LUKS_MATERIAL_MAX);
    g_bytes_unref(m.pass);
    return ret;
}
