/*
 * Unpacking of what a kernel or a module is packed with, as a stream.
 *
 * The unpacked bytes go to a sink piece by piece, in order, out of a window that stays in the CPU's
 * cache: nobody holds a whole unpacked kernel, and the sink decides what becomes of each page.
 * Packed bytes are untrusted: no decoder reads past the packed bytes, and none gives out more than
 * `max_bytes`.
 */
#ifndef VMM_BOOT_UNPACK_H
#define VMM_BOOT_UNPACK_H

#include <stddef.h>
#include <stdint.h>

enum unpack_format {
	UNPACK_UNKNOWN, /* bzip2, lzo and whatever else: known to its own unpacker only */
	UNPACK_NONE,	/* an ELF file as it is */
	UNPACK_GZIP,
	UNPACK_XZ,
	UNPACK_LZMA, /* lzma-alone */
	UNPACK_LZ4,  /* the legacy frame: blocks of up to 8 MiB without a checksum */
	UNPACK_ZSTD,
};

/* Bytes that unpack_detect() wants to see; fewer are never a packed file. */
#define UNPACK_MAGIC_LEN 6

/* Pieces start at multiples of this many unpacked bytes, and all but the last are multiples of it
 * in length: a sink that skips pages sees them whole. */
#define UNPACK_PIECE_ALIGN 4096

struct unpack_sink {
	/* 0, or -errno to stop; unpack_stream() then returns that. */
	int (*write)(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes);
};

enum unpack_format unpack_detect(const uint8_t *packed, size_t len_bytes);

/* "gzip", "lz4", ... for messages. */
const char *unpack_name(enum unpack_format format);

/*
 * Unpacks all of `packed` into the sink. Returns 0 and the number of bytes given out; -EBADMSG: the
 * packed bytes are damaged or end too early; -EFBIG: more than max_bytes come out; -ENOMEM;
 * -EOPNOTSUPP: unknown format; or what the sink returned.
 */
int unpack_stream(enum unpack_format format, const uint8_t *packed, size_t len_bytes,
		  uint64_t max_bytes, struct unpack_sink *sink, uint64_t *ret_unpacked_bytes);

/* The lz4 decoder: a file of its own, called by unpack_stream(). */
int unlz4_stream(const uint8_t *packed, size_t len_bytes, uint64_t max_bytes,
		 struct unpack_sink *sink, uint64_t *ret_unpacked_bytes);

#endif
