/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options that every node has, whatever its driver. */
#include "base/err.h"
#include "graph/open/open.h"

static int flag_option(struct opts *o, const char *name, unsigned flag,
                       unsigned *flags, GError **err)
{
    bool on;
    int ret = opts_take_bool(o, name, &on, err);

    if (ret > 0) {
        *flags = on ? *flags | flag : *flags & ~flag;
    }
    return MIN(ret, 0);
}

static int cache_option(struct opts *o, unsigned *flags, GError **err)
{
    json_t *cache = opts_take_any(o, "cache");
    struct opts *c;
    int ret;

    if (!cache) {
        return 0;
    }
    if (!json_is_object(cache)) {
        json_decref(cache);
        return err_set(err, EINVAL,
                       "Invalid parameter type for 'cache', expected: object");
    }
    c = opts_new(cache);
    ret = flag_option(c, "direct", NODE_CACHE_DIRECT, flags, err);
    if (ret == 0) {
        ret = flag_option(c, "no-flush", NODE_NO_FLUSH, flags, err);
    }
    if (ret == 0) {
        ret = opts_finish(c, err);
    }
    opts_free(c);
    json_decref(cache);
    return ret;
}

/* Of the values of "discard" the first that ignores. */
enum { DISCARD_IGNORE = 2 };

static int open_take_zeroing(struct opts *o, int *discard, int *detect,
                             GError **err)
{
    static const char *const discards[] = {
        "unmap", "on", "ignore", "off", NULL,
    };
    static const char *const detects[] = { "off", "on", "unmap", NULL };
    int ret = opts_take_enum(o, "discard", discards, discard, err);

    if (ret >= 0) {
        ret = opts_take_enum(o, "detect-zeroes", detects, detect, err);
    }
    if (ret >= 0 && *detect == DETECT_UNMAP && *discard >= DISCARD_IGNORE) {
        ret = err_set(err, EINVAL,
                      "setting detect-zeroes to unmap is not allowed without "
                      "setting discard operation to unmap");
    }
    return MIN(ret, 0);
}

void node_set_zeroing(struct node *n, int discard, int detect)
{
    n->priv->no_discard = discard >= DISCARD_IGNORE;
    n->priv->detect_zeroes = (enum detect_zeroes)detect;
}

int common_options_take(struct opts *o, struct common_options *c, GError **err)
{
    bool rdonly = false;
    int ret = opts_take_bool(o, "read-only", &rdonly, err);

    if (ret > 0) {
        c->flags = rdonly ? c->flags & ~(unsigned)NODE_RDWR
                          : c->flags | NODE_RDWR;
        c->explicit_rdonly = rdonly;
    }
    if (ret >= 0) {
        ret = flag_option(o, "auto-read-only", NODE_AUTO_RDONLY, &c->flags,
                          err);
    }
    if (ret >= 0) {
        ret = flag_option(o, "force-share", NODE_FORCE_SHARE, &c->flags, err);
    }
    if (ret >= 0) {
        ret = cache_option(o, &c->flags, err);
    }
    if (ret >= 0) {
        ret = open_take_zeroing(o, &c->discard, &c->detect_zeroes, err);
    }
    return MIN(ret, 0);
}

int node_check_share(unsigned flags, GError **err)
{
    return (flags & NODE_FORCE_SHARE) && (flags & NODE_RDWR)
               ? err_set(
                     err, EINVAL,
                     "force-share=on can only be used with read-only images")
               : 0;
}
