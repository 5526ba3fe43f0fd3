/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a name says by itself: a path or the address of a storage driver, and
 * whether a header may hold it.
 */
#include <string.h>
#include "base/err.h"
#include "graph/open/open.h"
#include "loop/fdset.h"
#include "loop/io.h"

#define NAME_MAX_LEN 4095

json_t *address_of_file(const char *driver, const char *path)
{
    /* A path is bytes: the image tools take those that are not UTF-8, too. */
    return json_pack("{s:s, s:o}", "driver", driver, "filename",
                     json_string_nocheck(path));
}

/* The length of "NAME:" when @name begins like an address, else 0. A path with
 * a colon in it can be given as ./PATH. */
static size_t scheme_length(const char *name)
{
    size_t len = strcspn(name, ":/");

    return name[len] == ':' && len > 0 ? len + 1 : 0;
}

bool backing_is_path(const char *name)
{
    return scheme_length(name) == 0;
}

const struct node_driver *backing_address_driver(struct graph *g,
                                                 const char *name)
{
    for (unsigned i = 0; g->drivers[i]; i++) {
        const char *const *p = g->drivers[i]->name_prefixes;

        for (; p && *p; p++) {
            if (g_str_has_prefix(name, *p)) {
                return g->drivers[i];
            }
        }
    }
    return NULL;
}

/* Only users may give names of filters: with them a header could name any
 * file. */
static bool scheme_is_filter(struct graph *g, const char *name)
{
    const struct node_driver *drv = backing_address_driver(g, name);

    return drv && drv->kind == NODE_FILTER;
}

/* The driver itself takes the address apart. */
int address_parse(struct graph *g, const char *name, json_t **ret_options,
                  GError **err)
{
    const struct node_driver *drv = backing_address_driver(g, name);

    if (!drv) {
        return err_set(err, EPROTONOSUPPORT, "Unknown protocol '%.*s'",
                       (int)(scheme_length(name) - 1), name);
    }
    *ret_options = address_of_file(drv->name, name);
    return 0;
}

static const char *file_driver_name(mode_t mode)
{
    if (S_ISREG(mode)) {
        return "file";
    }
    return S_ISBLK(mode) ? "host_device" : NULL;
}

static const char *file_type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO: return "a FIFO";
    case S_IFCHR: return "a character device";
    case S_IFSOCK: return "a socket";
    case S_IFDIR: return "a directory";
    default: return "no regular file";
    }
}

int backing_file_driver(const char *path, const struct stat *st,
                        const char **ret_driver, GError **err)
{
    const char *driver = file_driver_name(st->st_mode);

    if (!driver) {
        return err_set(err, EINVAL, "Backing file '%s' is refused: it is %s",
                       path, file_type_name(st->st_mode));
    }
    *ret_driver = driver;
    return 0;
}

int backing_co_parse_address(struct graph *g, const char *address,
                             json_t **ret_options, GError **err)
{
    const char *driver = "file";
    struct stat st;

    if (g_str_has_prefix(address, "file:")) {
        address += strlen("file:");
    } else if (scheme_length(address) > 0) {
        return address_parse(g, address, ret_options, err);
    }
    /* If the name does not exist, the driver reports that. */
    if (io_co_stat(address, &st) == 0 && S_ISBLK(st.st_mode)) {
        driver = "host_device";
    }
    *ret_options = address_of_file(driver, address);
    return 0;
}

int backing_check_text(const struct node *n, const char *name, GError **err)
{
    if (strlen(name) > NAME_MAX_LEN) {
        return err_set(err, ENAMETOOLONG,
                       "Backing file name of '%s' is longer "
                       "than %d bytes",
                       image_of(n), NAME_MAX_LEN);
    }
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            return err_set(err, EINVAL,
                           "Backing file name of '%s' holds "
                           "control characters (offset %zu)",
                           image_of(n), (size_t)(p - name));
        }
    }
    return g_utf8_validate(name, -1, NULL)
               ? 0
               : err_set(err, EINVAL,
                         "Backing file name of '%s' is not valid UTF-8",
                         image_of(n));
}

int backing_check_kind(const struct node *n, const char *name, GError **err)
{
    const struct node_driver *drv = backing_address_driver(n->graph, name);
    const char *path = g_str_has_prefix(name, "file:") ? name + strlen("file:")
                                                       : name;
    int r = 0;

    /* What a number stands for here means nothing to a header. */
    if (g_str_has_prefix(name, "fd:") || fdset_is_name(path) ||
        scheme_is_filter(n->graph, name)) {
        return err_set(err, EINVAL,
                       "Backing file name '%s' of '%s' is refused: an "
                       "image's header may name files and addresses only",
                       name, image_of(n));
    }
    if (drv && drv->check_name) {
        r = drv->check_name(name, err);
    }
    if (r < 0) {
        err_prefix(err, "Backing file name '%s' of '%s' is refused", name,
                   image_of(n));
    }
    return r;
}
