#include "vmm/x86/aml.h"
#include "base/bytes.h"

#include <assert.h>
#include <string.h>

/* Opcodes, ACPI 6.4 §20.3 */
#define OP_ZERO	      0x00
#define OP_ONE	      0x01
#define OP_NAME	      0x08
#define OP_BYTE	      0x0a
#define OP_WORD	      0x0b
#define OP_DWORD      0x0c
#define OP_STRING     0x0d
#define OP_QWORD      0x0e
#define OP_SCOPE      0x10
#define OP_BUFFER     0x11
#define OP_PACKAGE    0x12
#define OP_METHOD     0x14
#define OP_EXT	      0x5b
#define OP_EXT_REGION 0x80
#define OP_EXT_FIELD  0x81
#define OP_EXT_DEVICE 0x82
#define OP_ROOT	      0x5c
#define OP_LOCAL0     0x60
#define OP_STORE      0x70
#define OP_AND	      0x7b
#define OP_NOTIFY     0x86
#define OP_IF	      0xa0

#define METHOD_SERIALIZED 0x08
#define REGION_SYSTEM_IO  1
#define FIELD_BYTE_ACCESS 1

#define PKG_LENGTH_MAX 4 /* bytes that a block's length takes at most */

void aml_init(struct aml *aml, void *buf, size_t cap)
{
	*aml = (struct aml){.buf = buf, .cap = cap};
}

static void put(struct aml *aml, const void *bytes, size_t len)
{
	if (len > aml->cap - aml->len) {
		aml->overflow = true;
		return;
	}
	memcpy(aml->buf + aml->len, bytes, len);
	aml->len += len;
}

static void put8(struct aml *aml, uint8_t byte)
{
	put(aml, &byte, 1);
}

static void put_name(struct aml *aml, const char *name)
{
	assert(strlen(name) == 4);
	put(aml, name, 4);
}

/* §20.2.4: up to 63 in one byte; else the low nibble in the first and whole bytes after it. The
 * length counts its own bytes. */
static size_t pkg_length(size_t body, uint8_t ret_bytes[PKG_LENGTH_MAX])
{
	size_t n, total;

	if (body + 1 < 1u << 6) {
		ret_bytes[0] = (uint8_t)(body + 1);
		return 1;
	}
	for (n = 2; n < PKG_LENGTH_MAX && body + n >= (size_t)1 << (4 + 8 * (n - 1)); n++)
		;
	total = body + n;
	ret_bytes[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
	for (size_t i = 1; i < n; i++)
		ret_bytes[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
	return n;
}

static void begin(struct aml *aml)
{
	assert(aml->depth < AML_DEPTH_MAX);
	aml->open[aml->depth++] = aml->len;
}

void aml_end(struct aml *aml)
{
	uint8_t bytes[PKG_LENGTH_MAX];
	size_t start, body, n;

	assert(aml->depth > 0);
	start = aml->open[--aml->depth];
	body = aml->len - start;
	n = pkg_length(body, bytes);
	if (n > aml->cap - aml->len) {
		aml->overflow = true;
		return;
	}
	memmove(aml->buf + start + n, aml->buf + start, body);
	memcpy(aml->buf + start, bytes, n);
	aml->len += n;
}

/* ---- blocks ---- */

void aml_scope_sb(struct aml *aml)
{
	put8(aml, OP_SCOPE);
	begin(aml);
	put8(aml, OP_ROOT);
	put_name(aml, "_SB_");
}

void aml_device(struct aml *aml, const char *name)
{
	put8(aml, OP_EXT);
	put8(aml, OP_EXT_DEVICE);
	begin(aml);
	put_name(aml, name);
}

void aml_method(struct aml *aml, const char *name, unsigned nargs)
{
	put8(aml, OP_METHOD);
	begin(aml);
	put_name(aml, name);
	put8(aml, (uint8_t)(nargs | METHOD_SERIALIZED));
}

void aml_if_local0_bit(struct aml *aml, uint8_t mask)
{
	put8(aml, OP_IF);
	begin(aml);
	put8(aml, OP_AND);
	put8(aml, OP_LOCAL0);
	aml_int(aml, mask);
	put8(aml, OP_ZERO); /* no target */
}

void aml_package(struct aml *aml, const char *name, uint8_t elements)
{
	put8(aml, OP_NAME);
	put_name(aml, name);
	put8(aml, OP_PACKAGE);
	begin(aml);
	put8(aml, elements);
}

/* ---- terms ---- */

void aml_int(struct aml *aml, uint64_t value)
{
	uint8_t le[8];

	le64_store(le, value);
	if (value <= 1) {
		put8(aml, value ? OP_ONE : OP_ZERO);
	} else if (value <= UINT8_MAX) {
		put8(aml, OP_BYTE);
		put(aml, le, 1);
	} else if (value <= UINT16_MAX) {
		put8(aml, OP_WORD);
		put(aml, le, 2);
	} else if (value <= UINT32_MAX) {
		put8(aml, OP_DWORD);
		put(aml, le, 4);
	} else {
		put8(aml, OP_QWORD);
		put(aml, le, 8);
	}
}

void aml_name_int(struct aml *aml, const char *name, uint64_t value)
{
	put8(aml, OP_NAME);
	put_name(aml, name);
	aml_int(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *text)
{
	put8(aml, OP_NAME);
	put_name(aml, name);
	put8(aml, OP_STRING);
	put(aml, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

void aml_name_eisaid(struct aml *aml, const char *name, const char *id)
{
	uint32_t v = 0;
	uint8_t be[4];

	assert(strlen(id) == 7);
	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	be32_store(be, v);
	put8(aml, OP_NAME);
	put_name(aml, name);
	put8(aml, OP_DWORD);
	put(aml, be, sizeof(be));
}

void aml_io_byte(struct aml *aml, const char *region, const char *field, uint16_t port)
{
	put8(aml, OP_EXT);
	put8(aml, OP_EXT_REGION);
	put_name(aml, region);
	put8(aml, REGION_SYSTEM_IO);
	aml_int(aml, port);
	aml_int(aml, 1);

	put8(aml, OP_EXT);
	put8(aml, OP_EXT_FIELD);
	begin(aml);
	put_name(aml, region);
	put8(aml, FIELD_BYTE_ACCESS);
	put_name(aml, field);
	put8(aml, 8); /* bits */
	aml_end(aml);
}

void aml_local0_from(struct aml *aml, const char *field)
{
	put8(aml, OP_STORE);
	put_name(aml, field);
	put8(aml, OP_LOCAL0);
}

void aml_notify(struct aml *aml, const char *device, uint8_t value)
{
	put8(aml, OP_NOTIFY);
	put_name(aml, device);
	aml_int(aml, value);
}

/* ---- resources ---- */

/* Descriptor tags, §6.4.2 and §6.4.3 */
#define CRS_IO	  0x47
#define CRS_END	  0x79
#define CRS_MEM32 0x86
#define CRS_DWORD 0x87
#define CRS_WORD  0x88
#define CRS_IRQ	  0x89
#define CRS_QWORD 0x8a

#define IRQ_CONSUMER 0x01
#define IRQ_EDGE     0x02
#define IRQ_SHARED   0x08

/* Address space descriptors: resource type, general and type-specific flags */
#define SPACE_MEMORY	 0
#define SPACE_BUS	 2
#define SPACE_FIXED	 0x0c /* both ends fixed; produced for devices below */
#define SPACE_READ_WRITE 0x01

static void crs_put(struct aml_crs *crs, uint64_t value, unsigned bytes)
{
	uint8_t le[8];

	if (bytes > sizeof(crs->bytes) - crs->len) {
		crs->overflow = true;
		return;
	}
	le64_store(le, value);
	memcpy(crs->bytes + crs->len, le, bytes);
	crs->len += bytes;
}

void aml_crs_io(struct aml_crs *crs, uint16_t base, uint8_t len)
{
	crs_put(crs, CRS_IO, 1);
	crs_put(crs, 1, 1); /* decodes 16 bits */
	crs_put(crs, base, 2);
	crs_put(crs, base, 2);
	crs_put(crs, 1, 1); /* alignment */
	crs_put(crs, len, 1);
}

void aml_crs_irq(struct aml_crs *crs, uint32_t gsi, bool shared)
{
	crs_put(crs, CRS_IRQ, 1);
	crs_put(crs, 6, 2);
	crs_put(crs, IRQ_CONSUMER | IRQ_EDGE | (shared ? IRQ_SHARED : 0), 1);
	crs_put(crs, 1, 1);
	crs_put(crs, gsi, 4);
}

void aml_crs_mem32(struct aml_crs *crs, uint32_t base, uint32_t len)
{
	crs_put(crs, CRS_MEM32, 1);
	crs_put(crs, 9, 2);
	crs_put(crs, 1, 1); /* writable */
	crs_put(crs, base, 4);
	crs_put(crs, len, 4);
}

/* Granularity, minimum, maximum, translation and length, each of `width` bytes. */
static void crs_space(struct aml_crs *crs, uint8_t tag, unsigned width, uint8_t type, uint8_t flags,
		      uint64_t base, uint64_t len)
{
	crs_put(crs, tag, 1);
	crs_put(crs, 3 + 5 * width, 2);
	crs_put(crs, type, 1);
	crs_put(crs, SPACE_FIXED, 1);
	crs_put(crs, flags, 1);
	crs_put(crs, 0, width);
	crs_put(crs, base, width);
	crs_put(crs, base + len - 1, width);
	crs_put(crs, 0, width);
	crs_put(crs, len, width);
}

void aml_crs_bus_window(struct aml_crs *crs, uint16_t first, uint16_t last)
{
	crs_space(crs, CRS_WORD, 2, SPACE_BUS, 0, first, last - first + 1u);
}

void aml_crs_mem_window(struct aml_crs *crs, uint64_t base, uint64_t len)
{
	bool wide = base + len - 1 > UINT32_MAX;

	crs_space(crs, wide ? CRS_QWORD : CRS_DWORD, wide ? 8 : 4, SPACE_MEMORY, SPACE_READ_WRITE,
		  base, len);
}

void aml_name_crs(struct aml *aml, const struct aml_crs *crs)
{
	put8(aml, OP_NAME);
	put_name(aml, "_CRS");
	put8(aml, OP_BUFFER);
	begin(aml);
	aml_int(aml, crs->len + 2);
	put(aml, crs->bytes, crs->len);
	put8(aml, CRS_END);
	put8(aml, 0); /* no checksum */
	aml_end(aml);
	if (crs->overflow)
		aml->overflow = true;
}
