/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The format of an image that is going to be served. */
#pragma once

/* The message where format_of_name() does not know; takes the image's name. */
#define UNKNOWN_FORMAT \
    "the format of '%s' is not known from its name: say it with -f (for " \
    "example -f qcow2)"

/* The format that a name's ending stands for: a person's word, not a look
 * into the image, so it is safe on a writable one. NULL: none. */
const char *format_of_name(const char *image);
