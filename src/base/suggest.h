/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What somebody probably meant who mistyped a word. */
#pragma once
#include <glib.h>

/* The word of @words (NULL-terminated) that is nearest to @word: one of which
 * it is the beginning, else one that a few letters more, fewer, changed or
 * swapped lead to. NULL when none is near. Borrowed from @words. */
const char *suggest_word(const char *word, const char *const *words);
/* Add to *@err, which is about @word, the hint which of @words was probably meant,
 * or, where none is near and they are few, which there are. */
void suggest_hint(GError **err, const char *word, const char *const *words);
