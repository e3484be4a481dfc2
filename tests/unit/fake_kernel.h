/*
 * Kernels made for tests: ELF files with a few segments, and bzImages around any payload, packed
 * with the libraries' own encoders. Everything is owned by the caller and freed with free().
 */
#ifndef TESTS_UNIT_FAKE_KERNEL_H
#define TESTS_UNIT_FAKE_KERNEL_H

#include "base/bytes.h"
#include "base/checked.h"
#include "vmm/boot/unpack.h"

#include <assert.h>
#include <elf.h>
#include <lz4.h>
#include <lz4hc.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

struct blob {
	uint8_t *data;
	size_t len;
};

static inline struct blob blob_new(size_t len)
{
	struct blob b = {calloc(1, len ? len : 1), len};

	assert(b.data);
	return b;
}

/* Bytes like those of a kernel: runs of zeros, repeats at all distances, noise. Same seed, same
 * bytes. */
static inline void fill_like_code(uint8_t *p, size_t len, uint32_t seed)
{
	uint64_t s = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	size_t i = 0;

	while (i < len) {
		s = s * UINT64_C(6364136223846793005) + 1442695040888963407u;
		uint32_t r = (uint32_t)(s >> 33);
		size_t n = MIN(1 + (r >> 4) % ((r & 15) == 0 ? 20000 : 40), len - i);
		size_t distance = 1 + (r >> 8) % ((r & 16) ? 70000 : 300);

		if ((r & 3) == 0) {
			memset(p + i, 0, n);
		} else if ((r & 3) == 1 || distance > i) {
			for (size_t k = 0; k < n; k++) {
				s = s * UINT64_C(6364136223846793005) + 1442695040888963407u;
				p[i + k] = (uint8_t)(s >> 56);
			}
		} else {
			for (size_t k = 0; k < n; k++)
				p[i + k] = p[i + k - distance];
		}
		i += n;
	}
}

/* ---- packing ------------------------------------------------------------------------------ */

static inline struct blob pack_gzip(const uint8_t *data, size_t len)
{
	z_stream z = {0};
	struct blob b = blob_new(compressBound(len) + 64);

	assert(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	z.next_in = (Bytef *)(uintptr_t)data;
	z.avail_in = (uInt)len;
	z.next_out = b.data;
	z.avail_out = (uInt)b.len;
	assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
	b.len = z.total_out;
	deflateEnd(&z);
	return b;
}

static inline struct blob pack_lzma(enum unpack_format format, const uint8_t *data, size_t len)
{
	struct blob b = blob_new(len + len / 2 + 1024);
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_options_lzma options;
	lzma_ret r;

	lzma_lzma_preset(&options, 1);
	/* as Linux does it: the x86 filter, dictionaries of 128 MiB are only allowed, not used */
	lzma_filter filters[] = {
	    {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};

	r = format == UNPACK_XZ ? lzma_stream_encoder(&s, filters, LZMA_CHECK_CRC32)
				: lzma_alone_encoder(&s, &options);
	assert(r == LZMA_OK);
	s.next_in = data;
	s.avail_in = len;
	s.next_out = b.data;
	s.avail_out = b.len;
	r = lzma_code(&s, LZMA_FINISH);
	assert(r == LZMA_STREAM_END);
	b.len = s.total_out;
	lzma_end(&s);
	return b;
}

static inline struct blob pack_zstd(const uint8_t *data, size_t len)
{
	struct blob b = blob_new(ZSTD_compressBound(len));

	b.len = ZSTD_compress(b.data, b.len, data, len, 3);
	assert(!ZSTD_isError(b.len));
	return b;
}

#define LZ4_BLOCK (8u << 20)

static inline struct blob pack_lz4(const uint8_t *data, size_t len)
{
	struct blob b = blob_new(4 + len + len / 200 + 64 * (len / LZ4_BLOCK + 1));
	uint8_t *to = b.data + 4;

	le32_store(b.data, 0x184c2102);
	for (size_t at = 0; at < len || at == 0; at += LZ4_BLOCK) {
		int n = (int)MIN(len - at, LZ4_BLOCK);
		int room = (int)(b.data + b.len - to - 4);
		int packed = LZ4_compress_HC((const char *)data + at, (char *)to + 4, n, room, 3);

		assert(packed > 0);
		le32_store(to, (uint32_t)packed);
		to += 4 + packed;
	}
	b.len = (size_t)(to - b.data);
	return b;
}

static inline struct blob pack(enum unpack_format format, const uint8_t *data, size_t len)
{
	switch (format) {
	case UNPACK_GZIP:
		return pack_gzip(data, len);
	case UNPACK_XZ:
	case UNPACK_LZMA:
		return pack_lzma(format, data, len);
	case UNPACK_ZSTD:
		return pack_zstd(data, len);
	case UNPACK_LZ4:
		return pack_lz4(data, len);
	default: {
		struct blob b = blob_new(len);

		memcpy(b.data, data, len);
		return b;
	}
	}
}

/* ---- ELF ---------------------------------------------------------------------------------- */

struct fake_segment {
	uint64_t gpa, mem, file;
};

/* Segments' bytes lie in the file at multiples of 4096, like those of a vmlinux. */
static inline struct blob fake_elf(uint64_t entry, const struct fake_segment *segs, unsigned n)
{
	size_t at = 4096, total = 4096;
	struct blob b;
	Elf64_Ehdr eh = {
	    .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	    .e_type = ET_EXEC,
	    .e_machine = EM_X86_64,
	    .e_version = EV_CURRENT,
	    .e_entry = entry,
	    .e_phoff = sizeof(eh),
	    .e_ehsize = sizeof(eh),
	    .e_phentsize = sizeof(Elf64_Phdr),
	    .e_phnum = (uint16_t)n,
	};

	for (unsigned i = 0; i < n; i++)
		total = align_up(total, 4096) + segs[i].file;
	b = blob_new(total);
	memcpy(b.data, &eh, sizeof(eh));
	for (unsigned i = 0; i < n; i++) {
		Elf64_Phdr ph = {.p_type = PT_LOAD,
				 .p_flags = PF_R | PF_X,
				 .p_offset = at,
				 .p_vaddr = UINT64_C(0xffffffff80000000) + segs[i].gpa,
				 .p_paddr = segs[i].gpa,
				 .p_filesz = segs[i].file,
				 .p_memsz = segs[i].mem,
				 .p_align = 4096};

		memcpy(b.data + sizeof(eh) + i * sizeof(ph), &ph, sizeof(ph));
		fill_like_code(b.data + at, segs[i].file, i + 1);
		at = align_up(at + segs[i].file, 4096);
	}
	return b;
}

/* ---- bzImage ------------------------------------------------------------------------------ */

#define FAKE_BZ_CODE	(5 * 512) /* where the protected-mode part starts */
#define FAKE_BZ_PAYLOAD 0x400	  /* and the payload in it */
#define FAKE_BZ_RELEASE "6.1.0-test"

/* `payload` with its size appended where Linux does so. */
static inline struct blob fake_bzimage(const struct blob *packed, enum unpack_format format,
				       uint64_t unpacked_len, uint64_t preferred,
				       uint32_t init_size)
{
	size_t extra = format == UNPACK_GZIP || format == UNPACK_NONE ? 0 : 4;
	size_t payload = packed->len + extra;
	size_t code = align_up(FAKE_BZ_PAYLOAD + payload, 16);
	struct blob b = blob_new(FAKE_BZ_CODE + code);
	uint8_t *f = b.data;

	f[0x1f1] = 4;
	le32_store(f + 0x1f4, (uint32_t)(code / 16));
	le16_store(f + 0x1fe, 0xaa55);
	f[0x200] = 0xeb;
	f[0x201] = 0x6a; /* header up to 0x26c */
	memcpy(f + 0x202, "HdrS", 4);
	le16_store(f + 0x206, 0x020f);
	le16_store(f + 0x20e, 0x100); /* 0x300 in the file */
	strcpy((char *)f + 0x300, FAKE_BZ_RELEASE " (who@where) #1 SMP");
	f[0x211] = 1;
	le32_store(f + 0x22c, 0x7fffffff);
	le32_store(f + 0x230, 0x200000);
	f[0x234] = 1;
	f[0x235] = 0x15;
	le16_store(f + 0x236, 1); /* XLF_KERNEL_64 */
	le32_store(f + 0x238, 2047);
	le32_store(f + 0x248, FAKE_BZ_PAYLOAD);
	le32_store(f + 0x24c, (uint32_t)payload);
	le64_store(f + 0x258, preferred);
	le32_store(f + 0x260, init_size);
	memset(f + FAKE_BZ_CODE, 0xcc, FAKE_BZ_PAYLOAD);
	memcpy(f + FAKE_BZ_CODE + FAKE_BZ_PAYLOAD, packed->data, packed->len);
	if (extra)
		le32_store(f + FAKE_BZ_CODE + FAKE_BZ_PAYLOAD + packed->len,
			   (uint32_t)unpacked_len);
	return b;
}

/* A bzImage of an ELF kernel. */
static inline struct blob fake_packed(const struct blob *elf, enum unpack_format format,
				      uint64_t preferred, uint32_t init_size)
{
	struct blob packed = pack(format, elf->data, elf->len);
	struct blob b = fake_bzimage(&packed, format, elf->len, preferred, init_size);

	free(packed.data);
	return b;
}

#endif
