/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GError with an errno as its code and the control socket's class as its
 * domain.  A hint travels in the message behind a separator that no message
 * holds, so that a GError stays a plain GError.
 */
#include "base/err.h"

#include <string.h>

#define HINT_SEPARATOR "\x1f"

static const char *const class_names[ERR_CLASS_COUNT] = {
    [ERR_GENERIC] = "GenericError",
    [ERR_COMMAND_NOT_FOUND] = "CommandNotFound",
    [ERR_DEVICE_NOT_FOUND] = "DeviceNotFound",
    [ERR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
};

static GQuark class_quark(enum err_class cls)
{
    return g_quark_from_static_string(class_names[cls]);
}

/* The name and password in "SCHEME://NAME:PASSWORD@HOST/" go: others read what
 * errors say. */
static void hide_passwords(char *text)
{
    for (char *p = strstr(text, "://"); p; p = strstr(p, "://")) {
        size_t len;

        p += 3;
        len = strcspn(p, "/?#'\"\\ \t\n");
        char *at = memrchr(p, '@', len);
        if (at) {
            memmove(p, at + 1, strlen(at + 1) + 1);
        }
    }
}

PRINTF_LIKE(4, 0)
static void set_valist(GError **err, enum err_class cls, int errnum,
                       const char *fmt, va_list ap)
{
    if (err) {
        g_assert(*err == NULL);
        *err = g_error_new_valist(class_quark(cls), errnum, fmt, ap);
        hide_passwords((*err)->message);
    }
}

int err_set(GError **err, int errnum, const char *fmt, ...)
{
    va_list ap;

    g_assert(errnum > 0);
    va_start(ap, fmt);
    set_valist(err, ERR_GENERIC, errnum, fmt, ap);
    va_end(ap);
    return -errnum;
}

int err_set_class(GError **err, enum err_class cls, int errnum, const char *fmt,
                  ...)
{
    va_list ap;

    g_assert(errnum > 0);
    va_start(ap, fmt);
    set_valist(err, cls, errnum, fmt, ap);
    va_end(ap);
    return -errnum;
}

int err_set_errno(GError **err, int errnum, const char *fmt, ...)
{
    va_list ap;

    g_assert(errnum > 0);
    if (err) {
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        err_set(err, errnum, "%s: %s", what, g_strerror(errnum));
    }
    return -errnum;
}

void err_prefix(GError **err, const char *fmt, ...)
{
    va_list ap;

    if (err && *err) {
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        g_prefix_error(err, "%s: ", what);
        hide_passwords((*err)->message);
    }
}

void err_add_line(GError **err, const char *fmt, ...)
{
    va_list ap;

    if (err && *err) {
        const char *hint = err_get_hint(*err);
        g_autofree char *message = err_dup_message(*err);
        va_start(ap, fmt);
        g_autofree char *line = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        char *joined = g_strconcat(message, "\n", line,
                                   hint ? HINT_SEPARATOR : NULL, hint, NULL);
        g_free((*err)->message);
        (*err)->message = joined;
    }
}

void err_hint(GError **err, const char *fmt, ...)
{
    va_list ap;

    if (err && *err) {
        const char *sep = err_get_hint(*err) ? "\n" : HINT_SEPARATOR;
        va_start(ap, fmt);
        g_autofree char *hint = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        char *joined = g_strconcat((*err)->message, sep, hint, NULL);
        g_free((*err)->message);
        (*err)->message = joined;
    }
}

const char *err_get_hint(const GError *err)
{
    const char *sep = strstr(err->message, HINT_SEPARATOR);

    return sep ? sep + strlen(HINT_SEPARATOR) : NULL;
}

char *err_dup_message(const GError *err)
{
    const char *sep = strstr(err->message, HINT_SEPARATOR);

    return sep ? g_strndup(err->message, (gsize)(sep - err->message))
               : g_strdup(err->message);
}

enum err_class err_class_of(const GError *err)
{
    for (int i = 0; i < ERR_CLASS_COUNT; i++) {
        if (err->domain == class_quark((enum err_class)i)) {
            return (enum err_class)i;
        }
    }
    return ERR_GENERIC;
}

const char *err_class_name(enum err_class cls)
{
    return class_names[cls];
}
