/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A qcow2 image: see image-rig.h. */
#include "fuzz.h"
#include "image-rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct image_format format = {
        .name = "qcow2",
        .magic = { 'Q', 'F', 'I', 0xfb },
        .header_len = 112,
        .data_files = true,
    };

    return image_rig_run(&format, data, len);
}
