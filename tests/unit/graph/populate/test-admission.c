/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much background copying guests bear: the rule alone, against disks that
 * are made up. */
#include "graph/admission.h"
#include <glib.h>

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)

/* A disk: what a guest's read takes while so much is being written. */
struct disk {
    struct admission_limit l;
    uint64_t now, ops, time_ns;
    uint64_t alone_ns, free_bytes, ns_per_mib;
};

static void disk_run(struct disk *d, uint64_t ns)
{
    for (uint64_t end = d->now + ns; d->now < end; d->now += MS) {
        uint64_t over = d->l.bytes > d->free_bytes ? d->l.bytes - d->free_bytes
                                                   : 0;

        d->ops += 4;
        d->time_ns += 4 * (d->alone_ns + over * d->ns_per_mib / (1 << 20));
        admission_limit_step(&d->l, d->ops, d->time_ns, d->now);
    }
}

/* A slow disk with a deep queue: guests do not feel it, so it is filled. */
static void test_grows(void)
{
    struct disk d = { .now = SEC,
                      .alone_ns = 5 * MS,
                      .free_bytes = ADMISSION_MAX };

    disk_run(&d, 100 * MS);
    g_assert_cmpuint(d.l.bytes, <, 4 * ADMISSION_FLOOR);
    disk_run(&d, 3 * SEC);
    g_assert_cmpuint(d.l.bytes, ==, ADMISSION_MAX);
}

/* One whose readers wait for what is being written: the floor, nearly all the
 * time. */
static void test_stays(void)
{
    struct disk d = {
        .now = SEC,
        .alone_ns = MS / 10,
        .free_bytes = ADMISSION_FLOOR,
        .ns_per_mib = MS,
    };
    unsigned low = 0;

    for (unsigned i = 0; i < 1000; i++) {
        disk_run(&d, 10 * MS);
        low += d.l.bytes == ADMISSION_FLOOR;
    }
    g_test_message("at the floor for %u of 1000", low);
    g_assert_cmpuint(low, >, 950);
}

/* It became slower for guests: back to the floor within a few steps. */
static void test_falls(void)
{
    struct disk d = { .now = SEC, .alone_ns = MS, .free_bytes = ADMISSION_MAX };

    disk_run(&d, 3 * SEC);
    g_assert_cmpuint(d.l.bytes, ==, ADMISSION_MAX);
    d.free_bytes = ADMISSION_FLOOR;
    d.ns_per_mib = MS;
    disk_run(&d, 50 * MS);
    g_assert_cmpuint(d.l.bytes, ==, ADMISSION_FLOOR);
}

/* Guests that were away find the floor, whatever they left. */
static void test_new_visit(void)
{
    struct disk d = { .now = SEC, .alone_ns = MS, .free_bytes = ADMISSION_MAX };

    disk_run(&d, 3 * SEC);
    d.now += 2 * SEC;
    disk_run(&d, MS);
    g_assert_cmpuint(d.l.bytes, ==, ADMISSION_FLOOR);
    g_assert_cmpfloat(d.l.base, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/admission/grows", test_grows);
    g_test_add_func("/graph/admission/stays", test_stays);
    g_test_add_func("/graph/admission/falls", test_falls);
    g_test_add_func("/graph/admission/new-visit", test_new_visit);
    return g_test_run();
}
