/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD server over memory pipes, with one writable export "e" of 1 MiB. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

/* One client's life: sends @bytes through a pipe of @capacity, reads all that
 * comes, goes.  Then the server is stopped and must hold nothing.  With @tls the
 * server wants TLS. */
void nbd_rig_talk(GByteArray *bytes, size_t capacity, bool tls);
void nbd_put(GByteArray *out, const void *data, size_t len);
/* Handshake up to GO of the export. */
void nbd_put_hello(GByteArray *out);
void nbd_put_opt(GByteArray *out, uint32_t opt, uint32_t len);
