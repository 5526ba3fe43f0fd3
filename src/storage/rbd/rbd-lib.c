/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/rbd/rbd-lib.h"

#include <dlfcn.h>
#include <errno.h>

#include "base/err.h"

#define LIBRARY "librbd.so.1"

static GMutex lock;
static struct rbd_lib lib;
static bool is_loaded;

/* librados comes with librbd: its names are found there, too. */
static const char *find_all(void *handle)
{
#define RBD_LIB_FIND(name) \
    lib.name = (typeof(lib.name))dlsym(handle, #name); \
    if (!lib.name) { \
        return #name; \
    }
    RBD_LIB_FUNCTIONS(RBD_LIB_FIND)
    return NULL;
}

static int load(GError **err)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    const char *missing;

    if (!handle) {
        err_set(err, ENOENT, "Driver 'rbd' needs Ceph's library: %s",
                dlerror());
        err_hint(err, "Install the package librbd1.");
        return -ENOENT;
    }
    missing = find_all(handle);
    if (missing) {
        dlclose(handle);
        return err_set(err, ENOENT,
                       "Driver 'rbd' needs a newer " LIBRARY ": it has no %s()",
                       missing);
    }
    is_loaded = true;
    return 0;
}

int rbd_lib_load(const struct rbd_lib **ret, GError **err)
{
    int r;

    g_mutex_lock(&lock);
    r = is_loaded ? 0 : load(err);
    g_mutex_unlock(&lock);
    if (r == 0) {
        *ret = &lib;
    }
    return r;
}
