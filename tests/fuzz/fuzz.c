/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fuzz.h"
#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include "loop/co.h"
#include "loop/loop.h"
#include "run.h"
#include "sim/sim.h"

/* The linker sends calls of these here (--wrap): no input reaches a network. */
int __wrap_socket(int domain, int type, int protocol);
int __wrap_getaddrinfo(const char *host, const char *port,
                       const struct addrinfo *hints, struct addrinfo **ret);
/* Of libcurl, whose own calls do not come here. */
void *__wrap_curl_multi_init(void);
/* Of storage/rbd/: no thread is started, no library loaded. */
int64_t __wrap_rbd_co_call(void *waits, int kind, uint64_t timeout_ns,
                           int64_t (*fn)(void *arg),
                           void (*free_arg)(void *arg), void *arg,
                           bool *ret_abandoned);

int __attribute__((weak)) __wrap_socket(int domain, int type, int protocol)
{
    errno = EACCES;
    return -1;
}

int __wrap_getaddrinfo(const char *host, const char *port,
                       const struct addrinfo *hints, struct addrinfo **ret)
{
    return EAI_FAIL;
}

void *__wrap_curl_multi_init(void)
{
    return NULL;
}

int64_t __wrap_rbd_co_call(void *waits, int kind, uint64_t timeout_ns,
                           int64_t (*fn)(void *arg),
                           void (*free_arg)(void *arg), void *arg,
                           bool *ret_abandoned)
{
    *ret_abandoned = false;
    return -EACCES;
}

const uint8_t *fuzz_take(struct fuzz_input *in, size_t max, size_t *ret_len)
{
    const uint8_t *data = in->data;

    *ret_len = MIN(max, in->len);
    in->data += *ret_len;
    in->len -= *ret_len;
    return data;
}

static uint64_t take_int(struct fuzz_input *in, size_t max)
{
    uint64_t value = 0;
    size_t len;
    const uint8_t *p = fuzz_take(in, max, &len);

    for (size_t i = len; i-- > 0;) {
        value = value << 8 | p[i];
    }
    return value;
}

uint8_t fuzz_u8(struct fuzz_input *in)
{
    return (uint8_t)take_int(in, 1);
}

uint16_t fuzz_u16(struct fuzz_input *in)
{
    return (uint16_t)take_int(in, 2);
}

uint32_t fuzz_u32(struct fuzz_input *in)
{
    return (uint32_t)take_int(in, 4);
}

uint64_t fuzz_u64(struct fuzz_input *in)
{
    return take_int(in, 8);
}

char *fuzz_str(struct fuzz_input *in, size_t max)
{
    size_t len;
    const uint8_t *p = fuzz_take(in, max, &len);

    return g_strndup((const char *)p, len);
}

void fuzz_run(void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = SIM_OPTIONS(1);

    run_with(&opts, fn, arg);
}

void fuzz_put_file(const char *path, const void *bytes, size_t len,
                   uint64_t size)
{
    struct sim *sim = loop_sim(loop_current());
    struct sim_image *img = sim_image_copy(sim_live(sim));
    uint64_t id = sim_image_last_id(img) + 1;

    sim_image_create(img, id);
    sim_image_write(img, id, 0, bytes, len);
    if (size > len) {
        sim_image_truncate(img, id, size);
    }
    sim_image_link(img, path, id);
    sim_restore(sim, img);
    sim_image_free(img);
}

void fuzz_patch_file(const char *path, uint64_t off, const void *bytes,
                     size_t len)
{
    struct sim_image *img = sim_live(loop_sim(loop_current()));

    sim_image_write(img, sim_image_find(img, path), off, bytes, len);
}
