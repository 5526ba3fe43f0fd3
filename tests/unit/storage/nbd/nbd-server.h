/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Servers of other programs, for tests of the NBD client. */
#pragma once
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph/driver.h"
#include "util.h"

#define KIB 1024u
#define MIB (1024u * 1024)
#define GIB UINT64_C(1073741824)

struct server {
    GPid pid;
    char *socket;
};

/* Start nbdkit or qemu-nbd with these arguments; back when it answers. */
void server_start(struct server *s, const char *name, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
/* ... and end it, without a word to its clients. */
void server_kill(struct server *s);
/* Does somebody listen there? */
bool server_answers(const char *path);
/* For GSpawnChildSetupFunc: the program does not outlive the test. */
void die_with_parent(gpointer arg);
bool have_nbdkit(void);

#define NBD_UNIX \
    "\"driver\": \"nbd\", \"server\": {\"type\": \"unix\", " \
    "\"path\": \"%s\"}"

/* Leave @n and its graph. */
CO_FN void end_co(struct graph *g, struct backend *u, struct node *n);
