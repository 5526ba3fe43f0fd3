/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An authz-list-file is read again when a look at the file tells another time,
 * size or number than before.  Until a file that could not be read is whole
 * again, nobody is let in by it.
 *
 * Clients of several loops may be judged by one object, so what changes of it is
 * under a lock, which nobody holds while he waits.
 */
#include "tls/authz.h"
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include "base/err.h"
#include "base/json-text.h"
#include "base/options.h"
#include "graph/node.h"
#include "graph/registry.h"
#include "graph/secret.h"
#include "loop/io.h"
#include "tls/authz-int.h"

enum { FILE_BYTES_MAX = 4 << 20 };

struct authz {
    gatomicrefcount refs;
    char *filename; /* NULL: the list is all */
    bool refresh;
    pthread_mutex_t lock; /* of what follows */
    struct authz_list list;
    struct stat seen; /* the file as it was read */
    bool unusable;    /* it could not be read */
};

static void *authz_ref(void *p)
{
    struct authz *a = p;

    g_atomic_ref_count_inc(&a->refs);
    return a;
}

static void authz_unref(void *p)
{
    struct authz *a = p;

    if (g_atomic_ref_count_dec(&a->refs)) {
        authz_list_clear(&a->list);
        pthread_mutex_destroy(&a->lock);
        g_free(a->filename);
        g_free(a);
    }
}

static const struct registry_kind authz_kind = { "authorization object",
                                                 authz_ref, authz_unref };

static struct authz *authz_new(void)
{
    struct authz *a = g_new0(struct authz, 1);

    g_atomic_ref_count_init(&a->refs);
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

static int authz_add(struct graph *g, const char *id, struct authz *a, int r,
                     GError **err)
{
    if (r < 0) {
        authz_unref(a);
        return r;
    }
    return registry_add(g, &authz_kind, id, a, err);
}

int authz_co_add_simple(struct graph *g, const char *id, const json_t *props,
                        GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    struct authz_rule rule = { .allow = true };
    struct authz *a;
    int r = opts_take_str(o, "identity", &rule.match, err);

    if (r == 0) {
        return opts_missing("identity", err);
    }
    if (r > 0) {
        r = opts_finish(o, err);
    }
    a = authz_new();
    authz_list_init(&a->list);
    g_array_append_val(a->list.rules, rule);
    return authz_add(g, id, a, r, err);
}

int authz_co_add_list(struct graph *g, const char *id, const json_t *props,
                      GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    struct authz *a = authz_new();
    int r = authz_list_take(o, &a->list, err);

    if (r == 0) {
        r = opts_finish(o, err);
    }
    return authz_add(g, id, a, r, err);
}

/* --- files --- */

static int file_parse(GBytes *text, struct authz_list *ret, GError **err)
{
    json_t *props = NULL;
    /* A zero byte stands behind it. */
    int r = json_text_parse(g_bytes_get_data(text, NULL), &props, err);

    if (r == 0 && !json_is_object(props)) {
        r = err_set(err, EINVAL, "it is not a JSON object");
    }
    if (r == 0) {
        CLEANUP(opts_freep) struct opts *o = opts_new(props);

        r = authz_list_take(o, ret, err);
        if (r == 0 && (r = opts_finish(o, err)) < 0) {
            authz_list_clear(ret);
        }
    }
    json_decref(props);
    return r;
}

static CO_FN int file_co_read(const char *filename, struct stat *ret_st,
                              struct authz_list *ret, GError **err)
{
    struct io_file *f = NULL;
    g_autoptr(GBytes) text = NULL;
    int r = io_co_open(filename, O_RDONLY, 0, &f);

    if (r == 0) {
        r = io_co_fstat(f, ret_st);
    }
    if (r == 0) {
        r = secret_co_read(f, FILE_BYTES_MAX, &text);
    }
    io_co_close(f);
    if (r < 0) {
        return err_set_errno(err, -r, "Unable to read '%s'", filename);
    }
    r = file_parse(text, ret, err);
    if (r < 0) {
        err_prefix(err, "Unable to load '%s'", filename);
    }
    return r;
}

int authz_co_add_list_file(struct graph *g, const char *id, const json_t *props,
                           GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    struct authz *a = authz_new();
    int r = opts_take_str(o, "filename", &a->filename, err);

    a->refresh = true;
    if (r == 0) {
        r = opts_missing("filename", err);
    } else if (r > 0) {
        r = opts_take_bool(o, "refresh", &a->refresh, err);
    }
    if (r >= 0) {
        r = opts_finish(o, err);
    }
    if (r == 0) {
        r = file_co_read(a->filename, &a->seen, &a->list, err);
    }
    return authz_add(g, id, a, r, err);
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
           a->st_size == b->st_size &&
           memcmp(&a->st_mtim, &b->st_mtim, sizeof(a->st_mtim)) == 0 &&
           memcmp(&a->st_ctim, &b->st_ctim, sizeof(a->st_ctim)) == 0;
}

/* Is it what the file @st says? */
static bool authz_is_of(struct authz *a, const struct stat *st)
{
    bool is;

    pthread_mutex_lock(&a->lock);
    is = !a->unusable && is_same_file(st, &a->seen);
    pthread_mutex_unlock(&a->lock);
    return is;
}

/* False: it was unusable already. */
static bool authz_set_unusable(struct authz *a)
{
    bool is_new;

    pthread_mutex_lock(&a->lock);
    is_new = !a->unusable;
    a->unusable = true;
    pthread_mutex_unlock(&a->lock);
    return is_new;
}

static CO_FN void authz_co_reread(struct graph *g, struct authz *a)
{
    struct authz_list fresh;
    struct stat st;
    g_autoptr(GError) err = NULL;

    if (io_co_stat(a->filename, &st) == 0 && authz_is_of(a, &st)) {
        return;
    }
    if (file_co_read(a->filename, &st, &fresh, &err) < 0) {
        if (authz_set_unusable(a)) {
            graph_notice(g, "%s; nobody is let in by it", err->message);
        }
        return;
    }
    pthread_mutex_lock(&a->lock);
    a->unusable = false;
    a->seen = st;
    authz_list_clear(&a->list);
    a->list = fresh;
    pthread_mutex_unlock(&a->lock);
}

void authz_co_refresh(struct graph *g, const char *id)
{
    struct authz *a = registry_get(g, &authz_kind, id);

    if (!a) {
        return;
    }
    if (a->filename && a->refresh) {
        authz_co_reread(g, a);
    }
    authz_unref(a);
}

/* --- judging --- */

int authz_del(struct graph *g, const char *id, GError **err)
{
    return registry_remove(g, &authz_kind, id, err);
}

int authz_check(struct graph *g, const char *id, GError **err)
{
    return registry_has(g, &authz_kind, id)
               ? 0
               : err_set(err, ENOENT, "No authorization object with id '%s'",
                         id);
}

bool authz_allows(struct graph *g, const char *id, const char *identity)
{
    struct authz *a = registry_get(g, &authz_kind, id);
    bool allows;

    if (!a) {
        return false;
    }
    pthread_mutex_lock(&a->lock);
    allows = identity && !a->unusable && authz_list_allows(&a->list, identity);
    pthread_mutex_unlock(&a->lock);
    authz_unref(a);
    return allows;
}
