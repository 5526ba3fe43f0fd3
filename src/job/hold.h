/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job holds of the graph while it runs: blocked nodes, that no other
 * operation begins on them, and block backends on them, that say what the job
 * does there and what others may do beside it.
 *
 * Under stream, commit and mirror.  Which nodes, and with which permissions,
 * is for each of them to say.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"
#include "graph/node.h"

struct job_hold {
    char *by;     /* "stream job 'j'", for error texts; NULL: not in use */
    char *reason; /* "block device is in use by block job: stream" */
    GPtrArray *blockers, *blocked, *backends;
    GArray *loose; /* struct loose_edge */
};

/* @type: "stream". @by is copied. */
void job_hold_init(struct job_hold *h, const char *type, const char *by);
/* Block every operation on @n, which is referenced until the end; images may
 * be opened on it. No yield. */
void job_hold_block(struct job_hold *h, struct node *n);
/* No image is opened on @n until the end: it would read what the job writes.
 * @n is blocked already. No yield. */
void job_hold_forbid_overlays(struct job_hold *h, struct node *n);
/* As job_hold_block(), but for @op. */
void job_hold_block_but(struct job_hold *h, struct node *n, enum block_op op);
/* A backend on @n with these permissions, freed by job_hold_co_leave(). @ops:
 * job_hold_ops_*; *@ret_u (or NULL) is borrowed. */
CO_FN int job_hold_co_use(struct job_hold *h, struct node *n, unsigned perm,
                          unsigned shared, const struct backend_ops *ops,
                          struct backend **ret_u, GError **err);
/* Until the job leaves, the images of the chain from @top down to above @base
 * neither need what they read to stay as it is, nor mind that it is written to:
 * whoever holds it sees to it that they read as before. */
CO_FN int job_hold_co_loosen(struct job_hold *h, struct node *top,
                             struct node *base, GError **err);
/* Roles, as error texts name them; the argument is a struct job_hold. */
extern const struct backend_ops job_hold_ops_active, job_hold_ops_middle,
    job_hold_ops_base, job_hold_ops_target;

/* Wait for the requests of the backends and free them; links are as they were
 * before. The nodes stay blocked. */
CO_FN void job_hold_co_leave(struct job_hold *h);
/* The rest, after job_hold_co_leave(). Fine on one that holds nothing. */
CO_FN void job_hold_co_release(struct job_hold *h);
