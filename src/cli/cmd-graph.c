/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice graph: draw the block graph of a running daemon. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/graph-draw.h"

typedef void draw_fn(const struct drawing *d, GString *out);

static const struct {
    const char *name;
    draw_fn *draw;
} pictures[] = {
    { "text", drawing_text },
    { "dot", drawing_dot },
    { "svg", drawing_svg },
};

static int take_picture(const char *name, draw_fn **ret)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(pictures); i++) {
        if (strcmp(name, pictures[i].name) == 0) {
            *ret = pictures[i].draw;
            return 0;
        }
    }
    return cli_usage_error("graph",
                           "--output must be text, dot or svg, not "
                           "'%s'",
                           name);
}

static int graph_run(struct sluice_conn *conn, draw_fn *draw)
{
    json_t *graph = client_execute(conn, "x-debug-query-block-graph", NULL);
    json_t *nodes = client_execute(conn, "query-named-block-nodes",
                                   json_pack("{s:b}", "flat", 1));
    int status = graph && nodes ? 0 : 1;

    if (status == 0) {
        g_autoptr(GString) out = g_string_new(NULL);
        struct drawing *d = drawing_new(graph, nodes);

        draw(d, out);
        fputs(out->str, stdout);
        drawing_free(d);
    }
    json_decref(graph);
    json_decref(nodes);
    return status;
}

int cmd_graph(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "output", required_argument, NULL, 'o' },
        { NULL, 0, NULL, 0 }
    };
    draw_fn *draw = drawing_text;
    const char *socket = NULL;
    struct sluice_conn *conn;
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:", options, NULL)) != -1) {
        switch (c) {
        case 'h': return cli_print_help();
        case 's': socket = optarg; break;
        case 'o': r = take_picture(optarg, &draw); break;
        default: r = cli_bad_option("graph", argv); break;
        }
    }
    if (r == 0 && optind != argc) {
        r = cli_usage_error("graph", "expecting no argument");
    }
    if (r != 0) {
        return r;
    }
    conn = client_connect(socket);
    if (!conn) {
        return 1;
    }
    r = graph_run(conn, draw);
    sluice_disconnect(conn);
    return r;
}
