/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD protocol: numbers, encoding, decoding.  No I/O, no state.
 *
 * Everything on the wire is big-endian.  An encoder fills a buffer whose size
 * its parameter states and cannot fail.  A decoder gets bytes that a stranger
 * wrote: it checks every length against what is there before it looks, adds
 * nothing that could wrap, and returns -EBADMSG for a wrong magic (the stream
 * is lost) or -EINVAL for a payload that contradicts itself (the stream is
 * not).  Strings it returns are borrowed from the buffer, not terminated.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_MAX_STRING 4096u
#define NBD_MAX_PAYLOAD (32u << 20) /* what every client and server takes */

/* --- handshake --- */

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)     /* "NBDMAGIC" */
#define NBD_OPT_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC UINT64_C(0x0003e889045565a9)

#define NBD_GREETING_SIZE 18
#define NBD_CLIENT_FLAGS_SIZE 4
#define NBD_OPT_SIZE 16
#define NBD_OPT_REPLY_SIZE 20
#define NBD_EXPORT_NAME_SIZE 10
#define NBD_EXPORT_NAME_ZEROES 124

/* The same bits in the server's 16 and the client's 32 handshake flags. */
enum nbd_handshake_flags {
    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_opt {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERROR(n) (UINT32_C(0x80000000) | (n))
#define NBD_REP_ACK UINT32_C(1)
#define NBD_REP_SERVER UINT32_C(2)
#define NBD_REP_INFO UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)
#define NBD_REP_ERR_UNSUP NBD_REP_ERROR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERROR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERROR(3)
#define NBD_REP_ERR_PLATFORM NBD_REP_ERROR(4)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERROR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERROR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERROR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERROR(8)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERROR(9)

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};
#define NBD_INFO_EXPORT_SIZE 12
#define NBD_INFO_BLOCK_SIZE_SIZE 14

enum nbd_transmission_flags {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_ROTATIONAL = 1 << 4,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
};

/* Length-prefixed text inside a payload; borrowed, not terminated. */
struct nbd_text {
    const char *s;
    uint32_t len;
};

struct nbd_opt_header {
    uint32_t opt; /* enum nbd_opt, or anything */
    uint32_t len; /* of the payload that follows; not yet judged */
};

void nbd_encode_greeting(uint8_t out[NBD_GREETING_SIZE], uint16_t flags);
int nbd_decode_greeting(const uint8_t in[NBD_GREETING_SIZE],
                        uint16_t *ret_flags);
uint32_t nbd_decode_client_flags(const uint8_t in[NBD_CLIENT_FLAGS_SIZE]);
void nbd_encode_opt(uint8_t out[NBD_OPT_SIZE], uint32_t opt, uint32_t len);
int nbd_decode_opt(const uint8_t in[NBD_OPT_SIZE], struct nbd_opt_header *ret);
void nbd_encode_opt_reply(uint8_t out[NBD_OPT_REPLY_SIZE], uint32_t opt,
                          uint32_t type, uint32_t len);
int nbd_decode_opt_reply(const uint8_t in[NBD_OPT_REPLY_SIZE],
                         uint32_t *ret_opt, uint32_t *ret_type,
                         uint32_t *ret_len);
void nbd_encode_export_name(uint8_t out[NBD_EXPORT_NAME_SIZE], uint64_t size,
                            uint16_t flags);
void nbd_encode_info_export(uint8_t out[NBD_INFO_EXPORT_SIZE], uint64_t size,
                            uint16_t flags);
void nbd_encode_info_block_size(uint8_t out[NBD_INFO_BLOCK_SIZE_SIZE],
                                uint32_t min, uint32_t preferred, uint32_t max);

/* Payload of INFO and GO. */
struct nbd_info_request {
    struct nbd_text name;
    uint16_t count; /* information requests */
    const uint8_t *items;
};
int nbd_decode_info_request(const uint8_t *in, size_t len,
                            struct nbd_info_request *ret);
/* Item @i < count: enum nbd_info, or anything. */
uint16_t nbd_info_request_item(const struct nbd_info_request *r, unsigned i);

/* Payload of LIST_META_CONTEXT and SET_META_CONTEXT. */
struct nbd_meta_request {
    struct nbd_text name;
    uint32_t count; /* queries; all of them are inside the payload */
    const uint8_t *queries;
    size_t len;
};
int nbd_decode_meta_request(const uint8_t *in, size_t len,
                            struct nbd_meta_request *ret);
/* Take the next query; false when none is left. */
bool nbd_meta_request_next(struct nbd_meta_request *r, struct nbd_text *ret);

/* UTF-8 without NUL, at most NBD_MAX_STRING bytes. */
bool nbd_text_is_valid(struct nbd_text t);
bool nbd_text_equal(struct nbd_text t, const char *s);

/* --- transmission --- */

#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_CHUNK_MAGIC UINT32_C(0x668e33ef)

#define NBD_REQUEST_SIZE 28
#define NBD_SIMPLE_REPLY_SIZE 16
#define NBD_CHUNK_SIZE 20
/* The longest header that an encoder below makes, without trailing data. */
#define NBD_CHUNK_HEAD_MAX 34

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
    NBD_CMD_COUNT
};

enum nbd_cmd_flags {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

#define NBD_CHUNK_FLAG_DONE 1u

enum nbd_chunk_type {
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_OFFSET_DATA = 1,
    NBD_CHUNK_OFFSET_HOLE = 2,
    NBD_CHUNK_BLOCK_STATUS = 5,
    NBD_CHUNK_ERROR = 0x8001,
    NBD_CHUNK_ERROR_OFFSET = 0x8002,
};

/* Flags of base:allocation. */
#define NBD_STATE_HOLE 1u
#define NBD_STATE_ZERO 2u
/* Of qemu:dirty-bitmap:NAME. */
#define NBD_STATE_DIRTY 1u

enum nbd_error {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

struct nbd_request_header {
    uint16_t flags;  /* enum nbd_cmd_flags, or anything */
    uint16_t cmd;    /* enum nbd_cmd, or anything */
    uint64_t cookie; /* opaque, in the client's byte order */
    uint64_t offset;
    uint32_t len;
};
void nbd_encode_request(uint8_t out[NBD_REQUEST_SIZE],
                        const struct nbd_request_header *h);
int nbd_decode_request(const uint8_t in[NBD_REQUEST_SIZE],
                       struct nbd_request_header *ret);

/* The number that goes on the wire for errno @errnum (>= 0). */
uint32_t nbd_error_from_errno(int errnum);

void nbd_encode_simple_reply(uint8_t out[NBD_SIMPLE_REPLY_SIZE],
                             uint64_t cookie, uint32_t error);
int nbd_decode_simple_reply(const uint8_t in[NBD_SIMPLE_REPLY_SIZE],
                            uint64_t *ret_cookie, uint32_t *ret_error);

/* Structured chunks.  Each returns the bytes of the header, to be followed by
 * the data that the chunk's length already counts. */
size_t nbd_encode_chunk_none(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie);
size_t nbd_encode_chunk_data(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                             uint16_t flags, uint64_t offset, uint32_t len);
size_t nbd_encode_chunk_hole(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                             uint16_t flags, uint64_t offset, uint32_t len);
/* Followed by @text_len <= NBD_MAX_STRING bytes of text. */
size_t nbd_encode_chunk_error(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                              uint16_t flags, uint32_t error,
                              uint16_t text_len);
/* Followed by @extents descriptors of nbd_encode_extent(). */
size_t nbd_encode_chunk_status(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                               uint16_t flags, uint32_t context,
                               uint32_t extents);
#define NBD_EXTENT_SIZE 8
void nbd_encode_extent(uint8_t out[NBD_EXTENT_SIZE], uint32_t len,
                       uint32_t flags);

struct nbd_chunk_header {
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t len; /* of the payload; not yet judged */
};
int nbd_decode_chunk(const uint8_t in[NBD_CHUNK_SIZE],
                     struct nbd_chunk_header *ret);
