/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of storage share: a graph, nodes from JSON, patterns. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/err.h"
#include "graph/io.h"
#include "graph/node.h"
#include "run.h"
#include "scratch.h"

/* A graph on the current loop with the leaf drivers and raw. */
struct graph *test_graph(void);
/* Open @json (printf), which must work; writable when @flags say NODE_RDWR. */
CO_FN struct node *test_co_open(struct graph *g, unsigned flags,
                                const char *json, ...) PRINTF_LIKE(3, 4);
/* As above, but it must fail; the error is the caller's. */
CO_FN GError *test_co_open_fails(struct graph *g, unsigned flags,
                                 const char *json, ...) PRINTF_LIKE(3, 4);
/* A backend that reads, and writes and resizes when the node is writable. */
CO_FN struct backend *test_co_backend(struct node *n);

/* Byte @off of pattern @seed; a range of it. */
uint8_t test_byte(unsigned seed, uint64_t off);
void test_fill(uint8_t *buf, unsigned seed, uint64_t off, size_t len);
CO_FN int test_co_write(struct backend *u, unsigned seed, uint64_t off,
                        size_t len);
/* [@off, @off+@len) reads as pattern @seed / as zeroes. */
CO_FN void test_co_expect(struct backend *u, unsigned seed, uint64_t off,
                          size_t len);
CO_FN void test_co_expect_zero(struct backend *u, uint64_t off, size_t len);

/* A new file of @size bytes, all holes. */
void test_make_file(const char *path, uint64_t size);
/* Write pattern @seed into a file by plain means. */
void test_pattern_file(const char *path, unsigned seed, uint64_t off,
                       size_t len);
/* Run a shell command; its output (both) is the caller's. */
char *test_shell(int *ret_status, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool test_have(const char *program);
