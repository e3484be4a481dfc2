/*
 * Disk images: one asynchronous interface over every format.
 *
 * State of an image:  opened --image_attach(loop)--> attached --image_detach--> opened --> closed
 *
 * Invariants
 *  1. A request completes exactly once, through `done`, on the loop's thread, never from inside
 *     image_submit().
 *  2. Data of a write that completed before a flush was submitted is durable when the flush
 *     completes with 0. Requests in flight together have no order among themselves. Because the
 *     host forgets what it failed to write once it has said so, a flush that failed makes every
 *     later one fail until the image is opened again.
 *  3. A read-only image is opened O_RDONLY: no write can reach the file, whatever a caller asks.
 *  4. The format is stated by the caller and never guessed.
 *
 * Threads: image_open/close anywhere; all else on the thread of the loop it is attached to.
 */
#ifndef DISK_IMAGE_H
#define DISK_IMAGE_H

#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define IMAGE_SECTOR_BYTES 512

enum image_format {
	IMAGE_RAW,
	IMAGE_QCOW2,
};

/* "raw", "qcow2"; -EINVAL for any other name. */
int image_format_parse(const char *name, enum image_format *ret_format);
const char *image_format_name(enum image_format format);

struct image_opts {
	const char *path;
	enum image_format format;
	bool read_only;
	bool direct;	 /* O_DIRECT: bypass the host's page cache */
	bool no_lock;	 /* skip the advisory lock (the caller holds one) */
	bool no_discard; /* discards succeed and do nothing */

	/*
	 * qcow2 only. Without `backing`, an image that names a backing file is refused: the name is
	 * whatever somebody wrote into the image. The chain below is opened read-only with shared
	 * locks. The format of each backing file is what the image above states; `backing_format`,
	 * where given, is that of the first (for images that state none).
	 */
	bool backing;
	bool has_backing_format;
	enum image_format backing_format;
	/*
	 * Where the guest's data is, for an image that keeps it in a file of its own; such an image
	 * is refused without. The name that the image has for it is only told, never opened.
	 */
	const char *data_file;
	/* memory for cached L2 tables, for each image of the chain; 0: enough for the whole image
	 * up to QCOW2_CACHE_BYTES_DEFAULT */
	uint64_t cache_bytes;
};

struct image_info {
	enum image_format format;
	uint64_t size_bytes;		    /* a multiple of IMAGE_SECTOR_BYTES */
	uint32_t logical_block_bytes;	    /* what every offset and length must be a multiple of */
	uint32_t physical_block_bytes;	    /* what offsets had better be a multiple of */
	uint32_t optimal_io_bytes;	    /* 0: no preference */
	uint32_t discard_granularity_bytes; /* 0: cannot discard */
	bool can_write_zeroes;
	bool read_only;
};

enum image_op {
	IMAGE_READ,
	IMAGE_WRITE,
	IMAGE_FLUSH,
	IMAGE_DISCARD,	    /* contents afterwards undefined: old data or zeroes */
	IMAGE_WRITE_ZEROES, /* reads as zeroes afterwards */
};

#define IMAGE_FUA	(1u << 0) /* write: durable before it completes */
#define IMAGE_MAY_UNMAP (1u << 1) /* write zeroes: may give the space back */
/* write zeroes: the image itself says so, even where it reads as zeroes because what is below does
 */
#define IMAGE_EXPLICIT (1u << 2)

/*
 * One request. The caller owns it and fills the first part; offset and length are multiples of
 * logical_block_bytes and within the image, the iovecs add up to length and stay as they are until
 * done. Any alignment of memory is accepted (O_DIRECT bounces where it must).
 */
struct image_req {
	enum image_op op;
	unsigned flags;
	uint64_t offset_bytes;
	uint64_t len_bytes;
	const struct iovec *iov; /* read and write only */
	unsigned niov;
	/*
	 * 0; -EIO, -ENOSPC, ...: the host failed; -EINVAL: out of range or misaligned; -EROFS;
	 * -ECANCELED: the loop was freed. After a failure the contents of the range are undefined.
	 */
	void (*done)(struct image_req *req, int res);

	/* the format driver's, from submission to completion */
	struct image_req_priv {
		struct loop_op op;
		struct image *img;
		uint64_t done_bytes;
		struct iovec part; /* what one operation transfers, where it is not whole iovecs */
		void *bounce;
		uint8_t step;
		uint8_t retries;
		int res;
		struct image_req *next;
	} p;
};

struct image;

/*
 * Opens an image, takes its advisory lock (shared when read-only) and reads its geometry.
 * Errors name the path and the cure: -ENOENT, -EISDIR, -EACCES, -EAGAIN (locked by another
 * process), -EINVAL (smaller than a sector, not a regular file or block device), ...
 */
int image_open(const struct image_opts *opts, struct image **ret_img, struct err *err);

/* The image must be detached. NULL is accepted. */
void image_close(struct image *img);

const struct image_info *image_info(const struct image *img);
const char *image_path(const struct image *img);

/* Binds the image to the loop that will carry its I/O; the loop's thread, or before it runs. */
int image_attach(struct image *img, struct loop *loop, struct err *err);

/* No request may be in flight. */
void image_detach(struct image *img);

void image_submit(struct image *img, struct image_req *req);

/* How many requests are in flight. */
unsigned image_inflight(const struct image *img);

/*
 * Test support: the n-th I/O operation (from 1, counted from now) fails with `errnum`, or is cut
 * short when `errnum` is 0 (a flush or fallocate cannot be). n = 0 switches it off. One request can
 * take several operations.
 */
void image_inject_fault(struct image *img, unsigned n, int errnum);

#endif
