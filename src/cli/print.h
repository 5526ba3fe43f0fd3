/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Values on stdout in the forms that scripts know. */
#pragma once
#include <jansson.h>

/* JSON as QEMU prints it (base/json-print.h), indented by four. */
void print_json(const json_t *value);
/* "key: value" lines in QEMU's order, nested ones indented by four; '-' of keys
 * is ' '. @depth: levels of indent. For the members of format-specific. */
void print_facts(const json_t *value, int depth);
/* The members of "snapshots" (SnapshotInfo) as a table with "Snapshot list:"
 * above it; nothing for an empty or absent list. */
void print_snapshots(const json_t *snapshots);
