/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pieces that the subcommands of sluice share; private to cli/.
 *
 * A subcommand is one row of the table in main.c: a function that takes its
 * own argc and argv (argv[0] is its name) and returns the exit status.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv); /* NULL: a heading in the help */
    const char *synopsis; /* after "sluice NAME "; text of a heading */
    const char *help;     /* options, a line each; ends with \n */
};
/* Run it. Returns the exit status. */
int cli_run(const struct subcommand *s, int argc, char **argv);

/* The name that the program was called by, with which messages begin. "qemu-img"
 * (a link of that name) means: in the words of that program, so that what
 * compares texts finds none of ours. */
void cli_set_program(const char *path);
const char *cli_program(void);
bool cli_is_qemu_img(void);
/* For lines on stderr that say what to do: none where the program stands in for
 * qemu-img. @text ends with \n where the line does. */
void cli_hint(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* "sluice: warning: ...", like an error. */
void cli_warning(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* Something on stdout stands in a line that is rewritten in place: what comes
 * next begins a new one, by the second. Messages do so by themselves. */
void cli_begin_line(void);
/* What was printed goes out. 0; -errno, also when an earlier part failed. */
int cli_flush(void);
void cli_end_line(void);
/* A word as a shell takes it: in quotes only where it needs them. Owned. */
char *cli_shell_word(const char *word);
/* "NAME: ..." on stderr, then the hint of @err if it has one. */
void cli_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void cli_gerror(const GError *err);
/* Put "@what '@name': " before the message of *@err, in place of the "Could not
 * open '@name': " with which the driver of a file begins. */
void cli_prefix_once(GError **err, const char *what, const char *name);
/* A usage error: message and where help is. Returns 1. */
int cli_usage_error(const char *command, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
/* The same for what getopt_long() has just refused (with opterr 0). */
int cli_bad_option(const char *command, char **argv);
/* The same in the words of the image commands; @c is what getopt_long() gave,
 * its option string begins with ':'. */
int cli_option_error(const char *command, int c, char **argv);
/* Print the help of the subcommand that runs. Returns 0. */
int cli_print_help(void);

/* A number of bytes with suffixes, @min to @max; refused in the words that
 * scripts know ("Invalid WHAT specified. ..."). 0 or 1. */
int cli_parse_size(const char *what, const char *text, uint64_t min,
                   uint64_t max, uint64_t *ret);

/* A decimal number without suffix. 0 or -EINVAL. */
int cli_parse_number(const char *text, uint64_t *ret);

/* A line that is rewritten in place on a terminal and silent elsewhere unless
 * @force. */
struct progress;
struct progress *progress_new(const char *what, bool force);
/* Show @note ("paused") instead of the speed; NULL: the speed again. @note is
 * not copied. NULL as @p is fine. */
void progress_note(struct progress *p, const char *note);
/* What is left as the daemon tells it (JobEta); NULL: by the rate that is seen
 * here. Borrowed until the next update. */
void progress_eta(struct progress *p, const json_t *eta);
/* The same in words: "1:05 left (0:58 to 1:20)". Owned. */
char *progress_eta_text(const json_t *eta);
/* Both in bytes; rate-limited inside. NULL is fine. */
void progress_update(struct progress *p, uint64_t done, uint64_t total);
/* End the line. NULL is fine. */
void progress_free(struct progress *p);

/* -p: "    (12.34/100%)\r" in the form that scripts know; without -p only when
 * a SIGUSR1 asks. Begin prints 0, end the end of the line. */
struct percent {
    bool on;
    double shown;
};
void percent_begin(struct percent *p, bool on);
void percent_update(struct percent *p, uint64_t done, uint64_t total);
/* All is done: 100 is printed, once more if it was already. */
void percent_finish(struct percent *p);
void percent_end(struct percent *p);

/* --output=human|json. Returns 0 or a usage error. */
int cli_parse_output(const char *command, const char *text, bool *ret_json);
