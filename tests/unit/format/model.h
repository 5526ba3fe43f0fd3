/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random requests on an image against a model in memory, for any format. */
#pragma once
#include <glib.h>
#include <stdint.h>
#include "base/annot.h"

struct node;

/* Bytes that are told by @stamp. */
void model_fill(uint8_t *buf, size_t len, unsigned stamp);
/* One request on @n, a disk of @size bytes that must read as @shadow: a write,
 * zeroes, a discard, a flush or a read, of any alignment. Changes @shadow with
 * the disk; @buf has @size bytes for scratch. */
CO_FN void model_co_step(struct node *n, uint8_t *shadow, uint64_t size,
                         GRand *rand, uint8_t *buf);
/* All of the disk reads as @shadow. */
CO_FN void model_co_compare(struct node *n, const uint8_t *shadow,
                            uint64_t size, uint8_t *buf);
