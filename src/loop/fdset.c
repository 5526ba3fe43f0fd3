/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "loop/fdset.h"
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

struct member {
    int64_t id;
    int fd;
    char *opaque;
};

static GMutex lock;
static GArray *members; /* struct member, by id; NULL: none yet */

#define MEMBER(i) (&g_array_index(members, struct member, i))

/* The lowest that no set has. */
static int64_t id_free(void)
{
    int64_t id = 0;

    for (unsigned i = 0; i < members->len && MEMBER(i)->id <= id; i++) {
        id = MEMBER(i)->id + 1;
    }
    return id;
}

int64_t fdset_add(int64_t id, int fd, const char *opaque)
{
    struct member m = { id, fd, g_strdup(opaque) };
    unsigned at = 0;

    g_mutex_lock(&lock);
    members = members ? members
                      : g_array_new(FALSE, FALSE, sizeof(struct member));
    m.id = id < 0 ? id_free() : id;
    while (at < members->len && MEMBER(at)->id <= m.id) {
        at++;
    }
    g_array_insert_val(members, at, m);
    g_mutex_unlock(&lock);
    return m.id;
}

int fdset_remove(int64_t id, int fd)
{
    int ret = -ENOENT;

    g_mutex_lock(&lock);
    for (unsigned i = members ? members->len : 0; i-- > 0;) {
        struct member m = *MEMBER(i);

        if (m.id == id && (fd < 0 || m.fd == fd)) {
            close(m.fd);
            g_free(m.opaque);
            g_array_remove_index(members, i);
            ret = 0;
        }
    }
    g_mutex_unlock(&lock);
    return ret;
}

void fdset_foreach(void (*fn)(int64_t id, int fd, const char *opaque,
                              void *arg),
                   void *arg)
{
    g_mutex_lock(&lock);
    for (unsigned i = 0; members && i < members->len; i++) {
        fn(MEMBER(i)->id, MEMBER(i)->fd, MEMBER(i)->opaque, arg);
    }
    g_mutex_unlock(&lock);
}

bool fdset_is_name(const char *path)
{
    return g_str_has_prefix(path, FDSET_PREFIX);
}

/* -1: no number. */
static int64_t id_of(const char *path)
{
    const char *digits = path + strlen(FDSET_PREFIX);
    guint64 id;

    return g_ascii_string_to_unsigned(digits, 10, 0, INT32_MAX, &id, NULL)
               ? (int64_t)id
               : -1;
}

/* Is one that is open in way @has good for one that is to be in way @want? What
 * can be written can be read. */
static bool way_fits(int has, int want)
{
    return (has & O_ACCMODE) == (want & O_ACCMODE) ||
           (has & O_ACCMODE) == O_RDWR;
}

static int member_open(int fd, int flags)
{
    g_autofree char *again = g_strdup_printf("/proc/self/fd/%d", fd);
    int new_fd = open(again, (flags & ~(O_CREAT | O_NOFOLLOW)) | O_CLOEXEC);

    if (new_fd >= 0) {
        return new_fd;
    }
    new_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (new_fd >= 0 && (flags & O_DIRECT) &&
        fcntl(new_fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0) {
        int err = errno;

        close(new_fd);
        return -err;
    }
    return new_fd < 0 ? -errno : new_fd;
}

int fdset_open(const char *path, int flags)
{
    int64_t id = id_of(path);
    int ret = -ENOENT;
    struct stat st;

    if ((flags & O_CREAT) && (flags & O_EXCL) && fdset_stat(path, &st) == 0) {
        return -EEXIST;
    }
    g_mutex_lock(&lock);
    for (unsigned i = 0; members && i < members->len && ret < 0; i++) {
        const struct member *m = MEMBER(i);

        if (m->id == id) {
            ret = way_fits(fcntl(m->fd, F_GETFL), flags)
                      ? member_open(m->fd, flags)
                      : -EACCES;
        }
    }
    g_mutex_unlock(&lock);
    return ret;
}

int fdset_stat(const char *path, struct stat *ret_st)
{
    int64_t id = id_of(path);
    int ret = -ENOENT;

    g_mutex_lock(&lock);
    for (unsigned i = 0; members && i < members->len && ret < 0; i++) {
        if (MEMBER(i)->id == id) {
            ret = fstat(MEMBER(i)->fd, ret_st) < 0 ? -errno : 0;
        }
    }
    g_mutex_unlock(&lock);
    return ret;
}
