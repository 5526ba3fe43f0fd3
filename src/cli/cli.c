/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every subcommand prints: errors, usage, help. */
#include "cli/cli.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/suggest.h"
#include "base/text.h"
#include "base/units.h"

static const char *program = "sluice";
static bool line_open;

void cli_set_program(const char *path)
{
    const char *slash = strrchr(path, '/');

    program = slash ? slash + 1 : path;
}

const char *cli_program(void)
{
    return program;
}

bool cli_is_qemu_img(void)
{
    return strcmp(program, "qemu-img") == 0;
}

void cli_begin_line(void)
{
    line_open = true;
}

void cli_end_line(void)
{
    if (line_open) {
        printf("\n");
        line_open = false;
    }
    /* Where both go into one file they are in order; qemu-img's are not. */
    if (!cli_is_qemu_img()) {
        (void)cli_flush();
    }
}

/* Of the first failure: later ones do not say why. */
static int flush_error;

int cli_flush(void)
{
    errno = 0;
    if (fflush(stdout) != 0 && flush_error == 0) {
        flush_error = errno;
    }
    if (flush_error == 0 && ferror(stdout)) {
        return -EIO;
    }
    return -flush_error;
}

char *cli_shell_word(const char *word)
{
    static const char plain[] = G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS
        "/._-+:@%,=";

    return *word && word[strspn(word, plain)] == '\0' ? g_strdup(word)
                                                      : g_shell_quote(word);
}

static void print_message(const char *kind, const char *text)
{
    g_autofree char *shown = text_printable(text, "\n\t");

    cli_end_line();
    fprintf(stderr, "%s: %s%s\n", program, kind, shown);
}

void cli_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    print_message("", text);
}

void cli_warning(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    print_message("warning: ", text);
}

void cli_hint(const char *fmt, ...)
{
    va_list ap;

    if (cli_is_qemu_img()) {
        return;
    }
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
}

void cli_gerror(const GError *err)
{
    g_autofree char *message = err_dup_message(err);
    g_autofree char *hint = text_printable(err_get_hint(err), "\n\t");

    cli_error("%s", message);
    if (hint) {
        cli_hint("%s\n", hint);
    }
}

void cli_prefix_once(GError **err, const char *what, const char *name)
{
    g_autofree char *said = g_strdup_printf("Could not open '%s': ", name);

    if (err && !cli_is_qemu_img() && g_str_has_prefix((*err)->message, said)) {
        char *rest = g_strdup((*err)->message + strlen(said));

        g_free((*err)->message);
        (*err)->message = rest;
    }
    err_prefix(err, "%s '%s'", what, name);
}

static const struct subcommand *current;

/* The long option of the command that runs that is nearest to @word; owned, or
 * NULL. Its help names all. */
static char *near_option(const char *word)
{
    g_auto(GStrv) words = NULL;
    g_autoptr(GPtrArray) options = g_ptr_array_new();
    g_autofree char *mine = g_strndup(word, strcspn(word, "="));

    if (!current || !g_str_has_prefix(word, "--")) {
        return NULL;
    }
    words = g_strsplit_set(current->help, " \n,", -1);
    for (char **w = words; *w; w++) {
        if (g_str_has_prefix(*w, "--")) {
            g_ptr_array_add(options, *w);
        }
    }
    g_ptr_array_add(options, NULL);
    return g_strdup(suggest_word(mine, (const char *const *)options->pdata));
}

/* Is @word such an option, and what is wrong is its argument? */
static void hint_option(const char *word)
{
    g_autofree char *near = near_option(word);

    if (near && strcmp(near, word) != 0) {
        cli_hint("Did you mean '%s'? ", near);
    }
}

static int usage_hint(const char *command)
{
    if (cli_is_qemu_img()) {
        command = NULL;
    }
    fprintf(stderr, "Try '%s %s%s--help' for more information\n", program,
            command ? command : "", command ? " " : "");
    return 1;
}

int cli_usage_error(const char *command, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    cli_error("%s", message);
    return usage_hint(command);
}

int cli_bad_option(const char *command, char **argv)
{
    /* The letter, where getopt stands inside a word of several. */
    if (optopt > ' ' && optopt < 0x7f) {
        return cli_usage_error(command,
                               "option '-%c' is unknown or lacks its "
                               "argument",
                               optopt);
    }
    cli_error("option '%s' is unknown or lacks its argument", argv[optind - 1]);
    hint_option(argv[optind - 1]);
    return usage_hint(command);
}

int cli_option_error(const char *command, int c, char **argv)
{
    cli_error(c == ':' ? "missing argument for option '%s'"
                       : "unrecognized option '%s'",
              argv[optind - 1]);
    if (c != ':') {
        hint_option(argv[optind - 1]);
    }
    return usage_hint(command);
}

int cli_run(const struct subcommand *s, int argc, char **argv)
{
    current = s;
    return s->run(argc, argv);
}

int cli_print_help(void)
{
    printf("usage: sluice %s %s\n\n%s", current->name, current->synopsis,
           current->help);
    return 0;
}

int cli_parse_output(const char *command, const char *text, bool *ret_json)
{
    if (strcmp(text, "json") == 0) {
        *ret_json = true;
    } else if (strcmp(text, "human") == 0) {
        *ret_json = false;
    } else {
        cli_error("--output must be used with human or json as argument.");
        return 1;
    }
    return 0;
}

int cli_parse_size(const char *what, const char *text, uint64_t min,
                   uint64_t max, uint64_t *ret)
{
    const char *p = text + strspn(text, " \t\n");
    int r = size_parse(*p == '+' ? p + 1 : p, 0, ret, NULL);

    if (r == -ERANGE || (r == 0 && (*ret < min || *ret > max))) {
        cli_error("Invalid %s specified. Must be between %" PRIu64
                  " and %" PRIu64 ".",
                  what, min, max);
        return 1;
    }
    if (r < 0) {
        cli_error("Invalid %s specified. You may use k, M, G, T, P or E "
                  "suffixes for",
                  what);
        cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and "
                  "exabytes.");
    }
    return r < 0 ? 1 : 0;
}

int cli_parse_number(const char *text, uint64_t *ret)
{
    guint64 n;

    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &n, NULL)) {
        return -EINVAL;
    }
    *ret = n;
    return 0;
}
