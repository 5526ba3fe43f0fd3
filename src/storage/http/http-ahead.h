/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading ahead of who reads a file in sequence and in small pieces.
 *
 * A read that begins where a recent one ended makes what follows be fetched
 * before it is asked for, in blocks of a fixed size; the longer the sequence
 * lasts, the more blocks.  Reads that are not in sequence fetch what they ask
 * for and no more, and large ones need no help.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct http_ahead;
struct http_client;

/* @block: bytes, 0 reads nothing ahead. The client is borrowed. */
struct http_ahead *http_ahead_new(struct http_client *client, uint64_t block);
/* Waits for what is under way. NULL is fine. */
CO_FN void http_ahead_co_free(struct http_ahead *a);
/* As http_client_co_read(). */
CO_FN int http_ahead_co_read(struct http_ahead *a, uint64_t off, struct iov dst,
                             bool background);
