/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice migrate: a disk moves from the daemon of one host to that of another.
 *
 *   post-copy:  the guest stops -> its disk is served read-only at the source ->
 *               an overlay of it is served at the destination, where the guest
 *               starts -> the overlay is filled -> the source is let go
 *   pre-copy:   the disk is mirrored to the destination while the guest runs ->
 *               the guest stops -> the copy is served, the guest starts there
 *
 * Every step first asks both daemons whether it has been taken, so the same
 * command takes up a migration that was cut off, by whatever.  What tells that
 * an image at the destination is the one of this migration is the name of its
 * base: the export that only this migration makes.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct sluice_conn;

struct migration {
    /* As it was said. */
    const char *source_socket, *target_socket;
    const char *device, *path; /* the disk; its file at the destination */
    const char *format;        /* of that file */
    const char *address; /* of the NBD server that is copied from or to, as
                                * the other host reaches it; NULL: as it tells */
    const char *tls_creds, *tls_hostname;
    const char *stop_command, *start_command;
    uint64_t speed;
    uint64_t link_delay; /* seconds that requests wait for a lost link */
    bool link_error;     /* then they fail; else they wait for ever */
    bool precopy, force;
    bool shown;     /* by this command, the source's disk to the destination */
    json_t *limits; /* object */

    struct sluice_conn *source, *target;
    /* Names that are made from @device; owned. */
    char *id;         /* export and job: "migrate-DEVICE" */
    char *image_node; /* at the destination: "DEVICE-image", or "DEVICE" */
    char *link_node;  /* of the other host's disk: "DEVICE-base" or -target */
    char *again;      /* the command as it was given */
};

/* Each returns the exit status. */
int migrate_postcopy(struct migration *m);
int migrate_precopy(struct migration *m);
