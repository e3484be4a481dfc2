/* The raw driver's own. For disk/raw*.c only. */
#ifndef DISK_RAW_PRIV_H
#define DISK_RAW_PRIV_H

#include "base/checked.h"
#include "disk/image_priv.h"

/*
 * O_DIRECT of unaligned memory goes through these: bounded, and enough that copying one request
 * overlaps the I/O of others. The memory is only taken from the host when it is used.
 */
#define RAW_BOUNCE_COUNT 4
#define RAW_BOUNCE_BYTES (64 * 1024)

/* Zeroes are written from one page, this many times in one operation. */
#define RAW_ZERO_BYTES 4096
#define RAW_ZERO_IOVS  64

/* What raw_probe() finds out. */
struct raw_file {
	int fd;
	uint32_t dio_mem_align; /* O_DIRECT: of addresses; 0: not O_DIRECT */
	uint32_t dio_offset_align;
	bool can_punch;
	struct image_info info;
};

/*
 * One image file.
 *
 * Threads: the loop's, between attach and detach.
 */
struct raw {
	struct image img;
	struct raw_file file;
	bool container; /* holds another format: no fixed end, see image_file_open() */
	bool no_discard;
	bool can_punch; /* false as soon as the host refuses it */
	bool can_zero_range;

	/*
	 * Flushes are made together: one fdatasync at a time serves all that came before it began.
	 * Besides its economy this is what reports a failure to everyone: the kernel tells it only
	 * to the first of several that ask.
	 */
	struct image_queue sync_waiting;
	struct image_queue syncing;
	struct loop_op sync_op;
	bool sync_running;
	uint8_t sync_retries;
	int sync_error; /* of the first flush that failed; stays */

	uint8_t *bounce; /* RAW_BOUNCE_COUNT buffers, mapped while attached */
	void *bounce_free[RAW_BOUNCE_COUNT];
	unsigned bounce_nfree;
	struct image_queue bounce_waiting;

	struct iovec zero_iov[RAW_ZERO_IOVS];

	unsigned fault_in; /* operations until the injected fault; 0: none */
	int fault_errnum;
	struct image_queue faulted; /* wait for the loop to take the fault to them */
	bool sync_faulted;
	struct loop_msg fault_msg;
};

static inline struct raw *raw_of(struct image *img)
{
	return container_of(img, struct raw, img);
}

/*
 * Opens and examines the file. -EINVAL, -EISDIR: not something that holds an image; -EBUSY: a block
 * device that the host itself uses. Messages have no path.
 */
int raw_probe(const struct image_opts *opts, struct raw_file *ret_file, struct err *err);

/* Cuts the size to whole blocks, with a warning; -EINVAL: there is not one. */
int raw_probe_size(struct raw_file *f, const char *path, struct err *err);

/* See image_map(). */
int raw_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
	    struct image_extent *ret_extent, struct err *err);

/* Engine: disk/raw_io.c and disk/raw_sync.c */

void raw_io_init(struct raw *raw);
void raw_submit(struct image *img, struct image_req *req);

/* Flushes, then completes the request with the result. */
void raw_sync(struct raw *raw, struct image_req *req);
void raw_sync_done(struct loop_op *op, int res);

/* Counts an operation: 0, or the errno that it fails with; -1: it is cut short. */
int raw_take_fault(struct raw *raw);

#endif
