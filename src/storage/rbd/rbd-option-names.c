/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/rbd/rbd-option-names.h"

#include <stddef.h>

const char *const rbd_option_names[] = {
    "pool",         "namespace",    "image",
    "snapshot",     "conf",         "user",
    "key-secret",   "server",       "auth-client-required",
    "filename",     "open-timeout", "hang-timeout",
    "on-base-hang", NULL,
};
