/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who uses the disk that is to move. */
#pragma once
#include <stdbool.h>

struct sluice_conn;

/* Take away every export of @disk, a device or node, and of the filters above
 * it, but export @but (or NULL); @force cuts their clients off. Afterwards nobody
 * writes to it: false, told, when somebody does. */
bool users_take_off(struct sluice_conn *conn, const char *disk, const char *but,
                    bool force);
