/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A face of libedit; see line-editor.h. */
#include "cli/line-editor.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#define HISTORY_LINES 500
#define CONTROL(letter) ((letter)&0x1f)
/* What takes the whole line away, in emacs's keys. */
#define KILL_LINE CONTROL('u')

struct line_editor {
    EditLine *el;
    History *history;
    const char *prompt;
    int fd;
    const struct line_editor_ops *ops;
    void *arg;
    GString *line; /* the last one that was read */
    struct sigaction old_interrupt;
    bool paused, ended;
};

static volatile sig_atomic_t interrupted;

static void editor_on_interrupt(int sig)
{
    interrupted = 1;
}

static struct line_editor *self(EditLine *el)
{
    struct line_editor *ed;

    el_get(el, EL_CLIENTDATA, &ed);
    return ed;
}

static char *get_prompt(EditLine *el)
{
    return (char *)self(el)->prompt;
}

/* --- letters --- */

void line_editor_pause(struct line_editor *ed)
{
    if (!ed->paused) {
        printf("\r\033[K");
        ed->paused = true;
    }
}

static void look_at_fd(struct line_editor *ed)
{
    ed->ended = !ed->ops->readable(ed, ed->arg);
    fflush(stdout);
    if (ed->paused) {
        ed->paused = false;
        el_set(ed->el, EL_REFRESH);
    }
}

/* Ctrl-C takes the line away; without a line it is the end. 1 or 0, as a letter
 * that was read. */
static int read_interrupt(struct line_editor *ed, wchar_t *ret)
{
    const LineInfo *info = el_line(ed->el);

    interrupted = 0;
    if (info->lastchar == info->buffer) {
        ed->ended = true;
        return 0;
    }
    *ret = KILL_LINE;
    return 1;
}

/* One letter from the bytes of standard input. 1, 0 at the end, -1. */
static int read_letter(wchar_t *ret)
{
    mbstate_t state = { 0 };
    char byte;
    ssize_t n;

    do {
        n = read(STDIN_FILENO, &byte, 1);
        if (n != 1) {
            return n < 0 && errno == EINTR ? -1 : 0;
        }
        size_t r = mbrtowc(ret, &byte, 1, &state);
        if (r == 0 || r == 1) {
            return 1;
        }
        if (r == (size_t)-1) {
            *ret = L'?';
            return 1;
        }
    } while (true); /* more bytes of the letter */
}

/* poll() without a moment between the look at `interrupted` and the wait. */
static int wait_for(struct pollfd *p, nfds_t n_p)
{
    sigset_t interrupt, mask;
    int n;

    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, &mask);
    n = interrupted ? -1 : ppoll(p, n_p, NULL, &mask);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    return n;
}

static int get_letter(EditLine *el, wchar_t *ret)
{
    struct line_editor *ed = self(el);

    while (!ed->ended) {
        struct pollfd p[] = {
            { .fd = STDIN_FILENO, .events = POLLIN },
            { .fd = ed->fd, .events = POLLIN },
        };
        int n = wait_for(p, 2);

        if (interrupted) {
            return read_interrupt(ed, ret);
        }
        if (n > 0 && p[1].revents) {
            look_at_fd(ed);
        } else if (n > 0 && p[0].revents) {
            int r = read_letter(ret);
            if (r >= 0) {
                return r;
            }
        }
    }
    return 0;
}

/* --- completion --- */

/* The longest beginning that all of @words have. Owned. */
static char *common_beginning(const GPtrArray *words)
{
    const char *first = g_ptr_array_index(words, 0);
    size_t len = strlen(first);

    for (guint i = 1; i < words->len; i++) {
        const char *word = g_ptr_array_index(words, i);
        size_t same = 0;

        while (same < len && word[same] == first[same]) {
            same++;
        }
        len = same;
    }
    return g_strndup(first, len);
}

static void list_words(struct line_editor *ed, const GPtrArray *words)
{
    printf("\n");
    for (guint i = 0; i < words->len; i++) {
        printf("%s%s", i ? "  " : "", (char *)g_ptr_array_index(words, i));
    }
    printf("\n");
    fflush(stdout);
    el_set(ed->el, EL_REFRESH);
}

/* Keep of @words those that begin with @beginning, each once. */
static void keep_fitting(GPtrArray *words, const char *beginning)
{
    for (guint i = words->len; i-- > 0;) {
        const char *word = g_ptr_array_index(words, i);
        bool keep = g_str_has_prefix(word, beginning);

        for (guint k = 0; keep && k < i; k++) {
            keep = strcmp(g_ptr_array_index(words, k), word) != 0;
        }
        if (!keep) {
            g_ptr_array_remove_index(words, i);
        }
    }
}

static unsigned char complete(EditLine *el, int key)
{
    struct line_editor *ed = self(el);
    const LineInfo *info = el_line(el);
    size_t len = (size_t)(info->cursor - info->buffer), start = len;
    g_autofree char *line = g_strndup(info->buffer, len);
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);

    while (start > 0 && !strchr(" \t\"", line[start - 1])) {
        start--;
    }
    ed->ops->complete(line, len, start, words, ed->arg);
    keep_fitting(words, line + start);
    if (words->len == 0) {
        return CC_REFRESH_BEEP;
    }
    g_autofree char *common = common_beginning(words);
    if (strlen(common) > len - start) {
        el_insertstr(el, common + (len - start));
    } else if (words->len > 1) {
        list_words(ed, words);
    }
    if (words->len == 1) {
        el_insertstr(el, start > 0 && line[start - 1] == '"' ? "\"" : " ");
    }
    return CC_REFRESH;
}

/* --- life --- */

struct line_editor *line_editor_new(const char *prompt, int fd,
                                    const struct line_editor_ops *ops,
                                    void *arg)
{
    struct line_editor *ed = g_new0(struct line_editor, 1);
    struct sigaction sa = { .sa_handler = editor_on_interrupt };
    HistEvent ev;

    ed->el = el_init("sluice", stdin, stdout, stderr);
    ed->history = history_init();
    if (!ed->el || !ed->history) {
        line_editor_free(ed);
        return NULL;
    }
    ed->prompt = prompt;
    ed->fd = fd;
    ed->ops = ops;
    ed->arg = arg;
    ed->line = g_string_new(NULL);
    history(ed->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(ed->history, &ev, H_SETUNIQUE, 1);
    el_set(ed->el, EL_CLIENTDATA, ed);
    el_set(ed->el, EL_PROMPT, get_prompt);
    el_set(ed->el, EL_EDITOR, "emacs");
    el_set(ed->el, EL_HIST, history, ed->history);
    el_set(ed->el, EL_GETCFN, get_letter);
    el_set(ed->el, EL_ADDFN, "sluice-complete", "Complete a word", complete);
    el_set(ed->el, EL_BIND, "^I", "sluice-complete", NULL);
    el_set(ed->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    sigaction(SIGINT, &sa, &ed->old_interrupt);
    return ed;
}

void line_editor_free(struct line_editor *ed)
{
    if (!ed) {
        return;
    }
    if (ed->line) {
        sigaction(SIGINT, &ed->old_interrupt, NULL);
        g_string_free(ed->line, TRUE);
    }
    if (ed->history) {
        history_end(ed->history);
    }
    if (ed->el) {
        el_end(ed->el);
    }
    g_free(ed);
}

const char *line_editor_read(struct line_editor *ed)
{
    int len = 0;
    const char *text = ed->ended ? NULL : el_gets(ed->el, &len);
    HistEvent ev;

    if (!text || len <= 0 || ed->ended) {
        return NULL;
    }
    g_string_assign(ed->line, text);
    g_strchomp(ed->line->str);
    if (*ed->line->str) {
        history(ed->history, &ev, H_ENTER, ed->line->str);
    }
    return ed->line->str;
}
