/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice migrate: what was said; see migrate.h for what it does. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/job-options.h"
#include "cli/migrate/migrate.h"
#include "sluice/sluice.h"

/* For requests to wait for a link for ever: the longest that nodes take. */
#define LINK_FOR_EVER 86400
#define LINK_DELAY 10

enum {
    OPT_TO = OPT_OTHER,
    OPT_TARGET,
    OPT_ADDRESS,
    OPT_PRECOPY,
    OPT_STOP,
    OPT_START,
    OPT_LINK,
    OPT_CREDS,
    OPT_HOSTNAME,
};

/* wait, error or error:SECONDS. */
static int take_link_loss(struct migration *m, const char *text)
{
    if (strcmp(text, "wait") == 0) {
        m->link_error = false;
        m->link_delay = LINK_FOR_EVER;
        return 0;
    }
    m->link_error = true;
    m->link_delay = LINK_DELAY;
    if (strcmp(text, "error") == 0) {
        return 0;
    }
    if (!g_str_has_prefix(text, "error:") ||
        cli_parse_number(text + strlen("error:"), &m->link_delay) < 0 ||
        m->link_delay > LINK_FOR_EVER) {
        return cli_usage_error("migrate",
                               "--on-link-loss expects wait, error or "
                               "error:SECONDS, not '%s'",
                               text);
    }
    return 0;
}

static int take_option(struct migration *m, int c, char **argv)
{
    switch (c) {
    case 's': m->source_socket = optarg; break;
    case 'f': m->format = optarg; break;
    case OPT_TO: m->target_socket = optarg; break;
    case OPT_TARGET: m->path = optarg; break;
    case OPT_ADDRESS: m->address = optarg; break;
    case OPT_PRECOPY: m->precopy = true; break;
    case 'F': m->force = true; break;
    case OPT_STOP: m->stop_command = optarg; break;
    case OPT_START: m->start_command = optarg; break;
    case OPT_LINK: return take_link_loss(m, optarg);
    case OPT_CREDS: m->tls_creds = optarg; break;
    case OPT_HOSTNAME: m->tls_hostname = optarg; break;
    case OPT_SPEED: return job_option_speed("migrate", optarg, &m->speed);
    case OPT_LATENCY_TARGET:
    case OPT_FLOOR:
    case OPT_FINISH_BY: return limit_option("migrate", c, optarg, m->limits);
    default: return cli_bad_option("migrate", argv);
    }
    return 0;
}

static int check_words(struct migration *m)
{
    if (!m->target_socket) {
        return cli_usage_error("migrate", "--to says where the daemon of the "
                                          "destination is: its control "
                                          "socket");
    }
    if (!m->path) {
        return cli_usage_error("migrate", "--target says which file the disk "
                                          "becomes at the destination");
    }
    if (!g_path_is_absolute(m->path)) {
        return cli_usage_error("migrate", "--target '%s' is no absolute path",
                               m->path);
    }
    if (!m->precopy && strcmp(m->format, "raw") == 0) {
        return cli_usage_error("migrate", "a raw file cannot be filled behind "
                                          "the guest: use -f qcow2, or "
                                          "--precopy");
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int parse_args(int argc, char **argv, struct migration *m)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "to", required_argument, NULL, OPT_TO },
        { "target", required_argument, NULL, OPT_TARGET },
        { "format", required_argument, NULL, 'f' },
        { "address", required_argument, NULL, OPT_ADDRESS },
        { "precopy", no_argument, NULL, OPT_PRECOPY },
        { "force", no_argument, NULL, 'F' },
        { "stop-command", required_argument, NULL, OPT_STOP },
        { "start-command", required_argument, NULL, OPT_START },
        { "on-link-loss", required_argument, NULL, OPT_LINK },
        { "tls-creds", required_argument, NULL, OPT_CREDS },
        { "tls-hostname", required_argument, NULL, OPT_HOSTNAME },
        { "speed", required_argument, NULL, OPT_SPEED },
        LIMIT_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:f:", options, NULL)) != -1) {
        if (c == 'h') {
            cli_print_help();
            return -1;
        }
        r = take_option(m, c, argv);
    }
    if (r) {
        return r;
    }
    if (optind + 1 != argc) {
        return cli_usage_error("migrate", "expecting one device name");
    }
    m->device = argv[optind];
    return check_words(m);
}

/* The command as a shell takes it, for messages. */
static char *command_line(int argc, char **argv)
{
    GString *line = g_string_new("sluice");

    for (int i = 0; i < argc; i++) {
        g_autofree char *word = cli_shell_word(argv[i]);

        g_string_append_printf(line, " %s", word);
    }
    return g_string_free(line, FALSE);
}

static int run(struct migration *m)
{
    int status = 1;

    m->id = g_strconcat("migrate-", m->device, NULL);
    m->image_node = g_strconcat(m->device, m->precopy ? NULL : "-image", NULL);
    m->link_node = g_strconcat(m->device, m->precopy ? "-target" : "-base",
                               NULL);
    m->source = client_connect(m->source_socket);
    m->target = m->source ? client_connect(m->target_socket) : NULL;
    if (m->target) {
        status = m->precopy ? migrate_precopy(m) : migrate_postcopy(m);
        sluice_disconnect(m->target);
    }
    if (m->source) {
        sluice_disconnect(m->source);
    }
    g_free(m->id);
    g_free(m->image_node);
    g_free(m->link_node);
    return status;
}

int cmd_migrate(int argc, char **argv)
{
    struct migration m = {
        .format = "qcow2",
        .link_delay = LINK_FOR_EVER,
        .limits = json_object(),
        .again = command_line(argc, argv),
    };
    int status = parse_args(argc, argv, &m);

    if (status == 0) {
        status = run(&m);
    }
    json_decref(m.limits);
    g_free(m.again);
    return MAX(status, 0);
}
