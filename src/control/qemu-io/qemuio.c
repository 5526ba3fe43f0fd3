/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qemu-io language: the table of commands, their words, and those commands
 * that are not requests.
 */
#include "control/qemu-io/qemuio.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/units.h"
#include "control/qemu-io/qemuio-int.h"
#include "graph/debug.h"
#include "graph/io.h"

/* How long wait_break waits: a session that hangs helps nobody. */
#define WAIT_BREAK_MS 30000

/* Options in front of the words, as getopt(3) takes them. */
static bool qemuio_take_options(const struct qemuio_command *cmd, char **words,
                                unsigned n, struct qemuio_args *a, GString *out)
{
    unsigned i = 0;

    for (; i < n && words[i][0] == '-' && words[i][1]; i++) {
        if (!strcmp(words[i], "--")) {
            i++;
            break;
        }
        for (const char *f = words[i] + 1; *f; f++) {
            const char *known = *f == ':' ? NULL : strchr(cmd->options, *f);

            if (!known || (unsigned char)*f >= G_N_ELEMENTS(a->option)) {
                g_string_append_printf(out, "%s: invalid option -- '%c'\n",
                                       cmd->name, *f);
                return false;
            }
            a->option[(unsigned char)*f] = "";
            if (known[1] != ':') {
                continue;
            }
            if (!f[1] && i + 1 == n) {
                g_string_append_printf(out,
                                       "%s: option requires an argument "
                                       "-- '%c'\n",
                                       cmd->name, *f);
                return false;
            }
            a->option[(unsigned char)*f] = f[1] ? f + 1 : words[++i];
            break;
        }
    }
    a->word = words + i;
    a->n = n - i;
    return true;
}

/* --- commands --- */

static CO_FN void qemuio_flush_co_run(struct qemuio_run *run,
                                      const struct qemuio_command *cmd,
                                      const struct qemuio_args *a)
{
    int r = backend_co_flush(run->backend);

    if (r < 0) {
        g_string_append_printf(run->out, "flush failed: %s\n", g_strerror(-r));
    }
}

static CO_FN void truncate_co_run(struct qemuio_run *run,
                                  const struct qemuio_command *cmd,
                                  const struct qemuio_args *a)
{
    g_autoptr(GError) err = NULL;
    uint64_t size;
    int r;

    if (a->n != 1 || !qemuio_parse_size(a->word[0], &size, run->out)) {
        return;
    }
    r = node_co_resize(run->node, "qemu-io", size, &err);
    if (r < 0) {
        g_autofree char *text = err ? err_dup_message(err)
                                    : g_strdup(g_strerror(-r));

        g_string_append_printf(run->out, "%s\n", text);
    }
}

static CO_FN void length_co_run(struct qemuio_run *run,
                                const struct qemuio_command *cmd,
                                const struct qemuio_args *a)
{
    qemuio_print_size(run->out, (double)node_size(run->node));
    g_string_append_c(run->out, '\n');
}

static CO_FN void qemuio_info_co_run(struct qemuio_run *run,
                                     const struct qemuio_command *cmd,
                                     const struct qemuio_args *a)
{
    g_string_append_printf(run->out, "format name: %s\ncluster size: ",
                           node_driver_name(run->node));
    qemuio_print_size(run->out,
                      (double)node_get_limits(run->node)->cluster_size);
    g_string_append(run->out, "\nvm state offset: 0 bytes\n");
}

static CO_FN void alloc_co_run(struct qemuio_run *run,
                               const struct qemuio_command *cmd,
                               const struct qemuio_args *a)
{
    uint64_t off, len = 512, size = node_size(run->node), sum = 0;

    if (!qemuio_parse_size(a->word[0], &off, run->out) ||
        (a->n > 1 && !qemuio_parse_size(a->word[1], &len, run->out))) {
        return;
    }
    len = off < size ? MIN(len, size - off) : 0;
    for (uint64_t at = off; at < off + len;) {
        struct extent ext;
        int r = node_co_status(run->node, at, off + len - at, &ext);

        if (r < 0) {
            g_string_append_printf(run->out, "is_allocated failed: %s\n",
                                   g_strerror(-r));
            return;
        }
        sum += ext.flags & STATUS_ALLOCATED ? ext.len : 0;
        at += ext.len;
    }
    g_string_append_printf(run->out,
                           "%" PRIu64 "/%" PRIu64 " bytes allocated "
                           "at offset ",
                           sum, len);
    qemuio_print_size(run->out, (double)off);
    g_string_append_c(run->out, '\n');
}

static void print_map_line(GString *out, uint64_t off, uint64_t len, bool has)
{
    qemuio_print_size(out, (double)len);
    g_string_append_printf(out, " (0x%" PRIx64 ") bytes %s at offset ", len,
                           has ? "    allocated" : "not allocated");
    qemuio_print_size(out, (double)off);
    g_string_append_printf(out, " (0x%" PRIx64 ")\n", off);
}

static CO_FN void qemuio_map_co_run(struct qemuio_run *run,
                                    const struct qemuio_command *cmd,
                                    const struct qemuio_args *a)
{
    uint64_t size = node_size(run->node), start = 0, at = 0;
    bool has = false;

    while (at < size) {
        struct extent ext;
        bool now;
        int r = node_co_status(run->node, at, size - at, &ext);

        if (r < 0) {
            g_string_append_printf(run->out,
                                   "Failed to get allocation status: "
                                   "%s\n",
                                   g_strerror(-r));
            return;
        }
        now = ext.flags & STATUS_ALLOCATED;
        if (at > start && now != has) {
            print_map_line(run->out, start, at - start, has);
            start = at;
        }
        has = now;
        at += ext.len;
    }
    if (at > start) {
        print_map_line(run->out, start, at - start, has);
    }
}

static CO_FN void sleep_co_run(struct qemuio_run *run,
                               const struct qemuio_command *cmd,
                               const struct qemuio_args *a)
{
    char *end;
    guint64 ms = g_ascii_strtoull(a->word[0], &end, 0);

    if (end == a->word[0] || *end || ms > WAIT_BREAK_MS) {
        g_string_append_printf(run->out, "%s is not a valid number\n",
                               a->word[0]);
        return;
    }
    co_sleep(ms * 1000000);
}

static CO_FN void break_co_run(struct qemuio_run *run,
                               const struct qemuio_command *cmd,
                               const struct qemuio_args *a)
{
    int r = node_debug_break(run->node, a->word[0], a->word[1]);

    if (r < 0) {
        g_string_append_printf(run->out, "Could not set breakpoint: %s\n",
                               g_strerror(-r));
    }
}

static CO_FN void resume_co_run(struct qemuio_run *run,
                                const struct qemuio_command *cmd,
                                const struct qemuio_args *a)
{
    int r = node_debug_resume(run->node, a->word[0]);

    if (r < 0) {
        g_string_append_printf(run->out, "Could not resume request: %s\n",
                               g_strerror(-r));
    }
}

static CO_FN void remove_break_co_run(struct qemuio_run *run,
                                      const struct qemuio_command *cmd,
                                      const struct qemuio_args *a)
{
    int r = node_debug_remove_break(run->node, a->word[0]);

    if (r < 0) {
        g_string_append_printf(run->out, "Could not remove breakpoint %s: %s\n",
                               a->word[0], g_strerror(-r));
    }
}

static CO_FN void wait_break_co_run(struct qemuio_run *run,
                                    const struct qemuio_command *cmd,
                                    const struct qemuio_args *a)
{
    for (unsigned ms = 0; ms < WAIT_BREAK_MS && !run->q->stopping; ms++) {
        if (node_debug_is_suspended(run->node, a->word[0])) {
            return;
        }
        co_sleep(1000000);
    }
    g_string_append_printf(run->out, "No request was suspended as '%s'\n",
                           a->word[0]);
}

static CO_FN void help_co_run(struct qemuio_run *run,
                              const struct qemuio_command *cmd,
                              const struct qemuio_args *a);

static const struct qemuio_command qemuio_commands[] = {
    { "aio_flush", NULL, 0, 0, "", "", "wait for all aio requests",
      qemuio_co_aio_flush, 0 },
    { "aio_read", NULL, 2, -1, "CiqvP:", "off len [len..]",
      "read, without waiting for it", qemuio_co_rw,
      QEMUIO_AIO | QEMUIO_VECTOR },
    { "aio_write", NULL, 2, -1, "CfiquzP:", "off len [len..]",
      "write, without waiting for it", qemuio_co_rw,
      QEMUIO_AIO | QEMUIO_VECTOR | QEMUIO_WRITE },
    { "alloc", "a", 1, 2, "", "off [len]",
      "tell what is allocated in the "
      "image",
      alloc_co_run, 0 },
    { "break", NULL, 2, 2, "", "event tag",
      "hold a request at an event and "
      "call it by the tag",
      break_co_run, 0 },
    { "discard", "d", 2, -1, "Cq", "off len", "discard a range", qemuio_co_rw,
      QEMUIO_WRITE | QEMUIO_DISCARD },
    { "flush", "f", 0, 0, "", "", "make all that was written durable",
      qemuio_flush_co_run, 0 },
    { "help", "?", 0, 1, "", "[command]", "show the commands, or one",
      help_co_run, 0 },
    { "info", "i", 0, 0, "", "", "show the format and its cluster size",
      qemuio_info_co_run, 0 },
    { "length", "l", 0, 0, "", "", "show the size of the disk", length_co_run,
      0 },
    { "map", NULL, 0, 0, "", "", "show the allocated parts of the image",
      qemuio_map_co_run, 0 },
    { "read", "r", 2, -1, "abCqvpP:s:l:", "off len",
      "read a range; -P: compare "
      "with a byte, -s -l: only there, -v: show",
      qemuio_co_rw, 0 },
    { "readv", NULL, 2, -1, "CqvP:", "off len [len..]",
      "read into several "
      "buffers",
      qemuio_co_rw, QEMUIO_VECTOR },
    { "remove_break", NULL, 1, 1, "", "tag",
      "remove a breakpoint, let its "
      "requests go on",
      remove_break_co_run, 0 },
    { "resume", NULL, 1, 1, "", "tag", "let a held request go on",
      resume_co_run, 0 },
    { "sleep", NULL, 1, 1, "", "ms", "wait", sleep_co_run, 0 },
    { "truncate", "t", 1, 1, "", "size", "change the size of the disk",
      truncate_co_run, 0 },
    { "wait_break", NULL, 1, 1, "", "tag", "wait until a request is held",
      wait_break_co_run, 0 },
    { "write", "w", 2, -1, "bcCfnpquzP:", "off len",
      "write a range; -P: a "
      "byte, -z: zeroes, -u: may free, -f: durable",
      qemuio_co_rw, QEMUIO_WRITE },
    { "writev", NULL, 2, -1, "CfqP:", "off len [len..]",
      "write from several "
      "buffers",
      qemuio_co_rw, QEMUIO_WRITE | QEMUIO_VECTOR },
};

static const struct qemuio_command *command_find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(qemuio_commands); i++) {
        if (!strcmp(qemuio_commands[i].name, name) ||
            !g_strcmp0(qemuio_commands[i].alias, name)) {
            return &qemuio_commands[i];
        }
    }
    return NULL;
}

static CO_FN void help_co_run(struct qemuio_run *run,
                              const struct qemuio_command *cmd,
                              const struct qemuio_args *a)
{
    const struct qemuio_command *one = a->n ? command_find(a->word[0]) : NULL;

    if (a->n && !one) {
        g_string_append_printf(run->out, "command %s not found\n", a->word[0]);
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(qemuio_commands); i++) {
        if (!one || one == &qemuio_commands[i]) {
            qemuio_print_usage(&qemuio_commands[i], run->out);
        }
    }
}

/* --- running a line --- */

static bool check_count(const struct qemuio_command *cmd, int n, GString *out)
{
    if (n >= cmd->min && (cmd->max < 0 || n <= cmd->max)) {
        return true;
    }
    g_string_append_printf(out, "bad argument count %d to %s, expected ", n,
                           cmd->name);
    if (cmd->max < 0) {
        g_string_append_printf(out, "at least %d arguments\n", cmd->min);
    } else if (cmd->max == cmd->min) {
        g_string_append_printf(out, "%d arguments\n", cmd->min);
    } else {
        g_string_append_printf(out, "between %d and %d arguments\n", cmd->min,
                               cmd->max);
    }
    return false;
}

static CO_FN void line_co_run(struct qemuio_run *run, const char *line)
{
    g_auto(GStrv) words = g_strsplit_set(line, " \t\r\n", -1);
    const struct qemuio_command *cmd;
    struct qemuio_args a = { 0 };
    unsigned n = 0;

    for (unsigned i = 0; words[i]; i++) {
        if (*words[i]) {
            char *word = words[i];

            words[i] = words[n];
            words[n++] = word;
        }
    }
    if (n == 0) {
        return;
    }
    cmd = command_find(words[0]);
    if (!cmd) {
        g_string_append_printf(run->out, "command \"%s\" not found\n",
                               words[0]);
        return;
    }
    if (!check_count(cmd, (int)n - 1, run->out)) {
        return;
    }
    if (!qemuio_take_options(cmd, words + 1, n - 1, &a, run->out)) {
        qemuio_print_usage(cmd, run->out);
        return;
    }
    cmd->co_run(run, cmd, &a);
}

/* A backend on the device or node, for reading: who writes asks for more. */
static CO_FN int backend_co_make(struct qemuio_run *run, const char *name,
                                 GError **err)
{
    run->node = node_find_any(run->q->graph, name, err);
    return run->node
               ? backend_co_new(run->node, "qemu-io", PERM_CONSISTENT_READ,
                                PERM_ALL, NULL, NULL, &run->backend, err)
               : -ENOENT;
}

static struct qemuio_target *target_get(struct qemuio *q, const char *name)
{
    struct qemuio_target *t = g_hash_table_lookup(q->targets, name);

    if (!t) {
        t = g_new0(struct qemuio_target, 1);
        t->name = g_strdup(name);
        t->done = g_string_new(NULL);
        g_hash_table_insert(q->targets, t->name, t);
    }
    return t;
}

static void target_free(void *p)
{
    struct qemuio_target *t = p;

    g_string_free(t->done, TRUE);
    g_free(t->name);
    g_free(t);
}

int qemuio_co_execute(struct qemuio *q, const char *name, const char *line,
                      GString *out, GError **err)
{
    struct qemuio_run run = { .q = q, .out = out };
    int r;

    if (q->stopping) {
        return err_set(err, ESHUTDOWN, "The daemon is about to end");
    }
    co_latch_add(&q->busy);
    r = backend_co_make(&run, name, err);
    if (r == 0) {
        run.target = target_get(q, name);
        node_ref(run.node);
        /* What ended since the last command comes first. */
        g_string_append_len(out, run.target->done->str,
                            (gssize)run.target->done->len);
        g_string_truncate(run.target->done, 0);
        line_co_run(&run, line);
        if (!run.keep_backend) {
            qemuio_co_backend_done(q, name, run.backend);
        }
        node_co_unref(run.node);
    }
    co_latch_done(&q->busy);
    return r;
}

struct qemuio *qemuio_new(struct graph *g)
{
    struct qemuio *q = g_new0(struct qemuio, 1);

    q->graph = g;
    q->targets = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                       target_free);
    return q;
}

void qemuio_co_free(struct qemuio *q)
{
    if (!q) {
        return;
    }
    q->stopping = true;
    graph_debug_release(q->graph);
    co_latch_co_wait(&q->busy);
    g_hash_table_destroy(q->targets);
    g_free(q);
}
