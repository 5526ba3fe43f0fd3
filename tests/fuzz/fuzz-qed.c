/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QED image: see image-rig.h. */
#include "fuzz.h"
#include "image-rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct image_format format = {
        .name = "qed",
        .magic = { 'Q', 'E', 'D', 0 },
        .header_len = 64,
    };

    return image_rig_run(&format, data, len);
}
