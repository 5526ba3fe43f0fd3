/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may connect to a Unix socket: the words of a user made into numbers.
 * Names of users and groups are looked up in the thread pool, because the name
 * service may ask a server.
 */
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"

#define NO_ID UINT32_MAX
#define ENTRY_BYTES (64 * 1024)

struct id_lookup {
    const char *name;
    bool is_group;
    uint32_t id;
    int errnum; /* 0: not found, when id is NO_ID */
};

static int mode_parse(const char *text, mode_t *ret, GError **err)
{
    guint64 mode;

    if (!g_ascii_string_to_unsigned(text, 8, 0, 0777, &mode, NULL)) {
        return err_set(err, EINVAL,
                       "Parameter 'mode' expects an octal number up to 0777, "
                       "not '%s'",
                       text);
    }
    *ret = (mode_t)mode;
    return 0;
}

static void lookup_group(struct id_lookup *lk, char *buf)
{
    struct group entry, *found = NULL;

    lk->errnum = getgrnam_r(lk->name, &entry, buf, ENTRY_BYTES, &found);
    if (found) {
        lk->id = found->gr_gid;
    }
}

static void lookup_user(struct id_lookup *lk, char *buf)
{
    struct passwd entry, *found = NULL;

    lk->errnum = getpwnam_r(lk->name, &entry, buf, ENTRY_BYTES, &found);
    if (found) {
        lk->id = found->pw_uid;
    }
}

static void lookup_in_pool(void *arg)
{
    struct id_lookup *lk = arg;
    g_autofree char *buf = g_malloc(ENTRY_BYTES);

    (lk->is_group ? lookup_group : lookup_user)(lk, buf);
}

/* @name: of a user or group, or its number; NULL leaves *@ret alone. */
static CO_FN int id_co_parse(const char *name, bool is_group, uint32_t *ret,
                             GError **err)
{
    struct id_lookup lk = { .name = name, .is_group = is_group, .id = NO_ID };
    guint64 number;

    if (!name) {
        return 0;
    }
    if (g_ascii_string_to_unsigned(name, 10, 0, NO_ID - 1, &number, NULL)) {
        *ret = (uint32_t)number;
        return 0;
    }
    co_in_pool(lookup_in_pool, &lk);
    if (lk.id == NO_ID && lk.errnum) {
        return err_set_errno(err, lk.errnum, "Could not look up %s '%s'",
                             is_group ? "group" : "user", name);
    }
    if (lk.id == NO_ID) {
        return err_set(
            err, EINVAL, "Parameter '%s': there is no %s '%s' on this machine",
            is_group ? "group" : "owner", is_group ? "group" : "user", name);
    }
    *ret = lk.id;
    return 0;
}

int sock_access_co_parse(const char *mode, const char *owner, const char *group,
                         struct sock_access *ret, GError **err)
{
    /* A group that was named is to get in. */
    struct sock_access a = { .mode = group ? 0660 : 0600,
                             .owner = NO_ID,
                             .group = NO_ID };
    int r = mode ? mode_parse(mode, &a.mode, err) : 0;

    if (r == 0) {
        r = id_co_parse(owner, false, &a.owner, err);
    }
    if (r == 0) {
        r = id_co_parse(group, true, &a.group, err);
    }
    if (r == 0) {
        *ret = a;
    }
    return r;
}
