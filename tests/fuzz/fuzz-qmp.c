/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A control connection: stream parser, JSON, argument checks, dispatch, commands.
 * Input: flags (1), then the bytes that the client sends after negotiation.
 */
#include <string.h>
#include "control-rig.h"
#include "control/control.h"
#include "fuzz.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"

enum { FLAG_HMP = 1, FLAG_NARROW = 2, FLAG_RAW = 4 };
#define SECOND UINT64_C(1000000000)

struct client {
    unsigned flags;
    struct fuzz_input in;
    struct channel *ch;
    bool sent;
};

static CO_FN void send_co(struct client *cl, const void *data, size_t len)
{
    struct iovec v;

    channel_co_write(cl->ch, iov_one(&v, (void *)(uintptr_t)data, len), 0);
}

static CO_FN void sender_entry(void *arg)
{
    static const char hello[] = "{'execute':'qmp_capabilities'}";
    struct client *cl = arg;

    if (!(cl->flags & (FLAG_RAW | FLAG_HMP))) {
        send_co(cl, hello, strlen(hello));
    }
    send_co(cl, cl->in.data, cl->in.len);
    cl->sent = true;
}

static CO_FN void client_co_run(struct control *c, void *arg)
{
    struct client *cl = arg;
    struct channel *ends[2];
    char buf[4096];

    channel_new_pair(loop_current(), cl->flags & FLAG_NARROW ? 5 : 65536, ends);
    control_add_session(c, ends[0],
                        cl->flags & FLAG_HMP ? SESSION_HMP : SESSION_QMP);
    cl->ch = ends[1];
    co_start(loop_current(), sender_entry, cl);
    while (channel_co_read(cl->ch, buf, sizeof(buf), SECOND) > 0) {
    }
    channel_shutdown(cl->ch);
    while (!cl->sent) {
        co_relax();
    }
    channel_free(cl->ch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct client cl = { .in = { data, len } };

    cl.flags = fuzz_u8(&cl.in);
    control_rig_run(client_co_run, &cl);
    return 0;
}
