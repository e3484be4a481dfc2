/* Header extensions and the name of the backing file. See disk/qcow2/header.h. */
#include "disk/qcow2/header.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A string of the image, which may hold anything: cut at its first zero. */
static int copy_string(char *to, size_t size, const uint8_t *from, uint32_t len, const char *what,
		       struct err *err)
{
	if (len >= size)
		return err_set(err, EINVAL, "%s has %u bytes; %zu are possible", what, len,
			       size - 1);
	memcpy(to, from, len);
	to[len] = 0;
	if (strlen(to) != len)
		return err_set(err, EINVAL, "%s holds a zero byte at %zu", what, strlen(to));
	return 0;
}

/* The name of the lowest incompatible bit that is not known: the image's own, else its number. */
static void name_unknown(struct q2_header *h, const uint8_t *table, uint32_t len)
{
	uint64_t unknown = h->incompatible & ~Q2_INCOMPAT_KNOWN;
	int bit = unknown ? __builtin_ctzll(unknown) : 0;

	if (!unknown)
		return;
	if (!h->unknown_feature[0])
		snprintf(h->unknown_feature, sizeof(h->unknown_feature), "bit %d", bit);
	for (uint32_t at = 0; table && len - at >= sizeof(struct q2_feature_disk);
	     at += sizeof(struct q2_feature_disk)) {
		struct q2_feature_disk f;

		memcpy(&f, table + at, sizeof(f));
		if (f.type == 0 && f.bit == bit) {
			snprintf(h->unknown_feature, sizeof(h->unknown_feature), "%.46s", f.name);
			return;
		}
	}
}

static int parse_one(struct q2_header *h, uint32_t type, const uint8_t *data, uint32_t len,
		     struct err *err)
{
	switch (type) {
	case Q2_EXT_BACKING_FORMAT:
		return copy_string(h->backing_format, sizeof(h->backing_format), data, len,
				   "the backing format", err);
	case Q2_EXT_DATA_FILE:
		return copy_string(h->data_file, sizeof(h->data_file), data, len,
				   "the name of the data file", err);
	case Q2_EXT_FEATURE_NAMES:
		name_unknown(h, data, len);
		return 0;
	default: /* kept as it is */
		return 0;
	}
}

static int parse_backing(struct q2_header *h, const uint8_t *first, struct err *err)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits;

	if (!h->backing_offset)
		return 0;
	if (h->backing_len > QCOW2_BACKING_NAME_MAX)
		return err_set(err, EINVAL, "backing_file_size is %u; %d are possible",
			       h->backing_len, QCOW2_BACKING_NAME_MAX);
	if (h->backing_offset < h->header_len ||
	    !ck_range(h->backing_offset, h->backing_len, cluster))
		return err_set(err, EINVAL,
			       "backing_file_offset is 0x%llx: the name of %u bytes is not within "
			       "the first cluster, behind the header",
			       (unsigned long long)h->backing_offset, h->backing_len);
	return copy_string(h->backing, sizeof(h->backing), first + h->backing_offset,
			   h->backing_len, "the name of the backing file", err);
}

int q2_header_parse_extensions(struct q2_header *h, const uint8_t *first, struct err *err)
{
	uint64_t end = UINT64_C(1) << h->cluster_bits, at = h->header_len;
	int r = parse_backing(h, first, err);

	if (r)
		return r;
	if (h->backing_offset)
		end = h->backing_offset;
	name_unknown(h, NULL, 0);
	while (end - at >= sizeof(struct q2_ext_disk)) {
		uint32_t type = be32_load(first + at), len = be32_load(first + at + 4);
		uint64_t room = end - at - sizeof(struct q2_ext_disk);

		if (type == Q2_EXT_END)
			break;
		if (len > room)
			return err_set(
			    err, EINVAL,
			    "header extension 0x%08x at 0x%llx is %u bytes long; there is "
			    "room for %llu",
			    type, (unsigned long long)at, len, (unsigned long long)room);
		r = parse_one(h, type, first + at + sizeof(struct q2_ext_disk), len, err);
		if (r)
			return r;
		at += sizeof(struct q2_ext_disk) + MIN(align_up(len, 8), room);
	}
	h->extensions_end = (uint32_t)at;
	return 0;
}

/* Appends an extension; false: no room. */
static bool put_ext(uint8_t *out, uint64_t size, uint64_t *at, uint32_t type, const void *data,
		    uint32_t len)
{
	uint64_t total = sizeof(struct q2_ext_disk) + align_up(len, 8);

	if (total > size - *at)
		return false;
	be32_store(out + *at, type);
	be32_store(out + *at + 4, len);
	if (len)
		memcpy(out + *at + sizeof(struct q2_ext_disk), data, len);
	*at += total;
	return true;
}

static bool copy_others(const struct q2_header *h, const uint8_t *first, uint8_t *out,
			uint64_t size, uint64_t *at)
{
	uint64_t from = h->header_len;

	while (from + sizeof(struct q2_ext_disk) <= h->extensions_end) {
		uint32_t type = be32_load(first + from), len = be32_load(first + from + 4);
		const uint8_t *data = first + from + sizeof(struct q2_ext_disk);

		if (type == Q2_EXT_END)
			break;
		if (type != Q2_EXT_BACKING_FORMAT && !put_ext(out, size, at, type, data, len))
			return false;
		from += sizeof(struct q2_ext_disk) + align_up(len, 8);
	}
	return true;
}

/* Everything behind the fixed part. */
static int rebuild(struct q2_header *h, const uint8_t *first, uint8_t *out, struct err *err)
{
	uint64_t size = UINT64_C(1) << h->cluster_bits, at = h->header_len;
	size_t name_len = strlen(h->backing), format_len = strlen(h->backing_format);

	if ((format_len && !put_ext(out, size, &at, Q2_EXT_BACKING_FORMAT, h->backing_format,
				    (uint32_t)format_len)) ||
	    !copy_others(h, first, out, size, &at))
		return err_set(err, ENOSPC, "its header extensions do not fit into one cluster");
	h->extensions_end = (uint32_t)at;
	if (!put_ext(out, size, &at, Q2_EXT_END, NULL, 0) || name_len > size - at)
		return err_set(
		    err, ENOSPC,
		    "the name of the backing file (%zu bytes) does not fit into the first "
		    "cluster; use a shorter one",
		    name_len);
	h->backing_offset = name_len ? at : 0;
	h->backing_len = (uint32_t)name_len;
	memcpy(out + at, h->backing, name_len);
	return 0;
}

int q2_header_rebuild(struct q2_header *h, uint8_t *first, struct err *err)
{
	uint64_t size = UINT64_C(1) << h->cluster_bits;
	uint8_t *out = calloc(1, size);
	int r;

	if (!out)
		return err_set(err, ENOMEM, "no memory");
	memcpy(out, first, h->header_len);
	r = rebuild(h, first, out, err);
	if (!r) {
		memcpy(first, out, size);
		q2_header_store(h, first);
	}
	free(out);
	return r;
}
