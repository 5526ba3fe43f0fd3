/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the nodes of web servers have in common: "http", "https" and "s3".
 *
 * They are for reading.  Large reads are cut into pieces that run in parallel.
 * HTTP does not tell what of a file is a hole: all of it is data.
 */
#pragma once
#include "base/annot.h"
#include "graph/driver.h"
#include "storage/http/http-client.h"
#include "storage/http/http-options.h"
#include "storage/http/http-url.h"

struct http_ahead;

struct http_state {
    struct http_url url;
    struct http_names names;
    struct http_identity identity;
    struct http_client_options client_opts;
    uint64_t readahead;
    struct http_client *client;
    struct http_ahead *ahead;
};

/* The options are taken; NULL-terminated names of them stand with the
 * drivers. n->filename is set. */
CO_FN int http_node_co_open(struct node *n, unsigned flags, GError **err);
CO_FN void http_node_co_close(struct node *n);
/* -EACCES for a writer. */
int http_node_refuse_writing(unsigned flags, GError **err);
/* Take over what may be changed from @is, the new options. */
void http_node_adopt(struct node *n, const struct http_state *is);
/* Free what the options of @s hold. */
void http_state_clear(struct http_state *s);

CO_FN int http_node_co_preadv(struct node *n, uint64_t off, struct iov iov,
                              unsigned flags);
char *http_node_version(struct node *n);
CO_FN int http_node_co_check_identity(struct node *n, GError **err);
void http_node_interrupt(struct node *n);
void http_node_end_requests(struct node *n, int error);
void http_node_yank(struct node *n);
void http_node_set_hang(struct node *n, uint64_t timeout_ns, bool fail);

/* Of a struct node_driver. */
#define HTTP_NODE_OPERATIONS \
    .kind = NODE_PROTOCOL, .is_remote = true, \
    .co_check_identity = http_node_co_check_identity, \
    .version = http_node_version, .co_preadv = http_node_co_preadv, \
    .interrupt = http_node_interrupt, .end_requests = http_node_end_requests, \
    .yank = http_node_yank, .set_hang = http_node_set_hang
