/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of driver "nbd"; private to it. */
#pragma once
#include <glib.h>

struct nbd_client_options;
struct nbd_target;
struct opts;

/* NULL-terminated. */
extern const char *const nbd_option_names[];

/* Take them out of @o. *@t is the caller's to clear, also after a failure. */
int nbd_options_take(struct opts *o, struct nbd_target *t,
                     struct nbd_client_options *co, GError **err);
