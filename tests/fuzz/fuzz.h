/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzz targets share.
 *
 * A target is a function of its input alone: it runs on the simulated machine
 * (files in memory, a virtual clock) and every attempt to make a socket or to
 * look up a name fails.  The same program is a libFuzzer target (built with
 * -Dfuzz=true) and a test that replays the saved inputs (replay.c).
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/annot.h"

struct loop;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Input that is taken from the front; gives zeroes when it has ended. */
struct fuzz_input {
    const uint8_t *data;
    size_t len;
};
uint8_t fuzz_u8(struct fuzz_input *in);
uint16_t fuzz_u16(struct fuzz_input *in);
uint32_t fuzz_u32(struct fuzz_input *in);
uint64_t fuzz_u64(struct fuzz_input *in);
/* At most @max bytes, as many as there are in *@ret_len. Borrowed. */
const uint8_t *fuzz_take(struct fuzz_input *in, size_t max, size_t *ret_len);
/* The same as a string without NUL inside; owned by the caller. */
char *fuzz_str(struct fuzz_input *in, size_t max);

/* Run @fn(@arg) as a coroutine on a new simulated machine, until it returns and
 * nothing is left; fails when a coroutine stays. */
void fuzz_run(void (*fn)(void *arg), void *arg);

/* Put file @path into the machine of the running loop: @bytes, then a hole up to
 * @size. No file may be open. */
void fuzz_put_file(const char *path, const void *bytes, size_t len,
                   uint64_t size);
/* Write into such a file. */
void fuzz_patch_file(const char *path, uint64_t off, const void *bytes,
                     size_t len);
