/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcurl composes requests, with passwords, tokens and cookies in them, in
 * memory that it frees as it is.  So all that it frees is wiped, but for large
 * blocks, which hold what was received.
 */
#include "storage/http/http-memory.h"

#include <curl/curl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any head of a request; less than the buffer of a transfer. */
#define WIPE_MAX ((size_t)128 * 1024)

static void memory_free(void *p)
{
    size_t size = malloc_usable_size(p);

    if (p && size <= WIPE_MAX) {
        explicit_bzero(p, size);
    }
    free(p);
}

/* Not as realloc(3) does it, which leaves a copy where the block was. */
static void *memory_realloc(void *p, size_t size)
{
    size_t old = malloc_usable_size(p);
    void *ret;

    if (!p || old > WIPE_MAX) {
        return realloc(p, size);
    }
    if (size <= old && size > old / 2) {
        return p;
    }
    ret = malloc(size);
    if (ret) {
        memcpy(ret, p, old < size ? old : size);
        memory_free(p);
    }
    return ret;
}

void http_memory_init(void)
{
    curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, memory_free,
                         memory_realloc, strdup, calloc);
}
