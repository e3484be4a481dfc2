/* What a format driver implements. For disk/ only. */
#ifndef DISK_IMAGE_PRIV_H
#define DISK_IMAGE_PRIV_H

#include "disk/image.h"

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
};

/* Common head of every driver's own struct. */
struct image {
	const struct image_driver *driver;
	struct image_info info;
	char *path;
	struct loop *loop;
	unsigned inflight;
};

extern const struct image_driver image_raw_driver;

/* Completes a request: the one place that calls `done`. */
void image_complete(struct image_req *req, int res);

#endif
