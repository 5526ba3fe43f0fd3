/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to compress.c and decompress.c. */
#pragma once
#include "format/alloc/codec.h"
#include "format/alloc/cpu-pool.h"
#include "format/qcow2/qcow2.h"
#include "format/alloc/metadata-cache.h"

struct qcow2_codec {
    enum codec codec;
    struct cpu_pool cpu_pool;
    struct metadata_cache clusters; /* decompressed, by L2 entry */
};

/* Made when first needed. */
struct qcow2_codec *qcow2_codec_get(struct qcow2_image *img);
