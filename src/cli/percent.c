/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Progress as scripts parse it: "    (12.34/100%)" and a carriage return, a
 * new one when at least a hundredth more is done.  Without -p one such line is
 * printed for each SIGUSR1.
 */
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"

static volatile sig_atomic_t asked;

static void on_usr1(int sig)
{
    asked = 1;
}

static void percent_print(double value)
{
    printf("    (%3.2f/100%%)\r", value);
    fflush(stdout);
    cli_begin_line();
}

void percent_begin(struct percent *p, bool on)
{
    struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };

    *p = (struct percent) { .on = on };
    if (on) {
        percent_print(0);
    } else {
        sigaction(SIGUSR1, &sa, NULL);
    }
}

void percent_update(struct percent *p, uint64_t done, uint64_t total)
{
    double value = total ? (double)done * 100.0 / (double)total : 100.0;

    if (p->on &&
        (value >= p->shown + 1.0 || (done >= total && p->shown < 100.0))) {
        p->shown = value;
        percent_print(value);
    } else if (!p->on && asked) {
        asked = 0;
        percent_print(value);
    }
}

void percent_finish(struct percent *p)
{
    if (p->on) {
        percent_print(100);
    }
}

void percent_end(struct percent *p)
{
    if (p->on) {
        cli_end_line();
        p->on = false;
    }
}
