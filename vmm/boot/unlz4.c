/*
 * LZ4, the legacy frame that Linux packs its kernels with (lz4 -l): the magic number 0x184c2102,
 * then for each block its packed length (32 bits, little endian) and its bytes. A block unpacks to
 * at most 8 MiB and refers to nothing before it. The magic number may stand again between blocks.
 * (lz4_Block_format.md and lz4_Frame_format.md of the lz4 project.)
 *
 * The library has no call that unpacks a block into a small window, and a window is what makes a
 * boot fast: unpacking 50 MiB at once costs a page fault for each page, twice. So the decoder is
 * ours. Its output window is
 *
 *	0            HISTORY                                     WINDOW   WINDOW + SLACK
 *	| 64 KiB of what was given out | being filled ...          |  spill  |
 *
 * and when it is full, whole pages go to the sink and the last 64 KiB move to the front.
 *
 * Sequences are read by two loops: simple_sequences() takes those that need no care, without any
 *error path, and stops before the first one that does; sequence() takes that one, with every check.
 *All damage is thus found in one place.
 *
 * Invariants
 *  1. low <= out, and a match may reach back to `low`: the start of the block or of the window,
 *     whichever is later; 64 KiB (the longest distance of a match) are always kept.
 *  2. out <= WINDOW. Copies in strides may write up to SLACK bytes past `out`, never further.
 *  3. Copies in strides read past the literals only where the packed bytes go on that far.
 */
#include "vmm/boot/unpack.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LZ4_LEGACY_MAGIC 0x184c2102u
#define BLOCK_MAX	 (8 * MIB)
#define MIN_MATCH	 4

#define STRIDE	16
#define SLACK	(2 * STRIDE)
#define HISTORY (64 * KIB)
#define WINDOW	(HISTORY + 192 * KIB) /* stays in any second-level cache */

_Static_assert(SLACK <= UNPACK_PIECE_ALIGN, "room behind the window");
_Static_assert(HISTORY % UNPACK_PIECE_ALIGN == 0, "the window moves by whole pieces");

struct unlz4 {
	struct unpack_sink *sink;
	uint8_t *window;
	size_t out;	/* next byte is written here */
	size_t low;	/* matches reach back to here */
	size_t given;	/* up to here the sink has it */
	uint64_t moved; /* unpacked bytes that have left the window */
	uint64_t limit; /* of moved + out in this block */
};

/* Gives whole pieces to the sink (at the end: everything) and makes room. */
static int window_flush(struct unlz4 *u, bool end)
{
	size_t upto = end ? u->out : align_down(u->out, UNPACK_PIECE_ALIGN);
	int r =
	    upto == u->given ? 0 : u->sink->write(u->sink, u->window + u->given, upto - u->given);

	if (r < 0)
		return r;
	u->given = upto;
	if (end || upto <= HISTORY)
		return 0;

	size_t shift = upto - HISTORY;

	memmove(u->window, u->window + shift, u->out - shift);
	u->out -= shift;
	u->given -= shift;
	u->moved += shift;
	u->low = u->low > shift ? u->low - shift : 0;
	return 0;
}

/* Adds the bytes that continue a length of 15. */
static inline bool more_length(const uint8_t **ip, const uint8_t *end, size_t *len)
{
	uint8_t b;

	do {
		if (*ip == end)
			return false;
		b = *(*ip)++;
		*len += b;
	} while (b == 255);
	return true;
}

static inline void copy_strides(uint8_t *to, const uint8_t *from, size_t len)
{
	uint8_t *end = to + len;

	do {
		memcpy(to, from, STRIDE);
		memcpy(to + STRIDE, from + STRIDE, STRIDE);
		to += 2 * STRIDE;
		from += 2 * STRIDE;
	} while (to < end);
}

/* Repeats the `distance` bytes before `to`; writes up to SLACK bytes more than asked. */
static inline void copy_match(uint8_t *to, size_t distance, size_t len)
{
	if (distance >= STRIDE) {
		copy_strides(to, to - distance, len);
		return;
	}
	if (distance == 1) {
		memset(to, to[-1], len);
		return;
	}
	/* A short pattern: byte by byte until a stride, some repeats back, no longer overlaps
	 * itself. */
	size_t head = MIN(len, STRIDE), back = (STRIDE + distance - 1) / distance * distance;

	for (size_t i = 0; i < head; i++)
		to[i] = to[(ptrdiff_t)i - (ptrdiff_t)distance];
	if (len <= head)
		return;
	for (size_t i = head; i < back && i < len; i++)
		to[i] = to[i - distance];
	if (len > back)
		copy_strides(to + back, to, len - back);
}

/*
 * Takes sequences while the packed bytes go on for a while, the window has room and all is well;
 * returns where the first other sequence starts.
 */
static const uint8_t *simple_sequences(struct unlz4 *u, const uint8_t *ip, const uint8_t *end)
{
	uint8_t *op = u->window + u->out;
	const uint8_t *low = u->window + u->low;
	const uint8_t *room_end = u->window + MIN(WINDOW, u->limit - u->moved);

	while (end - ip > 2 * STRIDE && room_end - op > STRIDE) {
		const uint8_t *in = ip;
		uint8_t token = *in++;
		uint8_t *to = op;
		size_t lit = token >> 4, len = token & 15;

		if (lit < 15) {
			memcpy(to, in, STRIDE);
		} else {
			if (!more_length(&in, end, &lit) || end - in < 2 * STRIDE ||
			    lit > (size_t)(end - in) - 2 * STRIDE || lit > (size_t)(room_end - to))
				break;
			copy_strides(to, in, lit);
		}
		to += lit;
		in += lit;

		size_t distance = le16_load(in);

		in += 2;
		if (len == 15 && !more_length(&in, end, &len))
			break;
		len += MIN_MATCH;
		if (distance - 1 >= (size_t)(to - low) || len > (size_t)(room_end - to))
			break;
		copy_match(to, distance, len);
		op = to + len;
		ip = in;
	}
	u->out = (size_t)(op - u->window);
	return ip;
}

static int put_literals(struct unlz4 *u, const uint8_t *from, size_t len)
{
	while (len) {
		size_t n = MIN(len, WINDOW - u->out);

		memcpy(u->window + u->out, from, n);
		u->out += n;
		from += n;
		len -= n;
		if (u->out == WINDOW) {
			int r = window_flush(u, false);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int put_match(struct unlz4 *u, size_t distance, size_t len)
{
	while (len) {
		size_t n = MIN(len, WINDOW - u->out);

		copy_match(u->window + u->out, distance, n);
		u->out += n;
		len -= n;
		if (u->out == WINDOW) {
			int r = window_flush(u, false);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Any sequence. The last one of a block has no match: then *ip == end. */
static int sequence(struct unlz4 *u, const uint8_t **ip, const uint8_t *end)
{
	uint8_t token = *(*ip)++;
	size_t lit = token >> 4, len = token & 15;
	int r;

	if (lit == 15 && !more_length(ip, end, &lit))
		return -EBADMSG;
	if (lit > (size_t)(end - *ip))
		return -EBADMSG;
	if (lit > u->limit - u->moved - u->out)
		return -EFBIG;
	r = put_literals(u, *ip, lit);
	if (r < 0)
		return r;
	*ip += lit;
	if (*ip == end)
		return 0;

	if (end - *ip < 2)
		return -EBADMSG;
	size_t distance = le16_load(*ip);

	*ip += 2;
	if (len == 15 && !more_length(ip, end, &len))
		return -EBADMSG;
	len += MIN_MATCH;
	/* a match at the very end would leave the block without its last literals */
	if (!distance || distance > u->out - u->low || *ip == end)
		return -EBADMSG;
	if (len > u->limit - u->moved - u->out)
		return -EFBIG;
	return put_match(u, distance, len);
}

static int block(struct unlz4 *u, uint64_t max_bytes, const uint8_t *ip, const uint8_t *end)
{
	u->low = u->out;
	u->limit = MIN(max_bytes, u->moved + u->out + BLOCK_MAX);
	while (ip < end) {
		ip = simple_sequences(u, ip, end);

		int r = sequence(u, &ip, end);

		if (r == -EFBIG && u->limit < max_bytes)
			return -EBADMSG;
		if (r < 0)
			return r;
	}
	return 0;
}

int unlz4_stream(const uint8_t *packed, size_t len_bytes, uint64_t max_bytes,
		 struct unpack_sink *sink, uint64_t *ret_unpacked_bytes)
{
	const uint8_t *ip = packed, *end = packed + len_bytes;
	autofree uint8_t *window = aligned_alloc(UNPACK_PIECE_ALIGN, WINDOW + UNPACK_PIECE_ALIGN);
	struct unlz4 u = {.sink = sink, .window = window};
	int r;

	if (!window)
		return -ENOMEM;
	while (ip < end) {
		if (end - ip < 4)
			return -EBADMSG;
		uint32_t n = le32_load(ip);

		ip += 4;
		if (n == LZ4_LEGACY_MAGIC)
			continue;
		if (!n || n > (size_t)(end - ip))
			return -EBADMSG;
		r = block(&u, max_bytes, ip, ip + n);
		if (r < 0)
			return r;
		ip += n;
	}
	r = window_flush(&u, true);
	if (r < 0)
		return r;
	*ret_unpacked_bytes = u.moved + u.out;
	return 0;
}
