/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-server.h"

void die_with_parent(gpointer arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

bool server_answers(const char *path)
{
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(sun.sun_path, path, sizeof(sun.sun_path));
    bool ok = connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0;
    close(fd);
    return ok;
}

void server_start(struct server *s, const char *name, const char *fmt, ...)
{
    GError *err = NULL;
    g_auto(GStrv) argv = NULL;
    va_list ap;

    s->socket = g_strdup(scratch(name));
    unlink(s->socket);
    va_start(ap, fmt);
    g_autofree char *rest = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_autofree char *command = g_str_has_prefix(rest, "qemu-nbd")
                                   ? g_strdup_printf("qemu-nbd -k %s %s",
                                                     s->socket,
                                                     rest + strlen("qemu-nbd "))
                                   : g_strdup_printf("nbdkit -f -U %s %s",
                                                     s->socket, rest);
    g_test_message("%s", command);
    g_assert_true(g_shell_parse_argv(command, NULL, &argv, &err));
    g_spawn_async(NULL, argv, NULL,
                  G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                  die_with_parent, NULL, &s->pid, &err);
    g_assert_no_error(err);
    for (unsigned i = 0; !server_answers(s->socket); i++) {
        g_assert_cmpuint(i, <, 30000);
        g_usleep(10000);
    }
}

void server_kill(struct server *s)
{
    if (s->pid) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
    unlink(s->socket);
    g_free(s->socket);
    s->socket = NULL;
}

bool have_nbdkit(void)
{
    if (!test_have("nbdkit")) {
        g_test_skip("no nbdkit");
        return false;
    }
    return true;
}

void end_co(struct graph *g, struct backend *u, struct node *n)
{
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}
