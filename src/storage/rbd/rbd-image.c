/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/rbd/rbd-image.h"

#include <errno.h>
#include <rbd/features.h>
#include <string.h>

#include "base/err.h"

/* Objects of a new image: 1 << 22 bytes. */
#define ORDER_DEFAULT 22
#define WATCHERS_MAX 64
/* Where no read can tell: far longer than a thread that is ready waits. */
#define SETTLE_US 100000

/* --- where it is --- */

void rbd_target_clear(struct rbd_target *t)
{
    rbd_name_clear(&t->name);
    g_clear_pointer(&t->key, g_bytes_unref);
    g_clear_pointer(&t->auth, g_free);
}

struct rbd_target *rbd_target_copy(const struct rbd_target *t)
{
    struct rbd_target *copy = g_new0(struct rbd_target, 1);
    const struct rbd_name *n = &t->name;

    copy->name = (struct rbd_name) {
        .pool = g_strdup(n->pool),
        .image = g_strdup(n->image),
        .name_space = g_strdup(n->name_space),
        .snapshot = g_strdup(n->snapshot),
        .user = g_strdup(n->user),
        .conf = g_strdup(n->conf),
    };
    if (n->settings) {
        copy->name.settings = g_ptr_array_new_with_free_func(g_free);
        for (unsigned i = 0; i < n->settings->len; i++) {
            g_ptr_array_add(copy->name.settings,
                            g_strdup(g_ptr_array_index(n->settings, i)));
        }
    }
    copy->key = t->key ? g_bytes_ref(t->key) : NULL;
    copy->auth = g_strdup(t->auth);
    copy->no_cache = t->no_cache;
    return copy;
}

void rbd_target_free(struct rbd_target *t)
{
    if (t) {
        rbd_target_clear(t);
        g_free(t);
    }
}

/* --- configuration --- */

static int set_setting(struct rbd_image *im, const char *key, const char *value,
                       GError **err)
{
    int r = im->lib->rados_conf_set(im->cluster, key, value);

    return r < 0 ? err_set_errno(err, -r, "invalid conf option %s", key) : 0;
}

static int read_conf(struct rbd_image *im, const char *conf, GError **err)
{
    int r = im->lib->rados_conf_read_file(im->cluster, conf);

    /* Without one that is named, none need be there. */
    return r < 0 && conf
               ? err_set_errno(err, -r, "error reading conf file %s", conf)
               : 0;
}

static int set_key(struct rbd_image *im, GBytes *key, GError **err)
{
    gsize len;
    const char *data = g_bytes_get_data(key, &len);
    char *text = g_strndup(data, len);
    int r;

    g_strstrip(text);
    r = im->lib->rados_conf_set(im->cluster, "key", text);
    explicit_bzero(text, strlen(text));
    g_free(text);
    return r < 0 ? err_set_errno(err, -r, "invalid key") : 0;
}

/* An option of the configuration file wins over this. */
static int set_defaults(struct rbd_image *im, GError **err)
{
    int r;

    /* For image_open(). */
    im->lib->rados_conf_set(im->cluster, "librados_thread_count", "1");
    /* A library does not write to its program's standard error. */
    r = set_setting(im, "log_to_stderr", "false", err);

    return r < 0 ? r : set_setting(im, "err_to_stderr", "false", err);
}

static int set_settings(struct rbd_image *im, const struct rbd_target *t,
                        GError **err)
{
    const GPtrArray *s = t->name.settings;
    int r = 0;

    for (unsigned i = 0; s && i + 1 < s->len && r == 0; i += 2) {
        r = set_setting(im, g_ptr_array_index(s, i),
                        g_ptr_array_index(s, i + 1), err);
    }
    if (r == 0 && t->auth) {
        r = set_setting(im, "auth_client_required", t->auth, err);
    }
    if (r == 0 && t->key) {
        r = set_key(im, t->key, err);
    }
    return r < 0 ? r
                 : set_setting(im, "rbd_cache", t->no_cache ? "false" : "true",
                               err);
}

/* So that a cluster that is not there makes no thread wait for ever. */
static int set_timeouts(struct rbd_image *im, unsigned timeout_s, GError **err)
{
    g_autofree char *text = g_strdup_printf("%u", timeout_s);
    int r;

    if (im->lib->rados_conf_get(im->cluster, "rados_osd_op_timeout",
                                im->osd_timeout, sizeof(im->osd_timeout)) < 0) {
        strcpy(im->osd_timeout, "0");
    }
    r = set_setting(im, "client_mount_timeout", text, err);
    r = r < 0 ? r : set_setting(im, "rados_mon_op_timeout", text, err);
    return r < 0 ? r : set_setting(im, "rados_osd_op_timeout", text, err);
}

static int configure(struct rbd_image *im, const struct rbd_target *t,
                     unsigned timeout_s, GError **err)
{
    int r = set_defaults(im, err);

    r = r < 0 ? r : read_conf(im, t->name.conf, err);
    r = r < 0 ? r : set_settings(im, t, err);
    return r < 0 ? r : set_timeouts(im, timeout_s, err);
}

/* --- opening --- */

static const char *user_of(const struct rbd_target *t)
{
    return t->name.user ? t->name.user : "admin";
}

static int connect_failed(const struct rbd_target *t, int r, unsigned timeout_s,
                          GError **err)
{
    switch (-r) {
    case ETIMEDOUT:
        return err_set(err, ETIMEDOUT,
                       "no monitor of the cluster answered within %u seconds",
                       timeout_s);
    case EACCES:
    case EPERM:
        return err_set(
            err, EACCES,
            "the cluster refuses user '%s': it has no key, or a wrong one",
            user_of(t));
    case EINVAL:
        err_set(err, EINVAL,
                "error connecting: the key of user '%s' is none "
                "of Ceph's, or an option is wrong",
                user_of(t));
        err_hint(err, "'ceph auth get-key client.%s' tells it.", user_of(t));
        return -EINVAL;
    case ENOENT:
        err_set(err, ENOENT,
                "error connecting: no monitor is configured, or no key of "
                "user '%s' was found",
                user_of(t));
        err_hint(err, "See the options conf, server, user and key-secret.");
        return -ENOENT;
    default: return err_set_errno(err, -r, "error connecting");
    }
}

static int open_pool(struct rbd_image *im, const struct rbd_target *t,
                     GError **err)
{
    int r = im->lib->rados_ioctx_create(im->cluster, t->name.pool, &im->pool);

    if (r < 0) {
        im->pool = NULL;
        return err_set_errno(err, -r, "error opening pool %s", t->name.pool);
    }
    im->pool_id = im->lib->rados_ioctx_get_id(im->pool);
    im->lib->rados_ioctx_set_namespace(im->pool, t->name.name_space);
    return 0;
}

static int connect_cluster(struct rbd_image *im, const struct rbd_target *t,
                           unsigned timeout_s, GError **err)
{
    int r = im->lib->rados_create(&im->cluster, t->name.user);

    if (r < 0) {
        im->cluster = NULL;
        return err_set_errno(err, -r, "error initializing");
    }
    r = configure(im, t, timeout_s, err);
    if (r < 0) {
        return r;
    }
    r = im->lib->rados_connect(im->cluster);
    if (r < 0) {
        return connect_failed(t, r, timeout_s, err);
    }
    if (im->lib->rados_cluster_fsid(im->cluster, im->fsid, sizeof(im->fsid)) <
        0) {
        im->fsid[0] = '\0';
    }
    return open_pool(im, t, err);
}

struct rbd_image *rbd_image_connect(const struct rbd_target *t,
                                    unsigned timeout_s, GError **err)
{
    const struct rbd_lib *lib;
    struct rbd_image *im;

    if (rbd_lib_load(&lib, err) < 0) {
        return NULL;
    }
    im = g_new0(struct rbd_image, 1);
    im->refs = 1;
    im->lib = lib;
    if (connect_cluster(im, t, timeout_s, err) < 0) {
        rbd_image_unref(im);
        return NULL;
    }
    return im;
}

static int open_failed(const struct rbd_target *t, int r, unsigned timeout_s,
                       GError **err)
{
    const struct rbd_name *n = &t->name;

    if (r == -ETIMEDOUT) {
        return err_set(err, ETIMEDOUT,
                       "the cluster did not answer within %u seconds",
                       timeout_s);
    }
    if (r == -ENOENT && n->snapshot) {
        return err_set_errno(err, ENOENT,
                             "error reading header from %s, or it has no "
                             "snapshot '%s'",
                             n->image, n->snapshot);
    }
    return r == -EPERM || r == -EACCES
               ? err_set_errno(err, EACCES,
                               "error reading header from %s as user '%s'",
                               n->image, user_of(t))
               : err_set_errno(err, -r, "error reading header from %s",
                               n->image);
}

static int read_version(struct rbd_image *im, rbd_image_t image,
                        const char *snapshot, struct rbd_version *ret)
{
    const struct rbd_lib *lib = im->lib;
    int r = lib->rbd_get_size(image, &ret->size);

    if (r == 0 && snapshot) {
        r = lib->rbd_snap_get_id(image, snapshot, &ret->snap_id);
    }
    if (r < 0) {
        return r;
    }
    if (lib->rbd_get_id(image, ret->id, sizeof(ret->id)) < 0) {
        ret->id[0] = '\0'; /* of the oldest format */
    }
    if (snapshot || lib->rbd_get_modify_timestamp(image, &ret->modified) < 0) {
        ret->modified = (struct timespec) { 0 };
    }
    return 0;
}

static int describe(struct rbd_image *im, const char *snapshot)
{
    const struct rbd_lib *lib = im->lib;
    uint64_t overlap = 0, stripes = 1;
    rbd_image_info_t info;
    int r = read_version(im, im->image, snapshot, &im->version);

    if (r == 0) {
        r = lib->rbd_stat(im->image, &info, sizeof(info));
    }
    if (r == 0) {
        r = lib->rbd_get_features(im->image, &im->features);
    }
    if (r == 0) {
        r = lib->rbd_get_overlap(im->image, &overlap);
    }
    if (r == 0) {
        r = lib->rbd_get_stripe_count(im->image, &stripes);
    }
    if (r < 0) {
        return r;
    }
    im->object_size = info.obj_size;
    im->has_parent = overlap > 0;
    im->is_striped = stripes > 1;
    return 0;
}

/* The thread of librbd that ends the opening touches the image once more after
 * it has woken who waits for that; 16.2 fails or crashes when the image was
 * closed and freed by then.  So an image counts as open when that thread, the
 * only one of its kind (set_defaults()), has ended a read, too. */
static void image_settle(const struct rbd_image *im, rbd_image_t image)
{
    uint64_t size = 0;
    char byte;

    if (im->lib->rbd_get_size(image, &size) == 0 && size > 0) {
        im->lib->rbd_read(image, 0, 1, &byte);
    } else {
        g_usleep(SETTLE_US);
    }
}

static int image_open(const struct rbd_image *im, const struct rbd_name *name,
                      bool writable, rbd_image_t *ret)
{
    int r = writable ? im->lib->rbd_open(im->pool, name->image, ret, NULL)
                     : im->lib->rbd_open_read_only(im->pool, name->image, ret,
                                                   name->snapshot);

    if (r == 0) {
        image_settle(im, *ret);
    }
    return r;
}

static int rbd_open_image(struct rbd_image *im, const struct rbd_target *t,
                          bool writable, unsigned timeout_s, GError **err)
{
    const struct rbd_name *n = &t->name;
    int r = image_open(im, n, writable, &im->image);

    if (r < 0) {
        im->image = NULL;
    } else {
        r = describe(im, n->snapshot);
    }
    if (r < 0) {
        return open_failed(t, r, timeout_s, err);
    }
    /* From here on it is the options of the node that say how long to wait. */
    return set_setting(im, "rados_osd_op_timeout", im->osd_timeout, err);
}

struct rbd_image *rbd_image_open(const struct rbd_target *t, bool writable,
                                 unsigned timeout_s, GError **err)
{
    struct rbd_image *im = rbd_image_connect(t, timeout_s, err);

    if (im && rbd_open_image(im, t, writable, timeout_s, err) < 0) {
        rbd_image_unref(im);
        return NULL;
    }
    return im;
}

struct rbd_image *rbd_image_ref(struct rbd_image *im)
{
    __atomic_add_fetch(&im->refs, 1, __ATOMIC_RELAXED);
    return im;
}

void rbd_image_unref(struct rbd_image *im)
{
    if (__atomic_sub_fetch(&im->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    if (im->image) {
        rbd_image_unlock(im);
        im->lib->rbd_close(im->image);
    }
    if (im->pool) {
        im->lib->rados_ioctx_destroy(im->pool);
    }
    if (im->cluster) {
        im->lib->rados_shutdown(im->cluster);
    }
    g_free(im);
}

/* --- the exclusive lock --- */

static int locked_by(const char *owner, GError **err)
{
    err_set(err, EAGAIN,
            "Failed to get exclusive lock: %s has it. Is another process "
            "using the image?",
            owner);
    err_hint(err, "The lock of a program that was killed is given up by the "
                  "cluster within half a minute.");
    return -EAGAIN;
}

/* Is somebody else there who may own the lock? Who was killed is, until the
 * cluster misses him. */
static bool is_watched(struct rbd_image *im)
{
    rbd_image_watcher_t w[WATCHERS_MAX];
    size_t n = G_N_ELEMENTS(w);
    int r = im->lib->rbd_watchers_list(im->image, w, &n);

    if (r == 0) {
        im->lib->rbd_watchers_list_cleanup(w, n);
    }
    return r < 0 || n > 1;
}

/* -EAGAIN when somebody else owns it. librbd itself would ask the owner to give
 * it away, and other programs do, whose guests then cannot write. */
static int check_owner(struct rbd_image *im, GError **err)
{
    rbd_lock_mode_t mode;
    char *owners[1] = { NULL };
    size_t n = G_N_ELEMENTS(owners);
    int is_owner = 0;
    int r = im->lib->rbd_is_exclusive_lock_owner(im->image, &is_owner);

    if (r == 0 && !is_owner) {
        r = im->lib->rbd_lock_get_owners(im->image, &mode, owners, &n);
    }
    if (r == -ENOENT || is_owner) {
        return 0;
    }
    if (r < 0) {
        return err_set_errno(err, -r,
                             "Failed to ask for the owner of the "
                             "exclusive lock");
    }
    r = n > 0 && is_watched(im) ? locked_by(owners[0], err) : 0;
    im->lib->rbd_lock_get_owners_cleanup(owners, n);
    return r;
}

int rbd_image_lock(struct rbd_image *im, GError **err)
{
    int r;

    if (im->has_lock || !(im->features & RBD_FEATURE_EXCLUSIVE_LOCK)) {
        return 0;
    }
    r = check_owner(im, err);
    if (r < 0) {
        return r;
    }
    r = im->lib->rbd_lock_acquire(im->image, RBD_LOCK_MODE_EXCLUSIVE);
    if (r == -EBUSY || r == -EROFS || r == -EAGAIN) {
        return locked_by("another client", err);
    }
    if (r < 0) {
        return err_set_errno(err, -r, "Failed to get exclusive lock");
    }
    im->has_lock = true;
    return 0;
}

void rbd_image_unlock(struct rbd_image *im)
{
    if (im->has_lock) {
        im->lib->rbd_lock_release(im->image);
        im->has_lock = false;
    }
}

/* --- what it is --- */

static const char *version_difference(const struct rbd_version *was,
                                      const struct rbd_version *is)
{
    if (strcmp(was->id, is->id)) {
        return "it is another image of the same name";
    }
    if (was->snap_id != is->snap_id) {
        return "it is another snapshot of the same name";
    }
    if (was->size != is->size) {
        return "its size changed";
    }
    return was->modified.tv_sec != is->modified.tv_sec ||
                   was->modified.tv_nsec != is->modified.tv_nsec
               ? "it was written to"
               : NULL;
}

int rbd_image_check(struct rbd_image *im, const struct rbd_name *name,
                    GError **err)
{
    struct rbd_version is = {};
    rbd_image_t other;
    const char *why;
    int r = image_open(im, name, false, &other);

    if (r == 0) {
        r = read_version(im, other, name->snapshot, &is);
        im->lib->rbd_close(other);
    }
    if (r == -ENOENT) {
        return err_set(err, ESTALE, "it is not there any more");
    }
    if (r < 0) {
        return err_set_errno(err, -r, "its header cannot be read");
    }
    why = version_difference(&im->version, &is);
    return why ? err_set(err, ESTALE, "%s", why) : 0;
}

/* --- new images --- */

int rbd_image_create(const struct rbd_target *t, unsigned timeout_s,
                     GError **err)
{
    struct rbd_image *im = rbd_image_connect(t, timeout_s, err);
    int order = ORDER_DEFAULT;
    int r;

    if (!im) {
        return -(*err)->code;
    }
    r = im->lib->rbd_create(im->pool, t->name.image, 0, &order);
    rbd_image_unref(im);
    return r < 0 ? err_set_errno(err, -r, "error rbd create") : 0;
}

int rbd_image_remove(const struct rbd_target *t, unsigned timeout_s,
                     GError **err)
{
    struct rbd_image *im = rbd_image_connect(t, timeout_s, err);
    int r;

    if (!im) {
        return -(*err)->code;
    }
    r = im->lib->rbd_remove(im->pool, t->name.image);
    rbd_image_unref(im);
    return r < 0 ? err_set_errno(err, -r, "error rbd remove") : 0;
}
