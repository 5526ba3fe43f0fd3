/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One attempt to read one range of a file from an HTTP server.
 *
 * Bytes are taken only from a response that says 206, exactly the range that
 * was asked for, and the version that was pinned.  The pin stands in the
 * request, too (If-Match, or If-Unmodified-Since), and servers that know
 * nothing of that are found out by what they answer.  If-Range would be no
 * help: it makes a server send the whole file when that has changed, and some
 * ignore it.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"
#include "storage/http/http-multi.h"
#include "wire/http-head.h"

struct http_url;

/* What names the version of the file; all empty before the first answer. */
struct http_pin {
    uint64_t size;
    char etag[HTTP_TAG_MAX];
    char modified[HTTP_DATE_MAX];
    bool is_set;
};

/* Who we are to the server; borrowed. */
struct http_identity {
    const char *username;
    GBytes *password, *cookie, *bearer;
    const char *proxy_username;
    GBytes *proxy_password;
    const char *ca_file, *crl_file;   /* PEM; NULL: the system's */
    const char *cert_file, *key_file; /* PEM; NULL: none */
    bool sslverify;
};

enum http_outcome {
    HTTP_DONE,
    HTTP_LOST,     /* no connection, or it broke, or the server said to try
                    * again: worth another attempt */
    HTTP_STALLED,  /* connected, and too few bytes came */
    HTTP_REDIRECT, /* head.location says where */
    HTTP_GONE,     /* this address serves the file no more, or not to us */
    HTTP_CHANGED,  /* another version of the file */
    HTTP_REFUSED,  /* another attempt would end the same way */
    HTTP_ENDED,    /* by http_transfer_end() */
};

struct http_fetch {
    /* in */
    struct http_multi *multi;
    const struct http_url *url;
    const struct http_identity *identity;
    bool is_known; /* the server may learn who we are */
    const struct http_pin *pin;
    uint64_t off;   /* of the file */
    struct iov dst; /* dst.len > 0 */
    uint64_t stall_ns;
    bool background;
    bool no_local; /* refuse addresses of this machine or link */
    /* Sets what else the request needs (a signature); NULL: nothing. Adds lines
     * to those of the head and returns them; NULL: failed. */
    struct curl_slist *(*prepare)(CURL *easy, struct curl_slist *lines,
                                  const void *arg);
    const void *prepare_arg;
    /* While it runs. */
    struct http_transfer transfer;
    /* out */
    struct http_head head;
    uint64_t got; /* bytes that came, from the beginning, and are good */
    enum http_outcome outcome;
    int error;     /* -errno unless DONE or REDIRECT */
    bool is_local; /* the server is this machine, or on its link */
    char why[CURL_ERROR_SIZE + 128]; /* for people; no secrets */

    /* private */
    char curl_error[CURL_ERROR_SIZE];
    bool judged, is_proper, stalled, is_connected;
    uint64_t discarded, seen;
};

/* @f has its "in" part set, the rest zero. Before the first answer (no pin)
 * the range may end past the file: f->got then says how much there was. */
CO_FN enum http_outcome http_fetch_co_run(struct http_fetch *f);
