/* Disk images: what is the same for every format. See disk/image.h. */
#include "disk/image.h"

#include "base/checked.h"
#include "disk/image_priv.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const struct image_driver *const drivers[] = {
    &image_raw_driver,
    &image_qcow2_driver,
};

static const struct image_driver *find_driver(enum image_format format)
{
	for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
		if (drivers[i]->format == format)
			return drivers[i];
	}
	return NULL;
}

int image_format_parse(const char *name, enum image_format *ret_format)
{
	for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
		if (!strcmp(drivers[i]->name, name)) {
			*ret_format = drivers[i]->format;
			return 0;
		}
	}
	return -EINVAL;
}

const char *image_format_name(enum image_format format)
{
	const struct image_driver *driver = find_driver(format);

	return driver ? driver->name : "unknown";
}

static void run_ended(struct loop_msg *m)
{
	struct image *img = container_of(m, struct image, ended_msg);
	struct image_queue ended = img->ended;
	struct image_req *req;

	/* what the callbacks add comes in a round of its own; `img` may be gone after the last */
	img->ended = (struct image_queue){0};
	while ((req = image_queue_pop(&ended)))
		image_complete(req, req->p.res);
}

void image_init(struct image *img, const struct image_driver *driver)
{
	img->driver = driver;
	img->ended_msg.fn = run_ended;
}

int image_open(const struct image_opts *opts, struct image **ret_img, struct err *err)
{
	const struct image_driver *driver = find_driver(opts->format);
	struct image *img;
	int r;

	if (!driver)
		return err_set(err, EINVAL, "disk image %s: unknown format", opts->path);
	r = driver->open(opts, &img, err);
	if (r) {
		err_prefix(err, "disk image %s", opts->path);
		return r;
	}
	image_init(img, driver);
	*ret_img = img;
	return 0;
}

void image_close(struct image *img)
{
	if (!img)
		return;
	assert(!img->loop);
	img->driver->close(img);
}

const struct image_info *image_info(const struct image *img)
{
	return &img->info;
}

const char *image_path(const struct image *img)
{
	return img->path;
}

int image_attach(struct image *img, struct loop *loop, struct err *err)
{
	int r;

	assert(!img->loop);
	r = img->driver->attach(img, loop, err);
	if (r) {
		err_prefix(err, "disk image %s", img->path);
		return r;
	}
	img->loop = loop;
	return 0;
}

void image_detach(struct image *img)
{
	assert(img->loop && !img->inflight);
	img->driver->detach(img);
	img->loop = NULL;
}

/* Do the buffers hold just what the request says? A driver may then rely on it. */
static bool buffers_match(const struct image_req *req)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < req->niov; i++) {
		if (!ck_add(sum, req->iov[i].iov_len, &sum))
			return false;
	}
	return sum == req->len_bytes;
}

static int check(const struct image *img, const struct image_req *req)
{
	bool moves_data = req->op == IMAGE_READ || req->op == IMAGE_WRITE;

	if (req->op == IMAGE_FLUSH)
		return 0;
	if (req->op > IMAGE_WRITE_ZEROES)
		return -EINVAL;
	if (img->info.read_only && req->op != IMAGE_READ)
		return -EROFS;
	if (!ck_range(req->offset_bytes, req->len_bytes, img->info.size_bytes) ||
	    !is_aligned(req->offset_bytes | req->len_bytes, img->info.logical_block_bytes))
		return -EINVAL;
	if (moves_data && !buffers_match(req))
		return -EINVAL;
	return 0;
}

void image_submit(struct image *img, struct image_req *req)
{
	int r;

	assert(img->loop);
	req->p.img = img;
	img->inflight++;
	r = check(img, req);
	/* nothing to do, or nothing that could be unsafe: a read-only image has no data in flight
	 */
	if (r || (req->op == IMAGE_FLUSH ? img->info.read_only : !req->len_bytes)) {
		image_complete_later(req, r);
		return;
	}
	img->driver->submit(img, req);
}

unsigned image_inflight(const struct image *img)
{
	return img->inflight;
}

int image_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
	      struct image_extent *ret_extent, struct err *err)
{
	uint64_t size = img->info.size_bytes;
	int r;

	assert(!img->inflight);
	if (!len_bytes || offset_bytes >= size)
		return err_set(err, EINVAL, "disk image %s: nothing to map at %llu", img->path,
			       (unsigned long long)offset_bytes);
	len_bytes = MIN(len_bytes, size - offset_bytes);
	r = img->driver->map(img, offset_bytes, len_bytes, ret_extent, err);
	if (r)
		err_prefix(err, "disk image %s", img->path);
	return r;
}

struct image *image_backing(struct image *img)
{
	return img->driver->backing ? img->driver->backing(img) : NULL;
}

void image_inject_fault(struct image *img, unsigned n, int errnum)
{
	img->driver->inject_fault(img, n, errnum);
}

void image_complete(struct image_req *req, int res)
{
	req->p.img->inflight--;
	req->done(req, res);
}

void image_complete_later(struct image_req *req, int res)
{
	struct image *img = req->p.img;

	req->p.res = res;
	image_queue_push(&img->ended, req);
	loop_defer(img->loop, &img->ended_msg);
}
