/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of driver "rbd", also where it is not built. */
#pragma once

/* NULL-terminated. */
extern const char *const rbd_option_names[];
