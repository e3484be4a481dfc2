/* The fixed part of the header. See disk/qcow2/header.h. */
#include "disk/qcow2/header.h"

#include <errno.h>
#include <string.h>

typedef unsigned long long ull;

/* A place in a data file has one bit less: see Q2_IN_DATA_FILE. */
#define DATA_FILE_BYTES_MAX (UINT64_C(1) << 54)

static int parse_v3(struct q2_header *h, const struct q2_header_disk *d, size_t len,
		    struct err *err)
{
	if (len < Q2_HEADER_V3_BYTES_MIN)
		return err_set(err, EINVAL, "the file ends after %zu bytes, within the header",
			       len);
	h->incompatible = be64_get(d->incompatible);
	h->compatible = be64_get(d->compatible);
	h->autoclear = be64_get(d->autoclear);
	h->refcount_order = be32_get(d->refcount_order);
	h->header_len = be32_get(d->header_len);
	if (h->header_len < Q2_HEADER_V3_BYTES_MIN || h->header_len % 8 ||
	    h->header_len > UINT32_C(1) << h->cluster_bits)
		return err_set(
		    err, EINVAL,
		    "header_length is %u; a multiple of 8 from %u to the cluster size is "
		    "possible",
		    h->header_len, Q2_HEADER_V3_BYTES_MIN);
	if (h->header_len > Q2_HEADER_V3_BYTES_MIN && len > Q2_HEADER_V3_BYTES_MIN)
		h->compression = d->compression_type;
	if (h->refcount_order > Q2_REFCOUNT_ORDER_MAX)
		return err_set(err, EINVAL, "refcount_order is %u; 0 to %u are possible",
			       h->refcount_order, Q2_REFCOUNT_ORDER_MAX);
	return 0;
}

int q2_header_parse(const void *buf, size_t len, struct q2_header *ret_header, struct err *err)
{
	struct q2_header_disk d = {0};
	struct q2_header h = {.refcount_order = 4, .header_len = Q2_HEADER_V2_BYTES};
	int r = 0;

	memcpy(&d, buf, MIN(len, sizeof(d)));
	if (len < 4 || be32_get(d.magic) != Q2_MAGIC)
		return err_set(err, EINVAL,
			       "is not a qcow2 image (it begins with 0x%08x, not 0x%08x)",
			       be32_get(d.magic), Q2_MAGIC);
	if (len < Q2_HEADER_V2_BYTES)
		return err_set(err, EINVAL, "the file ends after %zu bytes, within the header",
			       len);
	h.version = be32_get(d.version);
	if (h.version != 2 && h.version != 3)
		return err_set(err, ENOTSUP, "is qcow2 version %u; 2 and 3 are supported",
			       h.version);
	h.cluster_bits = be32_get(d.cluster_bits);
	if (h.cluster_bits < Q2_CLUSTER_BITS_MIN || h.cluster_bits > Q2_CLUSTER_BITS_MAX)
		return err_set(err, EINVAL, "cluster_bits is %u; %d to %d are possible",
			       h.cluster_bits, Q2_CLUSTER_BITS_MIN, Q2_CLUSTER_BITS_MAX);
	h.backing_offset = be64_get(d.backing_offset);
	h.backing_len = be32_get(d.backing_len);
	h.size_bytes = be64_get(d.size);
	h.crypt_method = be32_get(d.crypt_method);
	h.l1_entries = be32_get(d.l1_entries);
	h.l1_offset = be64_get(d.l1_offset);
	h.reftable_offset = be64_get(d.reftable_offset);
	h.reftable_clusters = be32_get(d.reftable_clusters);
	h.snapshots = be32_get(d.snapshots);
	h.snapshots_offset = be64_get(d.snapshots_offset);
	if (h.version == 3)
		r = parse_v3(&h, &d, len, err);
	if (!r)
		*ret_header = h;
	return r;
}

bool q2_header_l1_needed(unsigned cluster_bits, bool extl2, uint64_t size_bytes,
			 uint64_t *ret_entries)
{
	unsigned bits = 2 * cluster_bits - (extl2 ? 4 : 3); /* of what one L2 table maps */
	uint64_t n;

	if (size_bytes > INT64_MAX)
		return false;
	n = (size_bytes >> bits) + !!(size_bytes & ((UINT64_C(1) << bits) - 1));
	if (n > Q2_L1_BYTES_MAX / 8)
		return false;
	*ret_entries = n;
	return true;
}

static int check_data_file(const struct q2_header *h, bool has_data, struct err *err)
{
	bool external = h->incompatible & Q2_INCOMPAT_DATA_FILE;

	if (external && !has_data)
		return err_set(
		    err, ENOTSUP,
		    "keeps its data in an external file, which it calls '%s'; state where "
		    "that is with data_file=PATH",
		    h->data_file);
	if (external && h->size_bytes > DATA_FILE_BYTES_MAX)
		return err_set(err, ENOTSUP,
			       "size is %llu; with an external data file %llu are possible",
			       (ull)h->size_bytes, (ull)DATA_FILE_BYTES_MAX);
	if (external && h->snapshots)
		return err_set(err, ENOTSUP,
			       "has %u internal snapshots and an external data file, which is not "
			       "supported",
			       h->snapshots);
	return 0;
}

static int check_features(const struct q2_header *h, struct err *err)
{
	bool has_compression = h->incompatible & Q2_INCOMPAT_COMPRESSION;

	if (h->incompatible & ~Q2_INCOMPAT_KNOWN)
		return err_set(
		    err, ENOTSUP,
		    "needs the feature '%s' (incompatible features 0x%llx), which is not "
		    "supported",
		    h->unknown_feature, (ull)h->incompatible);
	if (h->crypt_method)
		return err_set(err, ENOTSUP,
			       "is encrypted (crypt_method %u), which is not supported; convert it "
			       "with qemu-img",
			       h->crypt_method);
	if (has_compression != (h->compression != Q2_COMPRESSION_ZLIB))
		return err_set(err, EINVAL, "compression_type is %u while its feature bit is %d",
			       h->compression, has_compression);
	if (h->compression > Q2_COMPRESSION_ZSTD)
		return err_set(err, ENOTSUP, "compression_type %u is not supported",
			       h->compression);
	if (h->incompatible & Q2_INCOMPAT_EXTL2 && h->cluster_bits < Q2_CLUSTER_BITS_EXTL2_MIN)
		return err_set(err, EINVAL, "cluster_bits is %u; extended L2 entries need %d",
			       h->cluster_bits, Q2_CLUSTER_BITS_EXTL2_MIN);
	return 0;
}

/* A table of the file: its offset on a cluster, all of it within the file. */
static int check_table(const struct q2_header *h, const char *name, uint64_t offset, uint64_t len,
		       uint64_t file_bytes, struct err *err)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits;

	if (!is_aligned(offset, cluster))
		return err_set(err, EINVAL,
			       "%s_offset is 0x%llx, which is not on a cluster of %llu", name,
			       (ull)offset, (ull)cluster);
	if (len && !offset)
		return err_set(err, EINVAL, "%s_offset is 0, which is the header's", name);
	if (!ck_range(offset, len, file_bytes))
		return err_set(err, EINVAL,
			       "%s_offset is 0x%llx: its %llu bytes go past the end of the file at "
			       "0x%llx",
			       name, (ull)offset, (ull)len, (ull)file_bytes);
	return 0;
}

int q2_header_check(const struct q2_header *h, uint64_t file_bytes, bool has_data, struct err *err)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits, needed;
	int r = check_features(h, err);

	if (!r)
		r = check_data_file(h, has_data, err);
	if (r)
		return r;
	if (!q2_header_l1_needed(h->cluster_bits, h->incompatible & Q2_INCOMPAT_EXTL2,
				 h->size_bytes, &needed))
		return err_set(err, EINVAL, "size is %llu, more than clusters of %llu can address",
			       (ull)h->size_bytes, (ull)cluster);
	if (h->l1_entries > Q2_L1_BYTES_MAX / 8)
		return err_set(err, EINVAL, "l1_size is %u entries; %llu are possible",
			       h->l1_entries, (ull)(Q2_L1_BYTES_MAX / 8));
	if (h->l1_entries < needed)
		return err_set(err, EINVAL,
			       "l1_size is %u entries; a disk of %llu bytes needs %llu",
			       h->l1_entries, (ull)h->size_bytes, (ull)needed);
	if (!h->reftable_clusters ||
	    h->reftable_clusters > Q2_REFTABLE_BYTES_MAX >> h->cluster_bits)
		return err_set(err, EINVAL, "refcount_table_clusters is %u; 1 to %llu are possible",
			       h->reftable_clusters,
			       (ull)(Q2_REFTABLE_BYTES_MAX >> h->cluster_bits));
	if (h->snapshots > Q2_SNAPSHOTS_MAX)
		return err_set(err, EINVAL, "nb_snapshots is %u; %u are possible", h->snapshots,
			       Q2_SNAPSHOTS_MAX);
	r = check_table(h, "l1_table", h->l1_offset, (uint64_t)h->l1_entries * 8, file_bytes, err);
	/* a refcount table's last cluster may be cut like that of any other table: only its start
	 */
	if (!r)
		r = check_table(h, "refcount_table", h->reftable_offset, 8, file_bytes, err);
	if (!r)
		r = check_table(h, "snapshots", h->snapshots_offset,
				(uint64_t)h->snapshots * sizeof(struct q2_snapshot_disk),
				file_bytes, err);
	return r;
}

void q2_header_store(const struct q2_header *h, uint8_t *first)
{
	struct q2_header_disk d;

	memcpy(&d, first, sizeof(d));
	d.backing_offset = be64_put(h->backing_offset);
	d.backing_len = be32_put(h->backing_len);
	d.size = be64_put(h->size_bytes);
	d.l1_entries = be32_put(h->l1_entries);
	d.l1_offset = be64_put(h->l1_offset);
	d.reftable_offset = be64_put(h->reftable_offset);
	d.reftable_clusters = be32_put(h->reftable_clusters);
	if (h->version == 2) {
		memcpy(first, &d, Q2_HEADER_V2_BYTES);
		return;
	}
	d.incompatible = be64_put(h->incompatible);
	d.compatible = be64_put(h->compatible);
	d.autoclear = be64_put(h->autoclear);
	memcpy(first, &d, Q2_HEADER_V3_BYTES_MIN);
}
