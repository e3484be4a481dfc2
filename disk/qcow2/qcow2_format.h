/*
 * qcow2 on disk (QEMU docs/interop/qcow2, versions 2 and 3). All integers are big-endian.
 *
 * Header
 *   offset  size  meaning
 *        0     4  magic "QFI\xfb"
 *        4     4  version, 2 or 3
 *        8     8  offset of the backing file's name, 0: no backing file
 *       16     4  length of that name
 *       20     4  cluster_bits, 9..21
 *       24     8  size of the disk in bytes
 *       32     4  encryption method, 0: none
 *       36     4  entries of the L1 table
 *       40     8  offset of the L1 table
 *       48     8  offset of the refcount table
 *       56     4  clusters of the refcount table
 *       60     4  number of snapshots
 *       64     8  offset of the snapshot table
 *     version 3 only
 *       72     8  incompatible features
 *       80     8  compatible features
 *       88     8  autoclear features
 *       96     4  refcount_order: a refcount has 1 << this bits, 0..6
 *      100     4  length of the header, at least 104, a multiple of 8
 *      104     1  compression type, where the header is that long
 *      105     7  zero
 * Extensions follow: type (4), length (4), data padded to 8; the last has type 0.
 *
 * L1 entry                                L2 entry, standard cluster
 *    0-8   0                                  0      reads as zeroes (version 3, not extended)
 *    9-55  offset of the L2 table, 0: none    9-55   offset of the cluster, 0: none
 *   63     its refcount is exactly 1         62      0
 *                                            63      its refcount is exactly 1
 * L2 entry, compressed cluster; x = 62 - (cluster_bits - 8)
 *    0-x-1 offset of the data, any byte       x-61   512-byte sectors it goes on for, less 1
 *   62     1                                 63      0
 * Extended L2: a second word follows each entry
 *    0-31  subcluster n is allocated         32-63   subcluster n - 32 reads as zeroes
 *
 * Refcount table entry: bits 9-63, offset of the refcount block. A refcount block is one cluster of
 * refcounts; those of less than 8 bits fill each byte from its least significant bit.
 */
#ifndef DISK_QCOW2_QCOW2_FORMAT_H
#define DISK_QCOW2_QCOW2_FORMAT_H

#include "base/bytes.h"
#include "base/checked.h"

#include <stddef.h>

#define Q2_MAGIC 0x514649fbu

struct q2_header_disk {
	struct be32 magic;
	struct be32 version;
	struct be64 backing_offset;
	struct be32 backing_len;
	struct be32 cluster_bits;
	struct be64 size;
	struct be32 crypt_method;
	struct be32 l1_entries;
	struct be64 l1_offset;
	struct be64 reftable_offset;
	struct be32 reftable_clusters;
	struct be32 snapshots;
	struct be64 snapshots_offset;
	struct be64 incompatible;
	struct be64 compatible;
	struct be64 autoclear;
	struct be32 refcount_order;
	struct be32 header_len;
	uint8_t compression_type;
	uint8_t padding[7];
};

#define Q2_HEADER_V2_BYTES     72
#define Q2_HEADER_V3_BYTES_MIN 104

_Static_assert(sizeof(struct q2_header_disk) == 112, "header");
_Static_assert(offsetof(struct q2_header_disk, incompatible) == Q2_HEADER_V2_BYTES, "header, v2");
_Static_assert(offsetof(struct q2_header_disk, l1_offset) == 40, "header, l1_offset");
_Static_assert(offsetof(struct q2_header_disk, compression_type) == Q2_HEADER_V3_BYTES_MIN,
	       "header, v3");

#define Q2_INCOMPAT_DIRTY	(UINT64_C(1) << 0)
#define Q2_INCOMPAT_CORRUPT	(UINT64_C(1) << 1)
#define Q2_INCOMPAT_DATA_FILE	(UINT64_C(1) << 2)
#define Q2_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define Q2_INCOMPAT_EXTL2	(UINT64_C(1) << 4)
#define Q2_INCOMPAT_KNOWN	UINT64_C(0x1f)

#define Q2_COMPAT_LAZY_REFCOUNTS (UINT64_C(1) << 0)

#define Q2_AUTOCLEAR_BITMAPS  (UINT64_C(1) << 0)
#define Q2_AUTOCLEAR_RAW_DATA (UINT64_C(1) << 1) /* the data file alone is the disk, too */

#define Q2_COMPRESSION_ZLIB 0
#define Q2_COMPRESSION_ZSTD 1

struct q2_ext_disk {
	struct be32 type;
	struct be32 len;
};
_Static_assert(sizeof(struct q2_ext_disk) == 8, "extension");

#define Q2_EXT_END	      0u
#define Q2_EXT_BACKING_FORMAT 0xe2792acau
#define Q2_EXT_FEATURE_NAMES  0x6803f857u
#define Q2_EXT_BITMAPS	      0x23852875u
#define Q2_EXT_LUKS	      0x0537be77u
#define Q2_EXT_DATA_FILE      0x44415441u

/* An entry of the feature name table. */
struct q2_feature_disk {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	char name[46]; /* padded with zeroes, not terminated when full */
};
_Static_assert(sizeof(struct q2_feature_disk) == 48, "feature name");

/* Entry of the snapshot table; then extra data, ID and name, padded to 8. */
struct q2_snapshot_disk {
	struct be64 l1_offset;
	struct be32 l1_entries;
	struct be16 id_len;
	struct be16 name_len;
	struct be32 date_sec;
	struct be32 date_nsec;
	struct be64 vm_clock_ns;
	struct be32 vm_state_bytes;
	struct be32
	    extra_len; /* 8: size of the VM state in 64 bits; 16: and the size of the disk */
};
_Static_assert(sizeof(struct q2_snapshot_disk) == 40, "snapshot");

#define Q2_CLUSTER_BITS_MIN 9
#define Q2_CLUSTER_BITS_MAX 21
/* A subcluster, one 32nd of a cluster, has one sector at least. */
#define Q2_CLUSTER_BITS_EXTL2_MIN 14
#define Q2_SUBCLUSTERS		  32
#define Q2_REFCOUNT_ORDER_MAX	  6

/* QEMU's limits, so that what it made opens here and the reverse: 2 EiB at 2 MiB clusters. */
#define Q2_L1_BYTES_MAX	      (32 * MIB)
#define Q2_REFTABLE_BYTES_MAX (8 * MIB)
#define Q2_SNAPSHOTS_MAX      65536u
/* Of one snapshot's extra data and of the whole table (QEMU's: 1 KiB each for 64 Ki snapshots) */
#define Q2_SNAPSHOT_EXTRA_MAX 1024u
#define Q2_SNAPSHOT_TABLE_MAX (64 * MIB)

#define Q2_COPIED	UINT64_C(0x8000000000000000)
#define Q2_COMPRESSED	UINT64_C(0x4000000000000000)
#define Q2_L2_ZERO	UINT64_C(1)
#define Q2_OFFSET_MASK	UINT64_C(0x00fffffffffffe00)
#define Q2_L1_RESERVED	UINT64_C(0x7f000000000001ff)
#define Q2_L2_RESERVED	UINT64_C(0x3f000000000001fe)
#define Q2_REF_RESERVED UINT64_C(0x1ff)

/* A compressed cluster's size is in these units, its offset in bytes. */
#define Q2_COMPRESSED_SECTOR 512u

#endif
