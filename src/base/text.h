/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text from files, users and other programs. */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* @text with \xNN for every byte of a character that a terminal could obey:
 * control characters, those of one byte above 0x7f (C1) included.  @keep: ASCII
 * control characters that stay, such as "\n". Owned by the caller; @text NULL:
 * NULL. */
char *text_printable(const char *text, const char *keep);

/* May @id name a node, a device, a job, an object or an export, as QEMU has it:
 * a letter, then letters, digits, "-", "." and "_"? NULL may not. */
bool text_is_id(const char *id);
