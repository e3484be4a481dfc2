/*
 * The header of a qcow2 image and its extensions: read, validated, written.
 *
 * Pure: works on the first cluster in memory.
 */
#ifndef DISK_QCOW2_HEADER_H
#define DISK_QCOW2_HEADER_H

#include "base/err.h"
#include "disk/qcow2/qcow2.h"
#include "disk/qcow2/qcow2_format.h"

struct q2_header {
	unsigned version;
	unsigned cluster_bits;
	uint64_t size_bytes;
	uint32_t crypt_method;
	uint32_t l1_entries;
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint32_t snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	unsigned refcount_order;
	uint32_t header_len;
	uint8_t compression;

	uint64_t backing_offset;
	uint32_t backing_len;
	char backing[QCOW2_BACKING_NAME_MAX + 1]; /* "": none */
	char backing_format[QCOW2_FORMAT_NAME_MAX + 1];
	char data_file[QCOW2_BACKING_NAME_MAX + 1];

	/* first feature bit that this program does not know, as the image calls it */
	char unknown_feature[48];
	uint32_t extensions_end; /* offset behind the last extension but the end mark */
};

/*
 * Reads the fixed part: `len` bytes from the start of the file, at least 512 or the whole file.
 * Says what does not belong into any image (-EINVAL), not what is merely unsupported.
 */
int q2_header_parse(const void *buf, size_t len, struct q2_header *ret_header, struct err *err);

/* Reads extensions and the backing name; `first` is the whole first cluster. */
int q2_header_parse_extensions(struct q2_header *h, const uint8_t *first, struct err *err);

/* Is this image one that can be used? -ENOTSUP names the feature; -EINVAL: a table beyond its limit
 * or outside the file, which is `file_bytes` long. `has_data`: where its data file is, is known. */
int q2_header_check(const struct q2_header *h, uint64_t file_bytes, bool has_data, struct err *err);

/* Puts the fields that change while an image is in use into `first`. */
void q2_header_store(const struct q2_header *h, uint8_t *first);

/*
 * Writes extensions and the backing name anew behind the fixed part; all other extensions in
 * `first` are kept. -ENOSPC: they do not fit into the first cluster.
 */
int q2_header_rebuild(struct q2_header *h, uint8_t *first, struct err *err);

/* L1 entries that a disk of this size needs; false: more than the limit. */
bool q2_header_l1_needed(unsigned cluster_bits, bool extl2, uint64_t size_bytes,
			 uint64_t *ret_entries);

#endif
