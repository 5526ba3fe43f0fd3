/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of NBD exports, as image headers and command lines hold them:
 *
 *   nbd://HOST[:PORT][/EXPORT]          nbd+unix:///[EXPORT]?socket=PATH
 *   nbd:HOST:PORT[:exportname=EXPORT]   nbd:unix:PATH[:exportname=EXPORT]
 *
 * nbds: and nbds+unix: ask for TLS.  Pure text work; the
 * input may come from an untrusted header.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

#define NBD_DEFAULT_PORT "10809"

/* Exactly one of @path and @host is set; @port goes with @host. */
struct nbd_target {
    char *path;
    char *host;
    char *port;
    char *export_name; /* never NULL; "" is the default export */
    bool tls;
};

void nbd_target_clear(struct nbd_target *t);

/* 0 or -EINVAL; on success the caller clears *@ret. */
int nbd_uri_parse(const char *name, struct nbd_target *ret, GError **err);
/* The URI form. Owned by the caller. */
char *nbd_uri_format(const struct nbd_target *t);
