/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/migrate/hook.h"

#include <glib.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/migrate/migrate.h"

static bool run_shell(const struct migration *m, const char *option,
                      const char *command, const char *uri)
{
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), "SLUICE_DEVICE",
                                         m->device, TRUE);
    g_autoptr(GError) err = NULL;
    int status = 0;

    if (uri) {
        env = g_environ_setenv(env, "SLUICE_URI", uri, TRUE);
    }
    fflush(stdout);
    if (g_spawn_sync(NULL, (char **)argv, env, G_SPAWN_CHILD_INHERITS_STDIN,
                     NULL, NULL, NULL, NULL, &status, &err) &&
        g_spawn_check_wait_status(status, &err)) {
        return true;
    }
    cli_error("%s: %s", option, err->message);
    return false;
}

bool hook_run_stop(struct migration *m)
{
    const char *command = m->stop_command;

    m->stop_command = NULL;
    return !command || run_shell(m, "--stop-command", command, NULL);
}

bool hook_run_start(struct migration *m, const char *uri)
{
    printf("%s\n", uri);
    fflush(stdout);
    return !m->start_command ||
           run_shell(m, "--start-command", m->start_command, uri);
}
