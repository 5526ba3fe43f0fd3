/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD server after a handshake that is always the same.  Input: flags (1), then
 *   FLAG_RAW: the bytes as they are sent;
 *   else: records of command (1), flags (1), offset (4), length (4), payload:
 *     a write is followed by as many bytes as it says, up to 64 KiB.
 */
#include "export/nbd/nbd-int.h"
#include "fuzz.h"
#include "nbd-rig.h"

enum { FLAG_RAW = 1, FLAG_NARROW = 2, FLAG_FAR = 4, REQUESTS_MAX = 128 };

static void put_requests(GByteArray *out, struct fuzz_input *in, bool far)
{
    for (unsigned i = 0; i < REQUESTS_MAX && in->len > 0; i++) {
        struct nbd_request_header h = { .cookie = i };
        uint8_t head[NBD_REQUEST_SIZE];

        h.cmd = fuzz_u8(in) % 10;
        h.flags = fuzz_u8(in);
        h.offset = fuzz_u32(in);
        h.len = fuzz_u32(in);
        if (far) {
            h.offset <<= h.flags & 63;
        } else {
            h.offset &= 0x1fffff;
            h.len &= 0x1ffff;
        }
        nbd_encode_request(head, &h);
        nbd_put(out, head, sizeof(head));
        if (h.cmd == NBD_CMD_WRITE) {
            guint at = out->len;
            guint n = MIN(h.len, 65536u);

            g_byte_array_set_size(out, at + n);
            for (guint k = 0; k < n; k++) {
                out->data[at + k] = (uint8_t)(k ^ i);
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    unsigned flags = fuzz_u8(&in);
    g_autoptr(GByteArray) out = g_byte_array_new();

    nbd_put_hello(out);
    if (flags & FLAG_RAW) {
        nbd_put(out, in.data, in.len);
    } else {
        put_requests(out, &in, flags & FLAG_FAR);
    }
    nbd_rig_talk(out, flags & FLAG_NARROW ? 7 : 65536, false);
    return 0;
}
