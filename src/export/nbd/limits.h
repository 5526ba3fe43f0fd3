/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one NBD client, and all of them together, may take.  Each limit is
 * tested at its value and one beyond.
 */
#pragma once
#include "wire/nbd.h"

#define NBD_MS 1000000ull
#define NBD_SEC (1000 * NBD_MS)

/* Connections: of the server (default), of one export. */
#define NBD_MAX_CONNS 100u
#define NBD_MAX_CONNS_PER_EXPORT 16u
/* Connections that have not begun transmission; one more pushes out the oldest
 * of them, so idle strangers cannot lock others out. */
#define NBD_MAX_HALF_OPEN 32u

/* Handshake: the whole of it; options, to which each export that LIST named
 * adds some; payload of one option that is looked at, and that is skipped. */
#define NBD_HANDSHAKE_NS (10 * NBD_SEC)
#define NBD_MAX_OPTIONS 32u
#define NBD_MAX_OPTIONS_PER_EXPORT 2u
#define NBD_MAX_OPTION_LEN (64u << 10)
#define NBD_MAX_OPTION_SKIP (32u << 20)

/* In flight: of one connection, of the server.  Of the latter each connection
 * owns a small share, so that the large requests of others never stop it. */
#define NBD_MAX_REQUESTS 64u
#define NBD_MAX_CONN_PAYLOAD (64ull << 20)
#define NBD_MAX_SERVER_PAYLOAD (512ull << 20)
#define NBD_CONN_SHARE (1ull << 20)

/* A write beyond the advertised maximum is skipped up to here, then dropped. */
#define NBD_MAX_WRITE_SKIP (64u << 20)

/* A peer that takes no byte of a reply, or gives none of a payload, for so
 * long is gone. */
#define NBD_STALL_NS (30 * NBD_SEC)

/* Stopping: how long an idle client may see ESHUTDOWN, and any client stay. */
#define NBD_STOP_IDLE_NS (200 * NBD_MS)
#define NBD_STOP_NS (1 * NBD_SEC)
#define NBD_STOP_TICK_NS (20 * NBD_MS)

/* Block status: extents in a reply, questions asked to make one. */
#define NBD_MAX_EXTENTS 65536u
#define NBD_MAX_STATUS_CALLS (2 * NBD_MAX_EXTENTS)

/* A read of this size asks for holes before it reads; into how many parts a
 * reply may fall. */
#define NBD_HOLE_QUERY_LEN (64u << 10)
#define NBD_MAX_READ_CHUNKS 32u

/* Reader's buffer; segments of payload buffers (io_buf_get() of this size
 * cannot fail); vectors of one batch of replies. */
#define NBD_RX_SIZE (128u << 10)
#define NBD_SEGMENT (1u << 20)
#define NBD_TX_VECTORS 256u
/* Bitmaps that one export shows. */
#define NBD_MAX_BITMAPS 16u
