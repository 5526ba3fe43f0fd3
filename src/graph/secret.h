/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Secrets (object secret): passphrases by id, for whatever in the graph asks
 * for one.  The bytes are wiped from memory when the last reference is dropped.
 * Everything on the graph's loop.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"

struct graph;
struct io_file;

enum { SECRET_BYTES_MAX = 64 << 10 };

/* @props: "data" (text) or "file" (path; its bytes as they are), and "format":
 * "raw" (default) or "base64". 0; -EINVAL, -ENOENT ... with a text that never
 * holds the secret. */
CO_FN int secret_co_add(struct graph *g, const char *id, const json_t *props,
                        GError **err);
/* Those who have got it keep it. -ENOENT. */
int secret_del(struct graph *g, const char *id, GError **err);
/* The caller owns a reference. -ENOENT "No secret with id 'X'". */
int secret_get(struct graph *g, const char *id, GBytes **ret_bytes,
               GError **err);
/* All bytes of an open file, at most @max, as those of a secret: a zero byte
 * stands behind them, and they are wiped when the last reference is dropped.
 * -EFBIG. */
CO_FN int secret_co_read(struct io_file *f, size_t max, GBytes **ret);
