/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Questions to the daemon at one end of a migration, and steps taken there.
 * What fails has been told on stderr.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct migration;
struct sluice_conn;

/* What is inserted in device @name, or node @name, as query-named-block-nodes
 * tells it; NULL with a message and what the name may have meant. Owned. */
json_t *end_find_disk(struct sluice_conn *conn, const char *name);

/* Serve node @node as @name under the export id @id; nothing when that is so.
 * Returns the address that the server tells of it, owned; NULL on failure. */
char *end_export(struct sluice_conn *conn, const char *id, const char *node,
                 const char *name, bool writable);
/* Take away export @id and wait until it is gone; @force cuts its clients off.
 * Nothing when there is none. */
bool end_unexport(struct sluice_conn *conn, const char *id, bool force);
/* Make a file of @format for a disk of @size, over @base (raw; NULL: none),
 * where there is none, or one without a byte. */
bool end_create(struct sluice_conn *conn, const char *path, const char *format,
                uint64_t size, const char *base);
