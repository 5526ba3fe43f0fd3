/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The nearest word by edit distance; see suggest.h. */
#include "base/suggest.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"

/* Longer words are no names, and cost time. */
#define LONGEST 64
/* That many words are still read. */
#define FEW 20

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    return MIN(a, MIN(b, c));
}

/* Letters to add, leave out, change or swap with their neighbour. Each row is
 * that of one more letter of @a; the two before it are kept. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][LONGEST + 1];
    unsigned *before = rows[0], *last = rows[1], *row = rows[2];
    size_t len = strlen(b);

    for (unsigned j = 0; j <= len; j++) {
        last[j] = before[j] = j;
    }
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned *oldest = before;

        row[0] = i;
        for (unsigned j = 1; j <= len; j++) {
            bool same = a[i - 1] == b[j - 1];
            row[j] = least(last[j] + 1, row[j - 1] + 1, last[j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
                a[i - 2] == b[j - 1]) {
                row[j] = MIN(row[j], before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
        row = oldest;
    }
    return last[len];
}

const char *suggest_word(const char *word, const char *const *words)
{
    size_t len = strlen(word);
    unsigned best = (unsigned)(len / 3) + 1; /* that many is too many */
    const char *found = NULL;

    if (len < 2 || len > LONGEST) {
        return NULL;
    }
    best = MAX(best, 2);
    for (; *words; words++) {
        unsigned d;

        if (strlen(*words) > LONGEST) {
            continue;
        }
        if (strncmp(word, *words, len) == 0) {
            return *words;
        }
        d = distance(word, *words);
        if (d < best) {
            best = d;
            found = *words;
        }
    }
    return found;
}

void suggest_hint(GError **err, const char *word, const char *const *words)
{
    const char *near = suggest_word(word, words);

    if (near) {
        err_hint(err, "Did you mean '%s'?", near);
    } else if (g_strv_length((char **)words) <= FEW) {
        g_autofree char *list = g_strjoinv(", ", (char **)words);

        err_hint(err, "Possible are: %s.", list);
    }
}
