/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice monitor: type the daemon's commands and see its events.
 *
 * Lines from standard input are human monitor commands; a line that begins
 * with { is sent as a JSON command.  Events are printed as they come.  Ends
 * with standard input, with "quit", which leaves the daemon alone, or with the
 * connection.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/line-editor.h"
#include "cli/monitor-words.h"

struct monitor {
    struct sluice_conn *conn;
    bool events_only, json;
    bool over;                   /* "quit" was typed */
    GString *line;               /* read and not yet ended by a newline */
    int status;                  /* of the last command */
    struct monitor_words *words; /* on a terminal */
};

static void monitor_print_event(const struct monitor *m, const char *text)
{
    json_t *event = json_loads(text, 0, NULL);
    char *data = json_dumps(json_object_get(event, "data"), JSON_COMPACT);

    if (m->json) {
        char *flat = json_dumps(event, JSON_COMPACT);
        printf("%s\n", flat);
        free(flat);
    } else {
        printf("%s %s\n", json_string_value(json_object_get(event, "event")),
               data ? data : "");
    }
    fflush(stdout);
    free(data);
    json_decref(event);
}

static void tell_gone(struct monitor *m)
{
    if (!m->over) {
        cli_error("the daemon went away");
        m->status = 1;
    }
}

/* Print what is waiting, over the line that is being typed with @ed. False when
 * the connection is gone. */
static bool drain_events(const struct monitor *m, struct line_editor *ed)
{
    for (;;) {
        char *text;
        int r = sluice_wait_event(m->conn, 0, &text);
        if (r <= 0) {
            return r == 0;
        }
        if (ed) {
            line_editor_pause(ed);
        }
        monitor_print_event(m, text);
        sluice_free(text);
    }
}

static void run_json(struct monitor *m, const char *line)
{
    json_error_t where;
    json_t *cmd = json_loads(line, 0, &where);
    const char *name = json_string_value(json_object_get(cmd, "execute"));

    if (!name) {
        cli_error("not a command: %s",
                  cmd ? "\"execute\" is missing" : where.text);
        m->status = 1;
        json_decref(cmd);
        return;
    }
    json_t *value = client_execute(
        m->conn, name, json_incref(json_object_get(cmd, "arguments")));
    char *text = value ? json_dumps(value, JSON_INDENT(4) | JSON_ENCODE_ANY)
                       : NULL;
    m->status = value ? 0 : 1;
    if (text) {
        printf("%s\n", text);
    }
    free(text);
    json_decref(value);
    json_decref(cmd);
}

static void run_human(struct monitor *m, const char *line)
{
    json_t *value = client_execute(m->conn, "human-monitor-command",
                                   json_pack("{s:s}", "command-line", line));

    m->status = value ? 0 : 1;
    if (value) {
        /* Its lines end with CR LF; names of files may hold anything. */
        g_autofree char *text = text_printable(json_string_value(value),
                                               "\r\n\t");
        for (const char *p = text; p && *p; p++) {
            if (*p != '\r') {
                putchar(*p);
            }
        }
    }
    json_decref(value);
}

/* The words that are for this program and not for the daemon. */
static bool run_own(struct monitor *m, const char *line)
{
    if (g_str_equal(line, "quit") || g_str_equal(line, "q") ||
        g_str_equal(line, "exit")) {
        m->over = true;
        return true;
    }
    if (g_str_equal(line, "quit --daemon")) {
        run_human(m, "quit");
        m->over = m->status == 0;
        return true;
    }
    if (g_str_equal(line, "help")) {
        run_human(m, line);
        printf(
            "Here 'quit' ends the monitor alone, 'quit --daemon' the daemon; "
            "a line with {\nis a JSON command.\n");
        fflush(stdout);
        return true;
    }
    return false;
}

static void run_line(struct monitor *m, char *line)
{
    g_strstrip(line);
    if (run_own(m, line)) {
        return;
    }
    if (*line == '{') {
        run_json(m, line);
    } else if (*line) {
        run_human(m, line);
    }
    fflush(stdout);
}

/* Read what was typed and run whole lines. False at the end of input. */
static bool read_input(struct monitor *m)
{
    char buf[4096];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    char *nl;

    if (n < 0) {
        return errno == EINTR || errno == EAGAIN;
    }
    g_string_append_len(m->line, buf, n);
    if (n == 0 && m->line->len) {
        g_string_append_c(m->line, '\n');
    }
    while (!m->over && (nl = memchr(m->line->str, '\n', m->line->len))) {
        gsize len = (gsize)(nl - m->line->str);
        g_autofree char *line = g_strndup(m->line->str, len);
        g_string_erase(m->line, 0, (gssize)len + 1);
        run_line(m, line);
    }
    return n > 0;
}

/* --- on a terminal --- */

static void complete_command(const char *line, size_t len, size_t start,
                             GPtrArray *out, void *arg)
{
    const struct monitor *m = arg;

    monitor_words_complete(m->words, line, start, out);
}

static bool monitor_readable(struct line_editor *ed, void *arg)
{
    return drain_events(arg, ed);
}

/* False where the terminal cannot be used. */
static bool run_terminal(struct monitor *m)
{
    static const struct line_editor_ops ops = { monitor_readable,
                                                complete_command };
    struct line_editor *ed = line_editor_new("(sluice) ", sluice_fd(m->conn),
                                             &ops, m);
    const char *typed = NULL;

    if (!ed) {
        return false;
    }
    m->words = monitor_words_new(m->conn);
    while (!m->over && drain_events(m, NULL) &&
           (typed = line_editor_read(ed))) {
        g_autofree char *line = g_strdup(typed);
        run_line(m, line);
    }
    line_editor_free(ed);
    if (!typed) {
        printf("\n");
    }
    if (!drain_events(m, NULL)) {
        tell_gone(m);
    }
    monitor_words_free(m->words);
    return true;
}

/* --- from a pipe or file --- */

static void run_lines(struct monitor *m)
{
    while (!m->over) {
        struct pollfd p[] = {
            { .fd = sluice_fd(m->conn), .events = POLLIN },
            { .fd = m->events_only ? -1 : STDIN_FILENO, .events = POLLIN },
        };
        if (!drain_events(m, NULL)) {
            tell_gone(m);
            return;
        }
        if (poll(p, 2, -1) < 0 && errno != EINTR) {
            return;
        }
        if ((p[1].revents & (POLLIN | POLLHUP)) && !read_input(m)) {
            drain_events(m, NULL);
            return;
        }
    }
}

int cmd_monitor(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "events", no_argument, NULL, 'e' },
        { "output", required_argument, NULL, 'o' },
        { NULL, 0, NULL, 0 }
    };
    struct monitor m = { 0 };
    const char *socket = NULL;
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:e", options, NULL)) != -1) {
        switch (c) {
        case 'h': return cli_print_help();
        case 's': socket = optarg; break;
        case 'e': m.events_only = true; break;
        case 'o': r = cli_parse_output("monitor", optarg, &m.json); break;
        default: r = cli_bad_option("monitor", argv); break;
        }
    }
    if (r || !(m.conn = client_connect(socket))) {
        return 1;
    }
    m.line = g_string_new(NULL);
    if (m.events_only || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) ||
        !run_terminal(&m)) {
        run_lines(&m);
    }
    g_string_free(m.line, TRUE);
    sluice_disconnect(m.conn);
    return m.status;
}
