/* Unpacking as a stream: what the bytes are, and the decoders that libraries bring. */
#define ZLIB_CONST /* next_in is const */
#include "vmm/boot/unpack.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* One piece: stays in a second-level cache. */
#define PIECE (256 * KIB)

_Static_assert(PIECE % UNPACK_PIECE_ALIGN == 0, "pieces end at multiples of the promised size");

/* Linux packs with dictionaries of up to 128 MiB (xz --lzma2=dict=128MiB, zstd -22 --ultra); what a
 * decoder needs beside its dictionary is small. */
#define DICT_MAX_LOG	27
#define LZMA_MEMORY_MAX ((UINT64_C(1) << DICT_MAX_LOG) + 16 * MIB)

enum unpack_format unpack_detect(const uint8_t *packed, size_t len_bytes)
{
	static const struct {
		enum unpack_format format;
		uint8_t len, magic[UNPACK_MAGIC_LEN];
	} table[] = {
	    {UNPACK_NONE, 4, {0x7f, 'E', 'L', 'F'}},
	    {UNPACK_GZIP, 3, {0x1f, 0x8b, 0x08}},
	    {UNPACK_XZ, 6, {0xfd, '7', 'z', 'X', 'Z', 0}},
	    {UNPACK_LZMA, 3, {0x5d, 0, 0}},
	    {UNPACK_LZ4, 4, {0x02, 0x21, 0x4c, 0x18}},
	    {UNPACK_ZSTD, 4, {0x28, 0xb5, 0x2f, 0xfd}},
	};

	if (len_bytes < UNPACK_MAGIC_LEN)
		return UNPACK_UNKNOWN;
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (!memcmp(packed, table[i].magic, table[i].len))
			return table[i].format;
	return UNPACK_UNKNOWN;
}

const char *unpack_name(enum unpack_format format)
{
	static const char *const names[] = {
	    [UNPACK_UNKNOWN] = "unknown", [UNPACK_NONE] = "uncompressed", [UNPACK_GZIP] = "gzip",
	    [UNPACK_XZ] = "xz",		  [UNPACK_LZMA] = "lzma",	  [UNPACK_LZ4] = "lz4",
	    [UNPACK_ZSTD] = "zstd",
	};

	return (size_t)format < ARRAY_LEN(names) ? names[format] : "unknown";
}

/* The piece that a decoder fills. */
struct piece {
	struct unpack_sink *sink;
	uint8_t *buf;
	uint64_t total, max;
};

static int piece_give(struct piece *p, size_t len)
{
	if (len > p->max - p->total)
		return -EFBIG;
	p->total += len;
	return len ? p->sink->write(p->sink, p->buf, len) : 0;
}

static int gunzip(const uint8_t *packed, size_t len, struct piece *p)
{
	z_stream z = {0};
	int r = 0, zr = Z_OK;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	z.next_in = packed;
	while (zr == Z_OK && r == 0) {
		const uint8_t *in = z.next_in;
		size_t left = len - (size_t)(in - packed);

		z.avail_in = (uInt)MIN(left, (size_t)UINT_MAX);
		z.next_out = p->buf;
		z.avail_out = PIECE;
		/* without input or room inflate() says Z_BUF_ERROR: that is the end of a cut stream
		 */
		zr = inflate(&z, Z_NO_FLUSH);
		r = piece_give(p, PIECE - z.avail_out);
	}
	inflateEnd(&z);
	if (r < 0)
		return r;
	if (zr == Z_MEM_ERROR)
		return -ENOMEM;
	return zr == Z_STREAM_END ? 0 : -EBADMSG;
}

static int unlzma(enum unpack_format format, const uint8_t *packed, size_t len, struct piece *p)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret lr = format == UNPACK_XZ ? lzma_stream_decoder(&s, LZMA_MEMORY_MAX, 0)
					  : lzma_alone_decoder(&s, LZMA_MEMORY_MAX);
	int r = 0;

	s.next_in = packed;
	s.avail_in = len;
	while (lr == LZMA_OK && r == 0) {
		s.next_out = p->buf;
		s.avail_out = PIECE;
		do {
			lr = lzma_code(&s, LZMA_FINISH);
		} while (lr == LZMA_OK && s.avail_out);
		r = piece_give(p, PIECE - s.avail_out);
	}
	lzma_end(&s);
	if (r < 0)
		return r;
	if (lr == LZMA_MEM_ERROR)
		return -ENOMEM;
	return lr == LZMA_STREAM_END ? 0 : -EBADMSG;
}

static int unzstd(const uint8_t *packed, size_t len, struct piece *p)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	ZSTD_inBuffer in = {packed, len, 0};
	size_t zr = 1;
	int r = 0;

	if (!d)
		return -ENOMEM;
	ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, DICT_MAX_LOG);
	while (zr && r == 0) {
		ZSTD_outBuffer out = {p->buf, PIECE, 0};

		do {
			size_t had = in.pos, made = out.pos;

			zr = ZSTD_decompressStream(d, &out, &in);
			if (zr && !ZSTD_isError(zr) && in.pos == had && out.pos == made &&
			    out.pos < PIECE)
				zr = (size_t)-1; /* no progress: the packed bytes end too early */
		} while (zr && !ZSTD_isError(zr) && out.pos < PIECE);
		r = piece_give(p, out.pos);
		if (ZSTD_isError(zr))
			break;
	}
	ZSTD_freeDCtx(d);
	if (r < 0)
		return r;
	return zr ? -EBADMSG : 0;
}

/* The sink sees what lies there; the limit holds all the same. */
static int stored(const uint8_t *packed, size_t len, struct piece *p)
{
	if (len > p->max)
		return -EFBIG;
	p->total = len;
	return p->sink->write(p->sink, packed, len);
}

int unpack_stream(enum unpack_format format, const uint8_t *packed, size_t len_bytes,
		  uint64_t max_bytes, struct unpack_sink *sink, uint64_t *ret_unpacked_bytes)
{
	struct piece p = {.sink = sink, .max = max_bytes};
	autofree uint8_t *buf = NULL;
	int r;

	if (format == UNPACK_LZ4)
		return unlz4_stream(packed, len_bytes, max_bytes, sink, ret_unpacked_bytes);
	if (format != UNPACK_NONE) {
		buf = aligned_alloc(UNPACK_PIECE_ALIGN, PIECE);
		if (!buf)
			return -ENOMEM;
		p.buf = buf;
	}
	switch (format) {
	case UNPACK_NONE:
		r = stored(packed, len_bytes, &p);
		break;
	case UNPACK_GZIP:
		r = gunzip(packed, len_bytes, &p);
		break;
	case UNPACK_XZ:
	case UNPACK_LZMA:
		r = unlzma(format, packed, len_bytes, &p);
		break;
	case UNPACK_ZSTD:
		r = unzstd(packed, len_bytes, &p);
		break;
	default:
		r = -EOPNOTSUPP;
	}
	if (r == 0)
		*ret_unpacked_bytes = p.total;
	return r;
}
