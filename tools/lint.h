/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What "make lint" tells the analyzer, which sees one file at a time and knows
 * no library but libc: err_set() and its like return less than 0, errno is more
 * than 0 where it is read, g_malloc() returns memory or does not return.  Only
 * tools/lint includes this file.
 */
/* src/lib is built without GLib. */
#if !defined(TOOLS_LINT_H) && __has_include(<glib.h>)
#define TOOLS_LINT_H

#include <errno.h>
#include <glib.h>
#include "base/err.h"

static inline int lint_negative(int ret)
{
    if (ret >= 0) {
        __builtin_unreachable();
    }
    return ret;
}

static inline int *lint_errno(void)
{
    int *e = __errno_location();

    if (*e <= 0) {
        __builtin_unreachable();
    }
    return e;
}

/* The analyzer would report each g_autofree variable as a leak. */
void *lint_memory(gsize n) __attribute__((returns_nonnull));

#undef errno
#define errno (*lint_errno())

#define err_set(...) lint_negative(err_set(__VA_ARGS__))
#define err_set_errno(...) lint_negative(err_set_errno(__VA_ARGS__))
#define err_set_class(...) lint_negative(err_set_class(__VA_ARGS__))

#define g_malloc(n) lint_memory(n)
#define g_malloc0(n) lint_memory(n)
#define g_malloc_n(n, size) lint_memory((n) * (size))
#define g_malloc0_n(n, size) lint_memory((n) * (size))

#endif
