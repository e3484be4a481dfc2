/*
 * The qcow2 driver from the inside. For disk/qcow2/ only.
 *
 * Layers, each calling only those above it in this list:
 *   header, extension    the first cluster
 *   cache                pieces of L2 tables and refcount blocks in memory
 *   file                 synchronous I/O, for opening and tools
 *   refcount, alloc      who uses which cluster      } pure: they answer done, what to read,
 *   l2, link             guest offset -> cluster     } that room is needed, or an error
 *   commit               in which order metadata goes to the file
 *   engine               requests: waiting, I/O
 *   read, write, ...     what a request does
 *
 * Invariants
 *  1. A cluster is referenced on disk only after its refcount and, where it replaces something or
 * is new, its contents are durable (commit.c).
 *  2. A cluster that is given up is used again only after the table that no longer refers to it is
 *     durable, all I/O to it has ended, and its hole is punched (commit.c).
 *  3. Of the requests that change where a guest cluster lies, one at a time is under way; the
 * others wait (engine.c: q2_busy).
 *  4. Every number read from the file is checked before it is used.
 *
 * Threads: all on the thread of the loop that the image is attached to.
 */
#ifndef DISK_QCOW2_QCOW2_PRIV_H
#define DISK_QCOW2_QCOW2_PRIV_H

#include "disk/image_priv.h"
#include "disk/qcow2/cache.h"
#include "disk/qcow2/header.h"

/* Pieces of tables in memory: small, so that little is read and written; never above a cluster. */
#define Q2_UNIT_BYTES_MAX 4096u

/*
 * An external data file holds each cluster at its guest offset, which may be 0. In memory such a
 * place has this bit, the highest that an entry's offset can have: so 0 is nowhere, as ever, and
 * whoever does I/O knows which file is meant. Set by q2_entry_load(), removed by q2_entry_store().
 */
#define Q2_IN_DATA_FILE (UINT64_C(1) << 55)

/* Answers of the pure functions besides 0 and -errno. */
enum {
	Q2_NEED_READ = 1, /* q->want: a piece of a table that is not in memory */
	Q2_NEED_ROOM,	  /* all pieces in memory are dirty: a commit first */
};

/* A run of clusters that nothing refers to any more, waiting for the next commit. */
struct q2_freed {
	uint64_t cluster;
	uint64_t count;
	bool is_table; /* pieces of it may be in the cache */
};

struct q2_freed_list {
	struct q2_freed *runs;
	size_t count, room;
};

/* More than this many runs wait: a commit before more is given up (1 MiB of memory). */
#define Q2_FREED_MAX 65536u

struct q2_commit;  /* disk/qcow2/commit.h */
struct q2_engine;  /* disk/qcow2/engine.h */
struct q2_inflate; /* disk/qcow2/inflate.c */

struct qcow2 {
	struct image img;
	struct image_file file;
	struct image_file data; /* img NULL: none, data lies in `file` */
	struct q2_header h;
	uint8_t *first; /* the first cluster */
	bool header_dirty;
	bool broken; /* its metadata contradicts itself: nothing is written any more */
	bool no_discard;

	uint32_t cluster_bytes;
	unsigned cluster_bits;
	bool extl2;
	unsigned sub_bits;    /* log2 of a subcluster; without them of a cluster */
	unsigned l2_bits;     /* log2 of the entries of an L2 table */
	unsigned entry_bytes; /* of an L2 entry: 8 or 16 */
	uint32_t unit_bytes;  /* of both caches */
	uint64_t file_end;    /* nothing is referred to from here on */
	uint64_t zero_from;   /* the file reads as zeroes from here on; UINT64_MAX: not known */

	uint64_t *l1;	   /* host order */
	uint8_t *l1_dirty; /* by unit */
	bool l1_any_dirty;

	uint64_t *reftable; /* host order */
	uint32_t reftable_entries;
	uint8_t *reftable_dirty; /* by unit */
	bool reftable_any_dirty;
	bool reftable_moved; /* the header still says the old place */
	uint64_t reftable_old_offset, reftable_old_clusters;
	unsigned ref_bits;	/* width */
	unsigned refblock_bits; /* log2 of the entries of a block */
	uint64_t free_hint;	/* no cluster below is free */

	struct q2_cache l2_cache, ref_cache;
	struct {
		struct q2_cache *cache;
		uint64_t offset;
	} want;

	struct q2_freed_list freed;   /* for the next commit */
	struct q2_freed_list freeing; /* of the commit under way */
	bool need_order;	      /* tables refer to clusters that are not durable yet */
	bool frozen;		      /* a commit is writing L2 tables: none may change */
	bool ref_frozen;	      /* the same of the refcount table */
	bool sync_failed;	      /* data may be lost: nothing is durable any more */

	/* packing of compressed clusters: the next free byte, 0: none */
	uint64_t pack_offset;

	struct image *backing; /* NULL: none */
	uint64_t backing_bytes;

	struct q2_commit *commit; /* while attached */
	struct q2_engine *engine;
	struct q2_inflate *inflate;
};

static inline struct qcow2 *qcow2_of(struct image *img)
{
	return container_of(img, struct qcow2, img);
}

static inline uint64_t q2_cluster_of(const struct qcow2 *q, uint64_t offset)
{
	return offset >> q->cluster_bits;
}

/* Is the guest's data in a file of its own? (A check does without it.) */
static inline bool q2_is_external(const struct qcow2 *q)
{
	return q->h.incompatible & Q2_INCOMPAT_DATA_FILE;
}

static inline uint64_t q2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
	return offset & (q->cluster_bytes - 1);
}

/* What one L2 table maps. */
static inline uint64_t q2_l2_span(const struct qcow2 *q)
{
	return UINT64_C(1) << (q->l2_bits + q->cluster_bits);
}

static inline size_t q2_l1_index(const struct qcow2 *q, uint64_t guest)
{
	return (size_t)(guest >> (q->l2_bits + q->cluster_bits));
}

/* ---- open.c ---- */

struct q2_open_how {
	bool check; /* for check and repair: dirty and corrupt images are opened as they are */
};

/*
 * Opens one image of a chain, without its backing file. `opts->read_only` false: refcounts of a
 * dirty image are rebuilt, autoclear features dropped. Messages have no path.
 */
int q2_open_one(const struct image_opts *opts, const struct q2_open_how *how, struct qcow2 **ret_q,
		struct err *err);
void q2_free(struct qcow2 *q);

/* ---- backing.c ---- */

/* Opens the chain below `q`. */
int q2_backing_open(struct qcow2 *q, const struct image_opts *opts, struct err *err);

/* A local path for the name in the image, relative to `image_path`. malloc. */
int q2_backing_resolve(const char *image_path, const char *name, char **ret_path, struct err *err);

/* ---- file.c: synchronous I/O; any alignment ---- */

/* What is past the end reads as zeroes. 0 or -errno. */
int q2_pread(const struct image_file *f, void *buf, size_t len, uint64_t offset);
int q2_pwrite(const struct image_file *f, const void *buf, size_t len, uint64_t offset);
int q2_sync(const struct image_file *f);
/* Memory for O_DIRECT of this file. malloc. */
void *q2_buffer(const struct image_file *f, size_t len);

/* Zeroed memory, of nothing too. malloc. */
void *q2_zalloc(size_t len);

/* Does what a pure function asked for; 0: ask again. */
int q2_sync_need(struct qcow2 *q, int need);

/* Calls a pure function until it is done: r = Q2_SYNC(q, q2_ref_get(...)) */
#define Q2_SYNC(q, call)                                                                 \
	({                                                                               \
		int need_;                                                               \
		do                                                                       \
			need_ = (call);                                                  \
		while (need_ > 0 && !(need_ = q2_sync_need((q), need_)) && (need_ = 1)); \
		need_;                                                                   \
	})

/* ---- refcount.c ---- */

uint64_t q2_ref_load(const void *slice, unsigned bits, uint64_t index);
void q2_ref_store(void *slice, unsigned bits, uint64_t index, uint64_t value);
static inline uint64_t q2_ref_max(unsigned bits)
{
	return bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
}

/* A piece of a table, from memory. Q2_NEED_READ. */
int q2_table_get(struct qcow2 *q, struct q2_cache *cache, uint64_t offset, struct q2_table **ret_t);

/* A new piece, all zeroes and dirty. Q2_NEED_ROOM. */
int q2_table_new(struct qcow2 *q, struct q2_cache *cache, uint64_t offset, struct q2_table **ret_t);

/* Where the refcount block for this cluster lies; 0: there is none. */
int q2_refblock(struct qcow2 *q, uint64_t cluster, uint64_t *ret_offset);

int q2_ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *ret_value);

/* Its block must exist. */
int q2_ref_set(struct qcow2 *q, uint64_t cluster, uint64_t value);

/* Makes the block for this cluster, growing the refcount table where needed. */
int q2_ref_ensure(struct qcow2 *q, uint64_t cluster);

/* Makes the table reach to its entry n. */
int q2_ref_grow(struct qcow2 *q, uint64_t n);

/* An empty block, which is none yet, at this place. */
int q2_ref_place_block(struct qcow2 *q, uint64_t n, uint64_t offset);

/* ---- alloc.c ---- */

/* Synchronous: `count` clusters in a row, at the end of the file. */
int q2_alloc_contiguous(struct qcow2 *q, uint64_t count, uint64_t *ret_offset);

/* Takes 1 to `want` clusters in a row. -ENOSPC: the file would be beyond what the format can say.
 */
int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *ret_offset, uint64_t *ret_count);

/* Is this cluster among fresh ones that read as zeroes? Asked before q2_alloc() moves the end. */
static inline bool q2_is_fresh(uint64_t zero_from, uint64_t offset)
{
	return offset >= zero_from;
}

/* Gives clusters up: one reference each, with the next commit. */
void q2_release(struct qcow2 *q, uint64_t offset, uint64_t bytes);
void q2_release_table(struct qcow2 *q, uint64_t offset, uint64_t bytes);

/* Does the range touch the header, the L1 or the refcount table? */
bool q2_is_metadata(const struct qcow2 *q, uint64_t offset, uint64_t len);

/* The image contradicts itself: says so once and stops all writing. Returns -EIO. */
int q2_broken(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- l2.c ---- */

enum q2_kind {
	Q2_UNALLOCATED, /* the backing file shows; without one, zeroes */
	Q2_ZERO,	/* zeroes; `host` is space kept for it, or 0 */
	Q2_DATA,
	Q2_COMPRESSED_DATA,
};

struct q2_extent {
	enum q2_kind kind;
	bool copied;	   /* may be written in place */
	uint64_t len;	   /* from the offset asked for */
	uint64_t host;	   /* of the byte asked for; compressed: of the cluster's data */
	uint32_t host_len; /* compressed: bytes that may be read from there */
};

struct q2_entry {
	uint64_t word;
	uint64_t bitmap; /* extended only */
};

static inline uint32_t q2_bitmap_alloc(uint64_t bitmap)
{
	return (uint32_t)bitmap;
}

static inline uint32_t q2_bitmap_zero(uint64_t bitmap)
{
	return (uint32_t)(bitmap >> 32);
}

/* The extent that begins at `guest`, at most `len` long and never across pieces of tables. */
int q2_map(struct qcow2 *q, uint64_t guest, uint64_t len, struct q2_extent *ret_ext);

/* The piece of the L2 table that maps `guest`; NULL: there is no table. */
int q2_l2_get(struct qcow2 *q, uint64_t guest, struct q2_table **ret_t);

/* Bytes from `guest` to the end of what its piece of the table maps. */
uint64_t q2_l2_rest(const struct qcow2 *q, uint64_t guest);

struct q2_entry q2_entry_load(const struct qcow2 *q, const struct q2_table *t, uint64_t guest);
void q2_entry_store(struct qcow2 *q, struct q2_table *t, uint64_t guest, struct q2_entry e);

/* Compressed: where, and how many bytes may belong to it. */
void q2_entry_compressed(const struct qcow2 *q, uint64_t word, uint64_t *ret_offset,
			 uint32_t *ret_len);
uint64_t q2_entry_make_compressed(const struct qcow2 *q, uint64_t offset, uint32_t len);

/* Checks where an entry points. -EIO, and the image is broken. */
int q2_entry_check(struct qcow2 *q, uint64_t guest, struct q2_entry e);

/* May the table for `guest` be changed in place? */
static inline bool q2_l1_writable(const struct qcow2 *q, uint64_t guest)
{
	uint64_t l1e = q->l1[q2_l1_index(q, guest)];

	return l1e & Q2_COPIED && l1e & Q2_OFFSET_MASK;
}

static inline uint64_t q2_l1_offset(const struct qcow2 *q, uint64_t guest)
{
	return q->l1[q2_l1_index(q, guest)] & Q2_OFFSET_MASK;
}

/* ---- link.c: changes of L2 tables. Not while frozen. ---- */

/* A write that needs more than data in place: one or more guest clusters in a row. */
struct q2_run {
	uint64_t guest; /* of the first cluster */
	uint64_t clusters;
	uint64_t host;	   /* of the first cluster; 0: to be allocated */
	bool fresh;	   /* the host clusters read as zeroes */
	bool reuse;	   /* `host` belongs to the guest cluster already */
	uint64_t from, to; /* guest range that is stored, copied parts included */
};

/*
 * What a write of [pos, end) needs at `pos`: in place (*ret_in_place: extent) or a run. The table
 * exists and is writable.
 */
int q2_plan_write(struct qcow2 *q, uint64_t pos, uint64_t end, bool *ret_in_place,
		  struct q2_extent *ret_ext, struct q2_run *ret_run);

/* Refers to the run, whose data is written; gives up what was there. `t` maps all of it. */
void q2_link_run(struct qcow2 *q, struct q2_table *t, const struct q2_run *run);

/* Refers to a new L2 table. */
void q2_link_l2(struct qcow2 *q, uint64_t guest, uint64_t offset);

enum q2_zero_how {
	Q2_ZERO_DISCARD, /* old data or zeroes */
	Q2_ZERO_KEEP,	 /* zeroes, space stays */
	Q2_ZERO_UNMAP,	 /* zeroes, space is given up */
	Q2_ZERO_EMPTY,	 /* not there: the backing file shows */
};

/*
 * Makes the whole clusters (extended: subclusters) of [pos, end) so, as far as the piece of the
 * table goes; *ret_len is how far. The table exists and is writable. -ENOTSUP: what is at `pos` has
 * to be written with zeroes (*ret_len bytes of it).
 */
int q2_zero_range(struct qcow2 *q, uint64_t pos, uint64_t end, enum q2_zero_how how,
		  uint64_t *ret_len);

/* ---- compressed.c ---- */

/* State of the decompressors, made when it is first needed. Zeroed: none. */
struct q2_codec {
	struct z_stream_s *z;
	struct ZSTD_DCtx_s *zstd;
};

void q2_codec_free(struct q2_codec *c);

/* Unpacks one cluster; `len` bytes are there at most. -EIO: broken data; -ENOMEM. */
int q2_unpack(struct q2_codec *c, uint8_t compression, const uint8_t *data, uint32_t len,
	      uint8_t *cluster, uint32_t cluster_bytes);

/* -ENOSPC: not smaller than a cluster. `out` has room for a cluster. */
int q2_pack(struct qcow2 *q, const uint8_t *cluster, uint8_t *out, uint32_t *ret_len);

/* ---- inflate.c ---- */

int q2_inflate_init(struct qcow2 *q);
void q2_inflate_free(struct qcow2 *q);
/* The image, with all below it, is attached; no request is in flight in either. */
void q2_inflate_attach(struct qcow2 *top);
void q2_inflate_detach(struct qcow2 *q);
/* Other data may lie where compressed data was. No request in flight. */
void q2_inflate_forget(struct qcow2 *q);

/* ---- driver entry points of several files ---- */

int q2_image_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
		 struct image_extent *ret_extent, struct err *err);
void q2_submit(struct image *img, struct image_req *req);

/* Sets refcounts right in an image that was not closed (open.c) or for qcow2_check(). */
int q2_rebuild_refcounts(struct qcow2 *q, struct err *err);

#endif
