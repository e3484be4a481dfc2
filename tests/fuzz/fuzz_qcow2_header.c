/*
 * qcow2: the header and its extensions, read, checked, written anew and read again.
 *
 * Input: the first cluster.
 */
#include "base/checked.h"
#include "disk/qcow2/header.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What is rewritten reads as what was to be written. */
static void rewrite(struct q2_header h, uint8_t *first)
{
	struct q2_header again;
	struct err err = ERR_INIT;

	memcpy(h.backing, "x.qcow2", 8);
	memcpy(h.backing_format, "qcow2", 6);
	if (q2_header_rebuild(&h, first, &err))
		return;
	assert(!q2_header_parse(first, (size_t)MIN(UINT64_C(512), UINT64_C(1) << h.cluster_bits),
				&again, &err));
	assert(!q2_header_parse_extensions(&again, first, &err));
	assert(!strcmp(again.backing, h.backing) &&
	       !strcmp(again.backing_format, h.backing_format));
	assert(!strcmp(again.data_file, h.data_file));
	assert(again.size_bytes == h.size_bytes && again.l1_offset == h.l1_offset);
	assert(again.incompatible == h.incompatible && again.autoclear == h.autoclear);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct q2_header h;
	struct err err = ERR_INIT;
	uint8_t *first;

	if (q2_header_parse(data, MIN(size, (size_t)512), &h, &err))
		return 0;
	if (h.cluster_bits > 16) /* no more than that is filled */
		return 0;
	first = calloc(1, (size_t)1 << h.cluster_bits);
	memcpy(first, data, MIN(size, (size_t)1 << h.cluster_bits));
	if (!q2_header_parse_extensions(&h, first, &err)) {
		(void)q2_header_check(&h, UINT64_C(1) << 30, size & 1, &err);
		rewrite(h, first);
	}
	free(first);
	return 0;
}
