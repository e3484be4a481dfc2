/* What a format driver implements. For disk/ only. */
#ifndef DISK_IMAGE_PRIV_H
#define DISK_IMAGE_PRIV_H

#include "disk/image.h"
#include "disk/image_tools.h"

#include <sys/types.h>

/* Requests in order, linked through p.next; zeroed: empty. */
struct image_queue {
	struct image_req *head, *tail;
};

static inline void image_queue_push(struct image_queue *q, struct image_req *req)
{
	req->p.next = NULL;
	if (q->tail)
		q->tail->p.next = req;
	else
		q->head = req;
	q->tail = req;
}

static inline struct image_req *image_queue_pop(struct image_queue *q)
{
	struct image_req *req = q->head;

	if (req) {
		q->head = req->p.next;
		if (!q->head)
			q->tail = NULL;
	}
	return req;
}

struct image_driver {
	const char *name;
	enum image_format format;
	int (*open)(const struct image_opts *opts, struct image **ret_img, struct err *err);
	void (*close)(struct image *img);
	int (*attach)(struct image *img, struct loop *loop, struct err *err);
	void (*detach)(struct image *img);
	/* Range, alignment and read-only are checked already. */
	void (*submit)(struct image *img, struct image_req *req);
	void (*inject_fault)(struct image *img, unsigned n, int errnum);
	/* See image_map(); the range is checked and not empty. */
	int (*map)(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
		   struct image_extent *ret_extent, struct err *err);
	struct image *(*backing)(struct image *img); /* NULL: such a format has none */
	/*
	 * For image_grow(), which has checked the size. begin: all that can be refused is refused;
	 * *ret_from to *ret_to, when not empty, is to be written with zeroes next. end: it was
	 * (`failed` 0), and the size is made durable, or it was not, and begin is undone; 0 or
	 * -errno, which is then also that of `failed`.
	 */
	int (*grow_begin)(struct image *img, uint64_t size_bytes, uint64_t *ret_from,
			  uint64_t *ret_to, struct err *err);
	int (*grow_end)(struct image *img, uint64_t old_bytes, int failed, struct err *err);
};

/* Common head of every driver's own struct. */
struct image {
	const struct image_driver *driver;
	struct image_info info;
	char *path;
	struct loop *loop;
	unsigned inflight;
	struct image_queue ended; /* results that wait for the loop to take them to `done` */
	struct loop_msg ended_msg;
};

extern const struct image_driver image_raw_driver;
extern const struct image_driver image_qcow2_driver;

/* What image_open() does with a new image of a driver. */
void image_init(struct image *img, const struct image_driver *driver);

/* The file that holds another format. The image is closed with image_close(). */
struct image_file {
	struct image *img; /* raw; takes requests at any offset */
	int fd;		   /* its descriptor: for synchronous I/O, not to be closed */
	uint64_t size_bytes;
	bool is_regular;      /* what is written past its end leaves zeroes between */
	uint32_t align_bytes; /* O_DIRECT: of memory, offsets and lengths; 0: none */
	dev_t dev;	      /* with ino: which file it is */
	ino_t ino;
};

/*
 * Opens and locks a file as a container: a read past its end gives zeroes, a write there makes it
 * longer. Messages have no path.
 */
int image_file_open(const struct image_opts *opts, struct image_file *ret_file, struct err *err);

/* Completes a request: the one place that calls `done`. */
void image_complete(struct image_req *req, int res);

/* The same from within a submission: in the next round of the loop. */
void image_complete_later(struct image_req *req, int res);

#endif
