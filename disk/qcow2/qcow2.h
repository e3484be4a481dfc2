/*
 * qcow2 images (QEMU docs/interop/qcow2): what tools do with them besides reading and writing,
 * which go through disk/image.h.
 *
 * All functions are synchronous. Those that take a path open the file themselves, without its
 * backing files, and lock it: exclusively where they change it, shared where they only look. A file
 * that is malformed is never changed; the message names the field and its value. Messages name the
 * path.
 *
 * Common errors: -ENOENT, -EACCES, -EAGAIN (locked by another process); -EINVAL (malformed, or the
 * request is impossible); -ENOTSUP (a feature that is not supported, named); -EIO, -ENOSPC,
 * -ENOMEM.
 *
 * Threads: any; one call at a time for one file.
 */
#ifndef DISK_QCOW2_QCOW2_H
#define DISK_QCOW2_QCOW2_H

#include "disk/image.h"
#include "disk/tool_progress.h"

#define QCOW2_CLUSTER_BYTES_MIN	    512u
#define QCOW2_CLUSTER_BYTES_MAX	    (2u << 20)
#define QCOW2_CLUSTER_BYTES_DEFAULT (64u << 10)

/* The longest name of a backing file, without a terminator (QEMU's limit). */
#define QCOW2_BACKING_NAME_MAX 1023

/* Format names in the header extension: "raw", "qcow2", or what another program wrote. */
#define QCOW2_FORMAT_NAME_MAX 15

/* L2 tables of 128 GiB at 64 KiB clusters; memory is taken from the host as it is used. */
#define QCOW2_CACHE_BYTES_DEFAULT (16u << 20)

enum qcow2_prealloc {
	QCOW2_PREALLOC_OFF,	 /* nothing: the file grows as it is written */
	QCOW2_PREALLOC_METADATA, /* all clusters mapped, their space left sparse */
	QCOW2_PREALLOC_FALLOC,	 /* and allocated by the host */
	QCOW2_PREALLOC_FULL,	 /* and written with zeroes */
};

/* "off", "metadata", "falloc", "full"; -EINVAL for any other name. */
int qcow2_prealloc_parse(const char *name, enum qcow2_prealloc *ret_prealloc);
const char *qcow2_prealloc_name(enum qcow2_prealloc prealloc);

enum qcow2_compression {
	QCOW2_ZLIB,
	QCOW2_ZSTD,
};

/* "zlib", "zstd"; -EINVAL for any other name. */
int qcow2_compression_parse(const char *name, enum qcow2_compression *ret_type);
const char *qcow2_compression_name(enum qcow2_compression type);

/* ---- create ---- */

struct qcow2_create_opts {
	const char *path; /* must not exist yet, but for `into_empty` */
	bool into_empty;  /* an empty file that is the caller's: it stays when this fails */
	uint64_t
	    size_bytes; /* rounded up to whole sectors; 0 with `backing_path`: as large as that */
	bool has_size;	/* false: take the backing file's */
	uint32_t cluster_bytes; /* power of two, 512 to 2 MiB; 0: 64 KiB */
	unsigned version;	/* 2 (compat 0.10) or 3 (compat 1.1); 0: 3 */
	unsigned refcount_bits; /* 1, 2, 4 ... 64; 0: 16. Version 2 has only 16 */
	bool extended_l2;	/* subclusters; version 3, clusters of 16 KiB at least */
	bool lazy_refcounts;	/* version 3 */
	enum qcow2_compression compression; /* zstd: version 3 */
	enum qcow2_prealloc prealloc;	    /* not with a backing file */
	const char *backing_path;   /* stored as it is; relative to the new image. NULL: none */
	const char *backing_format; /* "raw" or "qcow2"; needed with backing_path */
	/* Do not look at the backing file (it may not exist yet); then `size_bytes` is needed. */
	bool backing_unchecked;
	const struct tool_progress *progress; /* of the preallocation, in bytes; may be NULL */
};

/*
 * Makes the image durable under `path`, which is removed again when this fails. -EEXIST: there is a
 * file already; -EFBIG: more than this cluster size can address.
 */
int qcow2_create(const struct qcow2_create_opts *opts, struct err *err);

/* ---- info ---- */

struct qcow2_info {
	unsigned version;
	uint64_t size_bytes;
	uint64_t file_bytes;	  /* length of the file */
	uint64_t allocated_bytes; /* space that the host has given to it */
	uint32_t cluster_bytes;
	unsigned refcount_bits;
	bool extended_l2;
	bool lazy_refcounts;
	bool dirty;   /* refcounts may be wrong: set right when opened for writing, or by check */
	bool corrupt; /* not opened for writing before it is repaired */
	bool encrypted;
	bool has_data_file;
	bool has_bitmaps;
	enum qcow2_compression compression;
	uint64_t incompatible_features, compatible_features, autoclear_features;
	bool has_backing;
	char backing_path[QCOW2_BACKING_NAME_MAX + 1];
	char backing_format[QCOW2_FORMAT_NAME_MAX + 1]; /* "": not stated */
	char data_file[QCOW2_BACKING_NAME_MAX + 1];
	unsigned snapshots;
};

/* Facts of the header alone, without a lock: of an image that a machine uses, too. Unsupported
 * features are told, not refused. */
int qcow2_info(const char *path, struct qcow2_info *ret_info, struct err *err);

/* ---- snapshots ---- */

#define QCOW2_SNAPSHOT_NAME_MAX 255

struct qcow2_snapshot {
	char id[QCOW2_SNAPSHOT_NAME_MAX + 1];
	char name[QCOW2_SNAPSHOT_NAME_MAX + 1];
	uint64_t size_bytes;	 /* of the disk then */
	uint64_t vm_state_bytes; /* 0: of the disk only */
	uint64_t vm_clock_ns;
	uint32_t date_sec, date_nsec; /* since 1970 */
};

/* The list is the caller's to free(); NULL with 0 entries. */
int qcow2_snapshot_list(const char *path, struct qcow2_snapshot **ret_list, unsigned *ret_count,
			struct err *err);

/* ---- check ---- */

#define QCOW2_REPAIR_LEAKS (1u << 0) /* give back clusters that nothing uses */
#define QCOW2_REPAIR_ALL   (1u << 1) /* and set right refcounts, COPIED flags, broken entries */

struct qcow2_check_result {
	uint64_t corruptions; /* found: data in danger */
	uint64_t leaks;	      /* found: space lost, nothing worse */
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t total_clusters; /* of the guest's disk */
	uint64_t allocated_clusters, compressed_clusters, fragmented_clusters;
	uint64_t image_end_bytes; /* behind the last cluster in use */
};

/*
 * What is told meanwhile; NULL members are skipped. `problem` gets one line for each finding;
 * `progress` is called now and then and stops the check with -ECANCELED when it returns false
 * (before any repair is written).
 */
struct qcow2_check_ops {
	void (*problem)(void *ctx, const char *line);
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};

/*
 * Reads all metadata and compares refcounts with references. 0 when the check itself could be made,
 * whatever it found; `repair` of 0 changes nothing and opens read-only.
 */
int qcow2_check(const char *path, unsigned repair, const struct qcow2_check_ops *ops,
		struct qcow2_check_result *ret_result, struct err *err);

/* ---- change ---- */

/*
 * Grows or, with `shrink`, shrinks the disk. Shrinking discards what is behind the new end.
 * What is new reads as zeroes: where the backing file is longer it is hidden (it is opened for
 * that). -EINVAL: smaller and not `shrink`; -ENOTSUP: the image has internal snapshots (shrinking,
 * or growing in version 2), or is version 2 and its backing file would show. `progress` is of the
 * preallocation, in bytes, and may be NULL; when it stops, the disk has its old size.
 */
int qcow2_resize(const char *path, uint64_t size_bytes, bool shrink, enum qcow2_prealloc prealloc,
		 const struct tool_progress *progress, struct err *err);

/*
 * Changes only what the header says about the backing file; the caller vouches that the contents
 * fit. NULL: none from now on. -ENOSPC: no room in the first cluster.
 */
int qcow2_set_backing(const char *path, const char *backing_path, const char *backing_format,
		      struct err *err);

/*
 * The rest works on an open qcow2 image with no request in flight, attached or not.
 */

/*
 * Stores one cluster, compressed if that makes it smaller (else plain). `offset_bytes` is aligned
 * to the cluster size, `data` holds one whole cluster (past the disk's end: zeroes). -EEXIST: the
 * cluster is in use already. Durable with the next flush or image_close().
 */
int qcow2_write_compressed(struct image *img, uint64_t offset_bytes, const void *data,
			   struct err *err);

/* The unit of allocation of an open qcow2 image. */
uint32_t qcow2_cluster_bytes(const struct image *img);

/*
 * Drops every cluster of the image's own, so that the backing file shows everywhere (after a
 * commit). No request in flight.
 */
int qcow2_make_empty(struct image *img, struct err *err);

#endif
