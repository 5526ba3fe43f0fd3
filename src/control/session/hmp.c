/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The human monitor: a line is matched against hmp_commands[] (from schema/),
 * its words become the arguments of a QMP command, and the answer is printed
 * by the function that the table names.  Nothing here knows the graph.
 */
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "base/units.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "control/qemu-io/qemuio.h"

/* The command that begins with the words of @words: "info" takes two.
 * *@ret_used is how many words its name has. */
static const struct hmp_command *find_command(char **words, unsigned n,
                                              unsigned *ret_used)
{
    g_autofree char *two = n > 1 ? g_strjoin(" ", words[0], words[1], NULL)
                                 : NULL;

    for (const struct hmp_command *cmd = hmp_commands; cmd->name; cmd++) {
        bool has_two = strchr(cmd->name, ' ') != NULL;

        if (g_strcmp0(cmd->name, has_two ? two : words[0]) == 0) {
            *ret_used = has_two ? 2 : 1;
            return cmd;
        }
    }
    return NULL;
}

static void hmp_print_usage(const struct hmp_command *cmd, GString *out)
{
    g_string_append_printf(out, "%s%s%s -- %s\n", cmd->name,
                           *cmd->params ? " " : "", cmd->params, cmd->help);
}

static void print_help(const char *name, GString *out)
{
    for (const struct hmp_command *cmd = hmp_commands; cmd->name; cmd++) {
        if (!name || g_str_equal(cmd->name, name) ||
            (g_str_equal(name, "info") &&
             g_str_has_prefix(cmd->name, "info "))) {
            hmp_print_usage(cmd, out);
        }
    }
}

static const struct hmp_arg *find_flag(const struct hmp_arg *args, char flag)
{
    for (const struct hmp_arg *a = args; a->name; a++) {
        if (a->flag == flag) {
            return a;
        }
    }
    return NULL;
}

static json_t *hmp_value(const struct hmp_arg *a)
{
    if (!a->value || g_str_equal(a->value, "true")) {
        return json_true();
    }
    return g_str_equal(a->value, "false") ? json_false()
                                          : json_string(a->value);
}

/* What no word of the line says. */
static void take_presets(const struct hmp_command *cmd, json_t *args)
{
    for (const struct hmp_arg *a = cmd->args; a->name; a++) {
        if (!a->flag && a->value) {
            json_object_set_new(args, a->name, hmp_value(a));
        }
    }
}

/* Leading "-x" words become members: true, or what the table says. Returns how
 * many. */
static int take_flags(const struct hmp_command *cmd, char **words, json_t *args,
                      GError **err)
{
    int n = 0;

    for (; words[n] && words[n][0] == '-' && words[n][1]; n++) {
        for (const char *f = words[n] + 1; *f; f++) {
            const struct hmp_arg *a = find_flag(cmd->args, *f);

            if (!a) {
                return err_set(err, EINVAL, "%s: unsupported option -%c",
                               cmd->name, *f);
            }
            json_object_set_new(args, a->name, hmp_value(a));
        }
    }
    return n;
}

static int take_word(const struct hmp_command *cmd, const struct hmp_arg *a,
                     const char *word, json_t *args, GError **err)
{
    uint64_t size;

    if (a->unit != 'M') {
        json_object_set_new(args, a->name, json_string(word));
        return 0;
    }
    if (size_parse(word, 'M', &size, NULL) < 0 || size > INT64_MAX) {
        return err_set(err, EINVAL, "%s: %s: '%s' is not a size", cmd->name,
                       a->name, word);
    }
    json_object_set_new(args, a->name, json_integer((json_int_t)size));
    return 0;
}

static int hmp_parse_args(const struct hmp_command *cmd, char **words,
                          json_t *args, GError **err)
{
    int n;

    take_presets(cmd, args);
    n = take_flags(cmd, words, args, err);
    if (n < 0) {
        return n;
    }
    words += n;
    for (const struct hmp_arg *a = cmd->args; a->name; a++) {
        int r;

        if (a->flag || a->value) {
            continue;
        }
        if (!*words) {
            if (!a->optional) {
                return err_set(err, EINVAL, "%s: %s is missing", cmd->name,
                               a->name);
            }
            break;
        }
        r = take_word(cmd, a, *words++, args, err);
        if (r < 0) {
            return r;
        }
    }
    if (*words) {
        return err_set(err, EINVAL,
                       "%s: extraneous characters at the end of "
                       "line",
                       cmd->name);
    }
    return 0;
}

struct qemuio_call {
    struct control *c;
    const char *name, *line;
    GString *out;
    GError **err;
    int result;
};

static CO_FN void qemuio_entry(void *arg)
{
    struct qemuio_call *call = arg;

    call->result = call->c->qemuio
                       ? qemuio_co_execute(call->c->qemuio, call->name,
                                           call->line, call->out, call->err)
                       : err_set(call->err, ESHUTDOWN,
                                 "The daemon is about to end");
}

CO_FN int hmp_co_qemu_io(struct control *c, const json_t *args, GString *out,
                         GError **err)
{
    const char *name = arg_str(args, "device");
    struct control *there = control_hold_owner(c, name);
    struct qemuio_call call = {
        .c = there,
        .name = name,
        .line = arg_str(args, "command"),
        .out = out,
        .err = err,
    };

    control_co_on_data(there, qemuio_entry, &call);
    control_let_go(there);
    return call.result;
}

static CO_FN int hmp_co_run(struct control *c, const struct hmp_command *cmd,
                            json_t *args, GString *out, GError **err)
{
    json_t *ret = NULL;
    const char *only = NULL;
    int r;

    if (cmd->co_run) {
        return cmd->co_run(c, args, out, err);
    }
    if (cmd->print) {
        /* What an info command takes chooses what is shown. */
        only = cmd->args->name ? arg_str(args, cmd->args->name) : NULL;
        r = control_co_execute(c, cmd->command, NULL, &ret, err);
    } else {
        r = control_co_execute(c, cmd->command, args, &ret, err);
    }
    if (r == 0 && cmd->print) {
        cmd->print(ret, only, out);
    }
    json_decref(ret);
    return r;
}

static void print_error(const GError *err, GString *out)
{
    g_autofree char *msg = err_dup_message(err);
    const char *hint = err_get_hint(err);

    g_string_append_printf(out, "Error: %s\n", msg);
    if (hint) {
        g_string_append_printf(out, "%s\n", hint);
    }
}

static CO_FN void hmp_co_words(struct control *c, char **words, unsigned n,
                               GString *out)
{
    g_autoptr(GError) err = NULL;
    const struct hmp_command *cmd;
    unsigned used = 0;
    json_t *args;

    if (g_str_equal(words[0], "help") || g_str_equal(words[0], "?")) {
        g_autofree char *name = g_strjoinv(" ", words + 1);

        print_help(*name ? name : NULL, out);
        return;
    }
    cmd = find_command(words, n, &used);
    if (!cmd) {
        if (g_str_equal(words[0], "info") && n == 1) {
            print_help("info", out);
        } else {
            g_string_append_printf(out, "unknown command: '%s'\n", words[0]);
        }
        return;
    }
    args = json_object();
    if (hmp_parse_args(cmd, words + used, args, &err) < 0 ||
        hmp_co_run(c, cmd, args, out, &err) < 0) {
        print_error(err, out);
    }
    json_decref(args);
}

void hmp_co_execute(struct control *c, const char *line, GString *out)
{
    g_autoptr(GError) err = NULL;
    g_auto(GStrv) words = NULL;
    g_autofree char *shown = NULL;
    int n = 0;

    if (!g_shell_parse_argv(line, &n, &words, &err)) {
        if (!g_error_matches(err, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING)) {
            g_string_append_printf(out, "Error: %s\n", err->message);
        }
        return;
    }
    hmp_co_words(c, words, (unsigned)n, out);
    /* Names come from images and servers, and this goes to a terminal. */
    shown = text_printable(out->str, "\n\t\r");
    g_string_assign(out, shown);
}
