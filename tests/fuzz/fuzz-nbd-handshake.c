/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD server, from the client's first byte.  Input: flags (1), then
 *   FLAG_RAW: the bytes as they are sent;
 *   else: client flags (1) and records of option (1), kind (1), length (2),
 *     payload: the magics are put right, and lengths may lie.
 */
#include "fuzz.h"
#include "nbd-rig.h"

enum {
    FLAG_RAW = 1,
    FLAG_NARROW = 2,
    FLAG_TLS = 4, /* the server wants it */
    KIND_LIES = 1,
    OPTIONS_MAX = 64
};

static void put_options(GByteArray *out, struct fuzz_input *in)
{
    uint8_t flags[4] = { 0, 0, 0, 0 };

    flags[3] = fuzz_u8(in);
    nbd_put(out, flags, sizeof(flags));
    for (int i = 0; i < OPTIONS_MAX && in->len > 0; i++) {
        uint32_t opt = fuzz_u8(in) % 16;
        unsigned kind = fuzz_u8(in);
        uint32_t want = fuzz_u16(in);
        size_t len;
        const uint8_t *data = fuzz_take(in, want, &len);

        nbd_put_opt(out, opt,
                    kind & KIND_LIES ? want << (kind >> 3) : (uint32_t)len);
        nbd_put(out, data, len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    unsigned flags = fuzz_u8(&in);
    g_autoptr(GByteArray) out = g_byte_array_new();

    if (flags & FLAG_RAW) {
        nbd_put(out, in.data, in.len);
    } else {
        put_options(out, &in);
    }
    nbd_rig_talk(out, flags & FLAG_NARROW ? 7 : 65536, flags & FLAG_TLS);
    return 0;
}
