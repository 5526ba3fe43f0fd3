/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines typed on a terminal, with editing, history and completion (libedit),
 * while something else may come at any time.  The history is kept in memory
 * alone: what is typed may hold a passphrase.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

struct line_editor;

struct line_editor_ops {
    /* @fd can be read. Where there is something to print it is printed between
     * line_editor_pause() and the return. False: no more lines are wanted. */
    bool (*readable)(struct line_editor *ed, void *arg);
    /* Add to @out all words that may stand at the end of @line, the first @len
     * bytes of what was typed, in place of its last word, which begins at
     * @start. g_strdup()ed; others than those that begin alike are left out. */
    void (*complete)(const char *line, size_t len, size_t start, GPtrArray *out,
                     void *arg);
};

/* On the terminal of standard input and output; @fd is watched besides. NULL
 * where the terminal cannot be used. @prompt and @ops are not copied. */
struct line_editor *line_editor_new(const char *prompt, int fd,
                                    const struct line_editor_ops *ops,
                                    void *arg);
/* The terminal is as it was. NULL is fine. */
void line_editor_free(struct line_editor *ed);

/* The next line, without its newline, until the next call; it joins the
 * history. NULL at the end of input, at Ctrl-C on an empty line, or when
 * ops->readable() said so. */
const char *line_editor_read(struct line_editor *ed);

/* Inside ops->readable(): take the line that is being typed off the screen. It
 * comes back by itself. */
void line_editor_pause(struct line_editor *ed);
