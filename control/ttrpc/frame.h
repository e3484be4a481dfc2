/*
 * ttrpc frames (containerd/ttrpc, PROTOCOL.md): the codec alone, without I/O.
 *
 *   offset  size  meaning, integers big-endian
 *   0       4     length of the data
 *   4       4     stream: odd, from the client, ascending
 *   8       1     type
 *   9       1     flags
 *   10            data, at most TTRPC_DATA_MAX
 *
 * Threads: a reader belongs to one.
 */
#ifndef CONTROL_TTRPC_FRAME_H
#define CONTROL_TTRPC_FRAME_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TTRPC_DATA_MAX (4 * 1024 * 1024) /* ttrpc's messageLengthMax */

enum ttrpc_type {
	TTRPC_REQUEST = 1,
	TTRPC_RESPONSE = 2,
	TTRPC_DATA = 3,
};

#define TTRPC_REMOTE_CLOSED 0x01u /* the sender sends nothing more on the stream */
#define TTRPC_REMOTE_OPEN   0x02u /* request: data of the client follows */
#define TTRPC_NO_DATA	    0x04u /* data: carries no message, not even an empty one */
/* Ours, of a client: the call is given up, no answer is wanted. With NO_DATA and REMOTE_CLOSED,
 * which is what other servers take it for. */
#define TTRPC_GIVEN_UP 0x80u

/* gRPC's status codes, which ttrpc uses. */
enum ttrpc_code {
	TTRPC_OK = 0,
	TTRPC_CANCELLED = 1,
	TTRPC_UNKNOWN = 2,
	TTRPC_INVALID_ARGUMENT = 3,
	TTRPC_DEADLINE_EXCEEDED = 4,
	TTRPC_NOT_FOUND = 5,
	TTRPC_PERMISSION_DENIED = 7,
	TTRPC_RESOURCE_EXHAUSTED = 8,
	TTRPC_FAILED_PRECONDITION = 9,
	TTRPC_UNIMPLEMENTED = 12,
	TTRPC_INTERNAL = 13,
	TTRPC_UNAVAILABLE = 14,
};

struct ttrpc_wire_header {
	struct be32 len;
	struct be32 stream;
	uint8_t type;
	uint8_t flags;
};
_Static_assert(sizeof(struct ttrpc_wire_header) == 10, "size of a ttrpc header");
_Static_assert(offsetof(struct ttrpc_wire_header, type) == 8, "place of a ttrpc frame's type");

struct ttrpc_header {
	uint32_t len_bytes;
	uint32_t stream;
	uint8_t type;
	uint8_t flags;
};

struct ttrpc_wire_header ttrpc_header_put(const struct ttrpc_header *header);
struct ttrpc_header ttrpc_header_get(const struct ttrpc_wire_header *wire);

enum ttrpc_event {
	TTRPC_NEED_MORE, /* all bytes are used */
	TTRPC_FRAME,	 /* `header` and `data` hold one */
	TTRPC_OVERSIZED, /* `header` announces too much; the data will be skipped */
};

/*
 * Frames out of a stream of bytes. Zeroed: ready. Memory grows with the bytes that have come, not
 * with the length that was announced.
 */
struct ttrpc_reader {
	struct ttrpc_header header;
	uint8_t *data; /* header.len_bytes, until the next call */

	struct ttrpc_wire_header wire; /* the rest is private */
	size_t have_header, have_data, cap;
	uint64_t skip_bytes;
};

/*
 * Goes on with `len` bytes; *ret_used of them were taken. Call again with the rest, until all are
 * used. An event, or -ENOMEM, after which the reader is of no use.
 */
int ttrpc_reader_feed(struct ttrpc_reader *r, const void *buf, size_t len_bytes, size_t *ret_used);
void ttrpc_reader_fini(struct ttrpc_reader *r);

#endif
