/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of RBD images, as QEMU has them:
 *
 *   rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:KEY=VALUE]...
 *
 * "id" is the user and "conf" the configuration file; other keys are options of
 * Ceph.  A backslash takes its meaning from the character behind it.  Pure text
 * work; the input may come from an untrusted header.
 */
#pragma once
#include <glib.h>

struct rbd_name {
    char *pool, *image;           /* never NULL, never "" */
    char *name_space;             /* NULL: the default one */
    char *snapshot, *user, *conf; /* NULL: none, the default ones */
    GPtrArray *settings;          /* owned: KEY, VALUE, KEY ...; or NULL */
};

void rbd_name_clear(struct rbd_name *n);

/* 0 or -EINVAL with a text that holds no value; on success the caller clears
 * *@ret. */
int rbd_name_parse(const char *name, struct rbd_name *ret, GError **err);
/* Owned by the caller. */
char *rbd_name_format(const struct rbd_name *n);
/* May a header hold the address @name?  It must not choose a file for Ceph's
 * library to read or write: a configuration file names such. 0 or -EINVAL. */
int rbd_name_check_header(const char *name, GError **err);
