/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Completion in the monitor; see monitor-words.h. The daemon is asked, so that
 * the words are those of its version. */
#include "cli/monitor-words.h"

#include <stdbool.h>
#include <string.h>

#include "cli/client.h"

struct monitor_words {
    struct sluice_conn *conn;
    GPtrArray *names[2]; /* of commands: human, JSON */
};

/* The first words of the lines of "help": "info block [device] -- ..." is
 * "info block". */
static void add_human_names(struct monitor_words *w, const char *help)
{
    g_auto(GStrv) lines = g_strsplit(help, "\n", -1);

    for (char **l = lines; *l; l++) {
        bool info = g_str_has_prefix(*l, "info ");
        const char *end = *l + (info ? strlen("info ") : 0);

        end += strcspn(end, " \r");
        if (**l) {
            g_ptr_array_add(w->names[0], g_strndup(*l, (gsize)(end - *l)));
        }
    }
}

/* The values of @key in the answer of @command. */
static void add_values(struct monitor_words *w, const char *command,
                       const char *key, GPtrArray *out)
{
    json_t *list = client_execute(w->conn, command, NULL);
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *text = json_string_value(json_object_get(entry, key));
        if (text && *text) {
            g_ptr_array_add(out, g_strdup(text));
        }
    }
    json_decref(list);
}

/* Add what of the commands @names stands behind the words that were typed. */
static void add_commands(const GPtrArray *names, const char *line, size_t start,
                         GPtrArray *out)
{
    for (guint i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);

        if (strncmp(name, line, start) == 0) {
            g_ptr_array_add(
                out, g_strndup(name + start, strcspn(name + start, " ")));
        }
    }
}

struct monitor_words *monitor_words_new(struct sluice_conn *conn)
{
    struct monitor_words *w = g_new0(struct monitor_words, 1);
    json_t *help = client_execute(conn, "human-monitor-command",
                                  json_pack("{s:s}", "command-line", "help"));

    w->conn = conn;
    w->names[0] = g_ptr_array_new_with_free_func(g_free);
    w->names[1] = g_ptr_array_new_with_free_func(g_free);
    add_human_names(w, help ? json_string_value(help) : "");
    add_values(w, "query-commands", "name", w->names[1]);
    json_decref(help);
    return w;
}

void monitor_words_free(struct monitor_words *w)
{
    if (w) {
        g_ptr_array_free(w->names[0], TRUE);
        g_ptr_array_free(w->names[1], TRUE);
        g_free(w);
    }
}

void monitor_words_complete(struct monitor_words *w, const char *line,
                            size_t start, GPtrArray *out)
{
    if (*line == '{') {
        if (start > 0 && line[start - 1] == '"') {
            add_commands(w->names[1], "", 0, out);
        }
        return;
    }
    add_commands(w->names[0], line, start, out);
    if (start > 0 && out->len == 0) {
        add_values(w, "query-block", "device", out);
        add_values(w, "query-named-block-nodes", "node-name", out);
        add_values(w, "query-block-jobs", "device", out);
        add_values(w, "query-block-exports", "id", out);
    }
}
