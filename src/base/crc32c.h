/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli), bit-reflected, as iSCSI and ext4 compute it. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Of @len bytes; "123456789" gives 0xe3069283. */
uint32_t crc32c(const void *buf, size_t len);
/* The checksum of bytes whose checksum is @crc, with @len more behind them. */
uint32_t crc32c_more(uint32_t crc, const void *buf, size_t len);
