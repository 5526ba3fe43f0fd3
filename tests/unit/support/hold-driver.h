/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A filter for tests, "hold": passes everything through, but on demand keeps
 * requests waiting, or fails them.  It makes an interleaving certain that would
 * otherwise be a matter of luck.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct node_driver;
extern const struct node_driver hold_driver;

/* Of all hold nodes of the process; loop thread. */
void hold_set(bool on);
/* One read alone: the next that touches [@off, @off+@len). It reads what is there
 * when it is let go by hold_set(false). */
void hold_next_read(uint64_t off, uint64_t len);
/* 0: none. */
void hold_fail(int errnum);
/* Requests that wait now. */
unsigned hold_waiting(void);
