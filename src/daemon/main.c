/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluiced: from the command line to a running daemon and back.
 *
 *   parse -> background -> loops -> options in order -> pid file -> serve
 *         -> end asked for -> exports, jobs, nodes closed -> loops end
 *
 * An error on the way there takes the same way back, with status 1.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/text.h"
#include "control/drivers.h"
#include "daemon/daemon.h"
#include "loop/thread.h"

static void main_report(const GError *err)
{
    g_autofree char *msg = err_dup_message(err);
    g_autofree char *shown = text_printable(msg, "\n\t");
    g_autofree char *hint = text_printable(err_get_hint(err), "\n\t");

    fprintf(stderr, "sluiced: %s\n", shown);
    if (hint) {
        fprintf(stderr, "%s\n", hint);
    }
}

static void main_print_notice(const char *text)
{
    g_autofree char *shown = text_printable(text, "\n\t");

    fprintf(stderr, "sluiced: note: %s\n", shown);
}

/* --- the main coroutine --- */

static void on_quit(void *arg)
{
    struct daemon *d = arg;

    d->quit = true;
    co_queue_wake_all(&d->wake);
}

static CO_FN int daemon_co_start(struct daemon *d, GError **err)
{
    int r = control_co_start(d->control, err);

    if (r == 0) {
        r = options_co_apply(d, err);
    }
    if (r == 0) {
        r = pidfile_co_write(d, err);
    }
    return r;
}

/* For those who connect to what --export serves. */
static CO_FN void daemon_co_print_uris(struct daemon *d)
{
    json_t *list = NULL, *entry;
    size_t i;

    control_co_execute(d->control, "query-nbd-exports", NULL, &list, NULL);
    json_array_foreach(list, i, entry) {
        printf("%s\n", json_string_value(json_object_get(entry, "uri")));
    }
    fflush(stdout);
    json_decref(list);
}

static CO_FN void daemon_entry(void *arg)
{
    struct daemon *d = arg;
    g_autoptr(GError) err = NULL;

    signals_start(d);
    if (daemon_co_start(d, &err) < 0) {
        main_report(err);
        d->status = EXIT_FAILURE;
    } else {
        control_co_ready(d->control);
        if (d->set.print_uris) {
            daemon_co_print_uris(d);
        }
        process_release_parent(d);
        while (!d->quit) {
            co_queue_co_wait(&d->wake);
        }
    }
    process_watch_shutdown();
    chardevs_stop(d);
    control_co_stop(d->control);
    pidfile_co_remove(d);
    signals_co_stop(d);
    loop_stop(d->loop);
}

static int daemon_run(struct daemon *d, GError **err)
{
    struct loop_options data_options = { .engine = d->set.engine,
                                         .polling = d->set.polling };
    struct loop_thread *data;
    struct loop_options options = { .engine = d->set.engine, .workers = 2 };
    struct control_params p = {
        .iothreads = true,
        .engine = d->set.engine,
        .policy = d->set.policy,
        .memory = d->set.memory,
        .chain_limit = d->set.chain_limit,
        .beneath = d->set.beneath,
        .state_dir = d->set.state_dir,
        .resume_jobs = d->set.resume_jobs,
        .release_hook = d->set.release_hook,
        .notice = main_print_notice,
        .quit = on_quit,
        .quit_arg = d,
        .chardevs = &chardevs_ops,
        .chardevs_arg = d,
    };
    int r = loop_new(&options, &d->loop, err);

    if (r < 0) {
        return r;
    }
    r = loop_thread_start(&data_options, &data, err);
    if (r < 0) {
        loop_free(d->loop);
        return r;
    }
    p.loop = d->loop;
    p.data = loop_thread_loop(data);
    d->control = control_new(&p);
    co_start(d->loop, daemon_entry, d);
    loop_run(d->loop);
    loop_thread_stop(data);
    control_free(d->control);
    loop_free(d->loop);
    return 0;
}

int main(int argc, char **argv)
{
    struct daemon d = { .verdict_fd = -1,
                        .signal_fd = -1,
                        .set.resume_jobs = true };
    g_autoptr(GError) err = NULL;
    int r;

    d.uses = g_array_new(FALSE, FALSE, sizeof(struct option_use));
    d.chardevs = g_hash_table_new(g_str_hash, g_str_equal);
    drivers_register_traces();
    r = options_parse(&d, argc, argv, &err);
    if (r == 0 && (d.set.help || d.set.version || d.set.trace_help ||
                   d.set.object_help)) {
        if (d.set.object_help) {
            /* That is all. */
        } else if (d.set.help) {
            options_print_help();
        } else if (d.set.trace_help) {
            options_print_trace_events();
        } else {
            printf("sluiced version " SLUICE_VERSION "\n");
        }
        if (fflush(stdout) != 0) {
            err_set_errno(&err, errno, "Could not write to standard output");
            main_report(err);
            d.status = EXIT_FAILURE;
        }
        goto out;
    }
    if (r == 0) {
        r = process_prepare(&d, &err);
    }
    if (r == 0 && d.set.daemonize) {
        r = process_daemonize(&d, &err);
    }
    if (r == 0) {
        r = daemon_run(&d, &err);
    }
    if (r < 0) {
        main_report(err);
        d.status = EXIT_FAILURE;
    }
out:
    chardevs_free(&d);
    g_array_free(d.uses, TRUE);
    if (d.signal_fd >= 0) {
        close(d.signal_fd);
    }
    return d.status;
}
