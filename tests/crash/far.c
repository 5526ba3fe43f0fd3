/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage "far": a file on another machine, which can be away.
 *
 * While it is away, requests fail at once, or wait until it is back, and fail
 * then or go on: what a client of a network does by its policy.  It is back
 * after some time.
 */
#include "crash.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

#define US UINT64_C(1000)
#define MS (1000 * US)

static struct {
    uint64_t reads_left; /* until it goes away, if it does */
    bool goes;
    uint64_t for_ns;   /* how long then */
    uint64_t until_ns; /* when it is back; 0: it is not away */
    enum { FAIL, WAIT_AND_FAIL, WAIT } how;
    uint64_t failed;
    uint64_t seed;
} far;

void far_reset(uint64_t seed)
{
    memset(&far, 0, sizeof(far));
    far.seed = seed;
}

static unsigned draw(unsigned n)
{
    far.seed = hash_words(far.seed, &far.failed, sizeof(far.failed)) + 1;
    return (unsigned)(far.seed >> 33) % n;
}

uint64_t far_failed(void)
{
    return far.failed;
}

static void leave(void)
{
    far.goes = false;
    far.until_ns = loop_clock_ns(loop_current()) + far.for_ns;
}

void far_leave(bool later)
{
    static const uint64_t times[] = { 200 * US, 3 * MS, 40 * MS, 2000 * MS };

    far.for_ns = times[draw(G_N_ELEMENTS(times))];
    far.how = draw(3);
    far.reads_left = draw(8);
    far.goes = later;
    if (!later) {
        leave();
    }
}

static CO_FN int far_co_reach(void)
{
    uint64_t now = loop_clock_ns(loop_current());

    if (far.goes && far.reads_left-- == 0) {
        leave();
    }
    if (now >= far.until_ns) {
        return 0;
    }
    cover(COVER_FAR);
    if (far.how == FAIL) {
        far.failed++;
        return -EIO;
    }
    co_sleep(far.until_ns - now);
    if (far.how == WAIT) {
        return 0;
    }
    far.failed++;
    return -ETIMEDOUT;
}

/* --- the driver --- */

struct far_state {
    struct io_file *file;
};

static CO_FN int far_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct far_state *s = n->state;
    g_autofree char *name = NULL;
    int ret = opts_take_str(o, "filename", &name, err);

    if (ret > 0) {
        ret = io_co_open(name + strlen(FAR_PREFIX), O_RDONLY, 0, &s->file);
    }
    if (ret == 0) {
        ret = io_co_size(s->file, &n->size);
    }
    if (ret < 0 && !*err) {
        err_set(err, -ret, "Could not open '%s'", name);
    }
    return ret;
}

static CO_FN void far_co_close(struct node *n)
{
    struct far_state *s = n->state;

    io_co_close(s->file);
}

static CO_FN int far_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    struct far_state *s = n->state;
    int ret = far_co_reach();

    return ret < 0 ? ret : io_co_preadv(s->file, off, iov);
}

static CO_FN int far_co_map(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map)
{
    struct far_state *s = n->state;
    int ret = far_co_reach();
    uint64_t end = 0;
    bool data = true;

    if (ret == 0) {
        ret = io_co_extent(s->file, off, &data, &end);
    }
    if (ret == 0) {
        ret_map->kind = data ? MAP_DATA : MAP_ZERO;
        ret_map->len = MIN(len, end - off);
    }
    return ret;
}

static const char *const far_options[] = { "filename", NULL };
static const char *const far_prefixes[] = { FAR_PREFIX, NULL };

const struct node_driver far_driver = {
    .name = "far",
    .kind = NODE_PROTOCOL,
    .is_remote = true,
    .state_size = sizeof(struct far_state),
    .option_names = far_options,
    .name_prefixes = far_prefixes,
    .reference_options = far_options,
    .co_open = far_co_open,
    .co_close = far_co_close,
    .co_preadv = far_co_preadv,
    .co_map = far_co_map,
};
