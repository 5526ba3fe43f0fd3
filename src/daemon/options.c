/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line of sluiced, as a table.
 *
 * An option either sets something of the process (first pass) or becomes a
 * control command (second pass, in order): --blockdev is blockdev-add with its
 * strings converted by the schema, and so on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/keyval.h"
#include "base/memory-budget.h"
#include "base/suggest.h"
#include "base/trace.h"
#include "base/units.h"
#include "control/commands/objects.h"
#include "control/schema/schema.h"
#include "daemon/daemon.h"

struct option {
    const char *name;
    char letter;        /* -h; 0: none */
    const char *params; /* NULL: takes no argument */
    const char *help;
    /* First pass, or NULL. */
    int (*set)(struct settings *s, const char *arg, GError **err);
    /* Second pass, or NULL. */
    CO_FN_PTR int (*co_apply)(struct daemon *d, const char *arg, GError **err);
};

/* --- first pass --- */

static int set_help(struct settings *s, const char *arg, GError **err)
{
    s->help = true;
    return 0;
}

static int set_version(struct settings *s, const char *arg, GError **err)
{
    s->version = true;
    return 0;
}

static int set_daemonize(struct settings *s, const char *arg, GError **err)
{
    s->daemonize = true;
    return 0;
}

static int set_print_uris(struct settings *s, const char *arg, GError **err)
{
    s->print_uris = true;
    return 0;
}

static int set_pidfile(struct settings *s, const char *arg, GError **err)
{
    s->pidfile = arg;
    return 0;
}

static int set_state_dir(struct settings *s, const char *arg, GError **err)
{
    s->state_dir = arg;
    return 0;
}

static int set_release_hook(struct settings *s, const char *arg, GError **err)
{
    s->release_hook = arg;
    return 0;
}

static int set_resume_jobs(struct settings *s, const char *arg, GError **err)
{
    s->resume_jobs = g_str_equal(arg, "on");
    if (!s->resume_jobs && !g_str_equal(arg, "off")) {
        return err_set(err, EINVAL, "expects 'on' or 'off'");
    }
    return 0;
}

static int set_engine(struct settings *s, const char *arg, GError **err)
{
    return io_engine_parse(arg, &s->engine, err);
}

static int set_policy(struct settings *s, const char *arg, GError **err)
{
    if (g_str_has_prefix(arg, "beneath=") && arg[strlen("beneath=")]) {
        s->policy = BACKING_BENEATH;
        s->beneath = arg + strlen("beneath=");
    } else if (g_str_equal(arg, "follow")) {
        s->policy = BACKING_FOLLOW;
    } else if (g_str_equal(arg, "explicit")) {
        s->policy = BACKING_EXPLICIT;
    } else if (g_str_equal(arg, "deny")) {
        s->policy = BACKING_DENY;
    } else {
        return err_set(err, EINVAL,
                       "expects follow, explicit, deny or beneath=DIR");
    }
    return 0;
}

static int set_memory(struct settings *s, const char *arg, GError **err)
{
    int r = size_parse(arg, 'B', &s->memory, err);

    if (r == 0 && s->memory < MEMORY_MIN) {
        r = err_set(err, EINVAL, "expects at least 16M");
    }
    return r;
}

/* As QEMU words it. */
static int parse_poll(const char *name, const char *arg, uint64_t *ret,
                      GError **err)
{
    guint64 n;

    if (!g_ascii_string_to_unsigned(arg, 10, 0, INT64_MAX, &n, NULL)) {
        return err_set(err, EINVAL,
                       "%s value must be in range [0, %" PRId64 "]", name,
                       INT64_MAX);
    }
    *ret = n;
    return 0;
}

static int set_poll_max(struct settings *s, const char *arg, GError **err)
{
    return parse_poll("poll-max-ns", arg, &s->polling.max_ns, err);
}

static int set_poll_grow(struct settings *s, const char *arg, GError **err)
{
    return parse_poll("poll-grow", arg, &s->polling.grow, err);
}

static int set_poll_shrink(struct settings *s, const char *arg, GError **err)
{
    return parse_poll("poll-shrink", arg, &s->polling.shrink, err);
}

static int set_chain_limit(struct settings *s, const char *arg, GError **err)
{
    guint64 n;

    if (!g_ascii_string_to_unsigned(arg, 10, 1, 1000000, &n, NULL)) {
        return err_set(err, EINVAL, "expects a number from 1 to 1000000");
    }
    s->chain_limit = (unsigned)n;
    return 0;
}

static int set_trace(struct settings *s, const char *arg, GError **err)
{
    if (g_str_equal(arg, "help")) {
        s->trace_help = true;
    } else if (trace_enable(arg) == 0) {
        fprintf(stderr, "sluiced: warning: no trace event matches '%s'\n", arg);
    }
    return 0;
}

/* Only whether help is asked for. */
static int set_object(struct settings *s, const char *arg, GError **err)
{
    s->object_help = s->object_help || object_print_help(arg);
    return 0;
}

/* --- second pass --- */

/* Run @command with what @arg says, read as schema type @type. */
static CO_FN int apply_co_command(struct daemon *d, const char *command,
                                  const char *type, const char *implied,
                                  const char *arg, GError **err)
{
    json_t *strings, *args, *ret = NULL;
    int r = keyval_parse(arg, implied, &strings, err);

    if (r < 0) {
        return r;
    }
    args = schema_convert(schema_find_type(type), strings);
    json_decref(strings);
    r = control_co_execute(d->control, command, args, &ret, err);
    json_decref(args);
    json_decref(ret);
    return r;
}

static CO_FN int apply_co_blockdev(struct daemon *d, const char *arg,
                                   GError **err)
{
    return apply_co_command(d, "blockdev-add", "BlockdevOptions", "driver", arg,
                            err);
}

static CO_FN int apply_co_object(struct daemon *d, const char *arg,
                                 GError **err)
{
    int r = apply_co_command(d, "object-add", "ObjectOptions", "qom-type", arg,
                             err);

    object_hide_text(arg, err);
    return r;
}

static CO_FN int apply_co_export(struct daemon *d, const char *arg,
                                 GError **err)
{
    return apply_co_command(d, "block-export-add", "BlockExportOptions", "type",
                            arg, err);
}

/* The option has the address flat, the command wrapped in "data". */
static json_t *wrap_address(json_t *daemon_options)
{
    json_t *addr = json_object_get(daemon_options, "addr");
    json_t *flat, *type;

    if (!json_is_object(addr)) {
        return daemon_options;
    }
    flat = json_copy(addr);
    type = json_incref(json_object_get(flat, "type"));
    json_object_del(flat, "type");
    addr = json_pack("{s:o}", "data", flat);
    if (type) {
        json_object_set_new(addr, "type", type);
    }
    json_object_set_new(daemon_options, "addr", addr);
    return daemon_options;
}

static CO_FN int apply_co_nbd_server(struct daemon *d, const char *arg,
                                     GError **err)
{
    const struct schema_command *cmd = schema_find_command("nbd-server-start");
    json_t *strings, *args, *ret = NULL;
    int r = keyval_parse(arg, NULL, &strings, err);

    if (r < 0) {
        return r;
    }
    args = schema_convert(cmd->args, wrap_address(strings));
    json_decref(strings);
    r = control_co_execute(d->control, cmd->name, args, &ret, err);
    json_decref(args);
    json_decref(ret);
    return r;
}

static CO_FN int apply_co_drive(struct daemon *d, const char *arg, GError **err)
{
    json_t *daemon_options;
    int r = keyval_parse_alias(arg, "file", "file", "filename", &daemon_options,
                               err);

    if (r < 0) {
        return r;
    }
    r = control_co_add_drive(d->control, daemon_options, err);
    json_decref(daemon_options);
    return r;
}

static CO_FN int apply_co_chardev(struct daemon *d, const char *arg,
                                  GError **err)
{
    return chardev_add(d, arg, err);
}

static const struct option daemon_options[] = {
    { "help", 'h', NULL, "show this text", set_help, NULL },
    { "version", 'V', NULL, "show the version", set_version, NULL },
    { "blockdev", 0, "[driver=]DRIVER,node-name=NAME[,...]",
      "open a node (also as JSON)", NULL, apply_co_blockdev },
    { "drive", 0, "id=ID,file=FILE,format=FORMAT[,...]",
      "make a device: cache=, copy-on-read=on, stream=on, readonly=on ...",
      NULL, apply_co_drive },
    { "object", 0, "[qom-type=]TYPE,id=ID[,...]",
      "make an object; 'help' lists the types, TYPE,help their options",
      set_object, apply_co_object },
    { "chardev", 0, "socket|stdio,id=ID[,...]",
      "a way to reach a monitor: path= or host=,port=; server=on,wait=off;\n"
      "        who may: mode=,owner=,group=",
      NULL, apply_co_chardev },
    { "monitor", 0, "[chardev=]ID[,mode=control|readline][,pretty=on]",
      "serve QMP, or commands for people, there", NULL, monitor_co_add },
    { "nbd-server", 0, "addr.type=unix,addr.path=PATH[,max-connections=N]",
      "listen for NBD clients; who may: addr.mode=,addr.owner=,addr.group=;\n"
      "        with TLS: tls-creds=ID[,tls-authz=ID]",
      NULL, apply_co_nbd_server },
    { "export", 0, "[type=]nbd,id=ID,node-name=NODE[,...]",
      "export a node or device", NULL, apply_co_export },
    { "daemonize", 0, NULL, "go to the background when all is ready",
      set_daemonize, NULL },
    { "print-uris", 0, NULL,
      "print the address of each export when all is ready", set_print_uris,
      NULL },
    { "pidfile", 0, "FILE", "write the process id there, locked", set_pidfile,
      NULL },
    { "io-engine", 0, "auto|io_uring|threads", "how files are accessed",
      set_engine, NULL },
    { "backing-policy", 0, "follow|explicit|deny|beneath=DIR",
      "which backing files an image's header may name", set_policy, NULL },
    { "chain-limit", 0, "IMAGES",
      "how many images a chain that is opened may have (4096)", set_chain_limit,
      NULL },
    { "memory", 0, "SIZE",
      "what copies and caches of all devices may take together (256M)",
      set_memory, NULL },
    { "poll-max-ns", 0, "NS",
      "look for requests for so long before going to sleep; 0: never (0)",
      set_poll_max, NULL },
    { "poll-grow", 0, "FACTOR", "by which that time, which adapts, grows; 0: 2",
      set_poll_grow, NULL },
    { "poll-shrink", 0, "DIVISOR", "by which it shrinks; 0: to nothing",
      set_poll_shrink, NULL },
    { "state-dir", 0, "DIR", "keep a journal of running jobs there",
      set_state_dir, NULL },
    { "resume-jobs", 0, "on|off", "start the journal's jobs again (on)",
      set_resume_jobs, NULL },
    { "release-hook", 0, "COMMAND",
      "run by the shell when a disk has let go of a base on another machine",
      set_release_hook, NULL },
    { "trace", 'T', "PATTERN",
      "print the trace events that match; 'help' lists them", set_trace, NULL },
};

void options_print_help(void)
{
    printf("usage: sluiced [OPTION]...\n"
           "Serve disk images, and stream them while they are served.\n\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(daemon_options); i++) {
        const struct option *o = &daemon_options[i];

        printf("  ");
        if (o->letter) {
            printf("-%c, ", o->letter);
        }
        printf("--%s%s%s\n        %s\n", o->name, o->params ? " " : "",
               o->params ? o->params : "", o->help);
    }
    printf("\nOptions that open or serve something are applied in the order "
           "given.\n");
}

static void options_print_event(const struct trace_event *ev, void *arg)
{
    printf("%s\n", ev->name);
}

void options_print_trace_events(void)
{
    trace_list(options_print_event, NULL);
}

/* --- parsing --- */

/* The option that @word names, "--name", "-name", "--name=value" or "-x".
 * *@ret_value: the text after "=", or NULL. */
static const struct option *options_find_option(const char *word,
                                                const char **ret_value)
{
    const char *name = word + (word[1] == '-' ? 2 : 1);
    const char *eq = strchr(name, '=');
    size_t len = eq ? (size_t)(eq - name) : strlen(name);

    *ret_value = eq ? eq + 1 : NULL;
    for (unsigned i = 0; i < G_N_ELEMENTS(daemon_options); i++) {
        const struct option *o = &daemon_options[i];

        if ((len == 1 && name == word + 1 && *name == o->letter) ||
            (len == strlen(o->name) && !strncmp(name, o->name, len))) {
            return o;
        }
    }
    return NULL;
}

static int unknown_option(const char *word, GError **err)
{
    const char *names[G_N_ELEMENTS(daemon_options) + 1] = { NULL };
    const char *name = word + strspn(word, "-"), *near;
    g_autofree char *plain = g_strndup(name, strcspn(name, "="));

    for (unsigned i = 0; i < G_N_ELEMENTS(daemon_options); i++) {
        names[i] = daemon_options[i].name;
    }
    near = suggest_word(plain, names);
    err_set(err, EINVAL, "Unknown option '%s'", word);
    if (near) {
        err_hint(err, "Did you mean '--%s'?", near);
    } else {
        err_hint(err, "'sluiced --help' lists all.");
    }
    return -EINVAL;
}

static int add_use(struct daemon *d, const struct option *o, const char *arg,
                   GError **err)
{
    struct option_use use = { o, arg };
    int r = 0;

    if (arg && !g_utf8_validate(arg, -1, NULL)) {
        return err_set(err, EINVAL, "--%s: the argument is not UTF-8", o->name);
    }
    if (o->set) {
        r = o->set(&d->set, arg, err);
        if (r < 0) {
            err_prefix(err, "--%s %s", o->name, arg ? arg : "");
        }
    }
    g_array_append_val(d->uses, use);
    return r;
}

int options_parse(struct daemon *d, int argc, char **argv, GError **err)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = NULL;
        const struct option *o;
        int r;

        if (word[0] != '-' || !word[1]) {
            return err_set(err, EINVAL, "Unexpected argument: %s", word);
        }
        o = options_find_option(word, &value);
        if (!o) {
            return unknown_option(word, err);
        }
        if (!o->params && value) {
            return err_set(err, EINVAL, "--%s takes no argument", o->name);
        }
        if (o->params && !value) {
            if (i + 1 == argc) {
                return err_set(err, EINVAL, "--%s needs an argument", o->name);
            }
            value = argv[++i];
        }
        r = add_use(d, o, value, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int options_co_apply(struct daemon *d, GError **err)
{
    for (unsigned i = 0; i < d->uses->len && !d->quit; i++) {
        const struct option_use *use = &g_array_index(d->uses,
                                                      struct option_use, i);
        int r;

        if (!use->option->co_apply) {
            continue;
        }
        r = use->option->co_apply(d, use->arg, err);
        if (r < 0) {
            g_autofree char *shown = object_show_text(use->arg);

            err_prefix(err, "--%s %s", use->option->name,
                       use->option->co_apply == apply_co_object ? shown
                                                                : use->arg);
            return r;
        }
    }
    return 0;
}
