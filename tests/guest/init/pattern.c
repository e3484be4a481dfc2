/*
 * The pattern of test disks. See pattern.h.
 */
#include "pattern.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

#define GENERATION_SHIFT 40
#define SECTOR_MASK	 ((UINT64_C(1) << GENERATION_SHIFT) - 1)

static unsigned char table[1024];
static const unsigned char zeroes[SECTOR];

__attribute__((constructor)) static void table_make(void)
{
	uint32_t x = 1;

	for (size_t i = 0; i < sizeof(table); i++) {
		x = x * 1103515245u + 12345u;
		table[i] = (unsigned char)(x >> 16);
	}
}

static const unsigned char *table_at(uint64_t tag)
{
	return table + ((tag & SECTOR_MASK) * 7 + (tag >> GENERATION_SHIFT) * 3) % 512;
}

uint64_t pattern_tag(uint64_t sector, uint32_t generation)
{
	return (uint64_t)generation << GENERATION_SHIFT | sector;
}

void pattern_fill(void *buf, uint64_t tag)
{
	uint64_t wire = htole64(tag);

	if (!tag) {
		memset(buf, 0, SECTOR);
		return;
	}
	memcpy(buf, &wire, sizeof(wire));
	memcpy((unsigned char *)buf + sizeof(wire), table_at(tag), SECTOR - sizeof(wire));
}

uint64_t pattern_read(const void *buf)
{
	uint64_t tag;

	memcpy(&tag, buf, sizeof(tag));
	tag = le64toh(tag);
	if (!tag)
		return memcmp(buf, zeroes, SECTOR) ? PATTERN_NOTHING : 0;
	if (memcmp((const unsigned char *)buf + sizeof(tag), table_at(tag), SECTOR - sizeof(tag)))
		return PATTERN_NOTHING;
	return tag;
}
