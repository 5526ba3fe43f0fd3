/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text from files and from other programs, for a terminal. */
#pragma once
#include <glib.h>

/* @text with \xNN for every byte of a character that a terminal could obey:
 * control characters, those of one byte above 0x7f (C1) included.  @keep: ASCII
 * control characters that stay, such as "\n". Owned by the caller; @text NULL:
 * NULL. */
char *text_printable(const char *text, const char *keep);
