/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/release-hook.h"
#include <glib.h>
#include <signal.h>
#include <stdio.h>

/* In the child: the daemon blocks the signals that it reads from descriptors. */
static void unblock_signals(gpointer unused)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void release_hook_run(const char *command, const json_t *data)
{
    static const char *const names[][2] = {
        { "device", "SLUICE_DEVICE" },
        { "node-name", "SLUICE_NODE" },
        { "base", "SLUICE_BASE" },
    };
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    char **env = g_get_environ();
    g_autoptr(GError) err = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *value = json_string_value(
            json_object_get(data, names[i][0]));

        env = g_environ_setenv(env, names[i][1], value ? value : "", TRUE);
    }
    if (!g_spawn_async("/", (char **)argv, env, G_SPAWN_STDOUT_TO_DEV_NULL,
                       unblock_signals, NULL, NULL, &err)) {
        fprintf(stderr, "sluiced: --release-hook: %s\n", err->message);
    }
    g_strfreev(env);
}
