/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Secrets: a table of byte strings that are wiped when they go.
 */
#include "graph/secret.h"
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "base/options.h"
#include "graph/registry.h"
#include "loop/io.h"

/* Memory that is wiped, with its length before it. */
struct wiped {
    size_t len;
    uint8_t bytes[];
};

static void wiped_free(void *p)
{
    struct wiped *w = p;

    if (w) {
        explicit_bzero(w->bytes, w->len);
        g_free(w);
    }
}

static struct wiped *wiped_new(size_t len)
{
    struct wiped *w = g_malloc0(sizeof(*w) + len + 1);

    w->len = len;
    return w;
}

static void *secret_ref(void *thing)
{
    return g_bytes_ref(thing);
}

static void secret_unref(void *thing)
{
    g_bytes_unref(thing);
}

static const struct registry_kind secret_kind = { "secret", secret_ref,
                                                  secret_unref };

static GBytes *wiped_to_bytes(struct wiped *w)
{
    return g_bytes_new_with_free_func(w->bytes, w->len, wiped_free, w);
}

/* -EFBIG without a text of its own. */
static CO_FN int content_co_read(struct io_file *f, size_t max,
                                 struct wiped **ret)
{
    struct iovec v;
    uint64_t size = 0;
    struct wiped *w;
    int r = io_co_size(f, &size);

    if (r < 0 || size > max) {
        return r < 0 ? r : -EFBIG;
    }
    w = wiped_new(size);
    r = size ? io_co_preadv(f, 0, iov_one(&v, w->bytes, size)) : 0;
    if (r < 0) {
        wiped_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

static CO_FN int file_co_load(const char *path, struct wiped **ret,
                              GError **err)
{
    struct io_file *f = NULL;
    int r = io_co_open(path, O_RDONLY, 0, &f);

    if (r == 0) {
        r = content_co_read(f, SECRET_BYTES_MAX, ret);
    }
    io_co_close(f);
    if (r == -EFBIG) {
        return err_set(err, EFBIG, "Secret file '%s' is larger than %d bytes",
                       path, SECRET_BYTES_MAX);
    }
    return r < 0
               ? err_set_errno(err, -r, "Unable to read secret file '%s'", path)
               : 0;
}

/* In place: what base64 says is shorter than it. */
static int base64_decode(struct wiped *w, GError **err)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n";
    char *text = (char *)w->bytes;
    gsize len = 0;

    /* GLib does not take one character alone, which says no byte. */
    if (w->len == 1 || strlen(text) != w->len ||
        strspn(text, alphabet) != w->len) {
        return err_set(err, EINVAL, "Secret is not valid base64");
    }
    if (w->len) {
        g_base64_decode_inplace(text, &len);
        explicit_bzero(w->bytes + len, w->len - len);
    }
    w->len = len;
    return 0;
}

static CO_FN int content_co_load(const char *data, const char *file,
                                 struct wiped **ret, GError **err)
{
    if (!data == !file) {
        return err_set(err, EINVAL, "A secret needs one of 'data' and 'file'");
    }
    if (file) {
        return file_co_load(file, ret, err);
    }
    if (strlen(data) > SECRET_BYTES_MAX) {
        return err_set(err, EFBIG, "Secret is larger than %d bytes",
                       SECRET_BYTES_MAX);
    }
    *ret = wiped_new(strlen(data));
    memcpy((*ret)->bytes, data, (*ret)->len);
    return 0;
}

/* What @props say; every one of them is known. */
static CO_FN int props_co_load(const json_t *props, struct wiped **ret,
                               GError **err)
{
    enum { RAW, BASE64 };
    static const char *const formats[] = { "raw", "base64", NULL };
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    g_autofree char *data = NULL, *file = NULL;
    int format = RAW, r;

    if ((r = opts_take_str(o, "data", &data, err)) < 0 ||
        (r = opts_take_str(o, "file", &file, err)) < 0 ||
        (r = opts_take_enum(o, "format", formats, &format, data ? NULL : err)) <
            0 ||
        (r = opts_finish(o, data ? NULL : err)) < 0) {
        /* What is not understood may be a part of the secret. */
        if (data && err && !*err) {
            err_set(err, EINVAL,
                    "A secret with 'data' takes only 'format', which is 'raw' "
                    "or 'base64'");
            err_hint(err,
                     "A comma in data= is written as two, or use file=PATH.");
        }
        return r;
    }
    r = content_co_load(data, file, ret, err);
    if (data) {
        explicit_bzero(data, strlen(data));
    }
    return r == 0 && format == BASE64 ? base64_decode(*ret, err) : r;
}

int secret_co_add(struct graph *g, const char *id, const json_t *props,
                  GError **err)
{
    struct wiped *w = NULL;
    int r = props_co_load(props, &w, err);

    if (r == 0 && registry_has(g, &secret_kind, id)) {
        r = err_set(err, EEXIST, "There is already a secret '%s'", id);
    }
    if (r < 0) {
        wiped_free(w);
        return r;
    }
    return registry_add(g, &secret_kind, id, wiped_to_bytes(w), err);
}

int secret_del(struct graph *g, const char *id, GError **err)
{
    return registry_remove(g, &secret_kind, id, err);
}

int secret_get(struct graph *g, const char *id, GBytes **ret_bytes,
               GError **err)
{
    GBytes *b = registry_get(g, &secret_kind, id);

    if (!b) {
        return err_set(err, ENOENT, "No secret with id '%s'", id);
    }
    *ret_bytes = b;
    return 0;
}

int secret_co_read(struct io_file *f, size_t max, GBytes **ret)
{
    struct wiped *w;
    int r = content_co_read(f, max, &w);

    if (r == 0) {
        *ret = wiped_to_bytes(w);
    }
    return r;
}
