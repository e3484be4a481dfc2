/* Making an image longer while it is in use. See disk/image_grow.h. */
#include "disk/image_grow.h"

#include "base/checked.h"
#include "disk/image_priv.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

typedef unsigned long long ull;

static int check(const struct image *img, uint64_t size, struct err *err)
{
	if (img->info.read_only)
		return err_set(err, EROFS, "is read-only");
	if (!img->driver->grow_begin)
		return err_set(err, ENOTSUP, "images of format %s cannot grow while in use",
			       img->driver->name);
	if (size <= img->info.size_bytes)
		return err_set(err, EINVAL, "has %llu bytes, and %llu is not more",
			       (ull)img->info.size_bytes, (ull)size);
	if (!is_aligned(size, img->info.logical_block_bytes))
		return err_set(err, EINVAL, "%llu is not a multiple of its blocks of %u bytes",
			       (ull)size, img->info.logical_block_bytes);
	return 0;
}

static void finish(struct image_grow *g)
{
	struct image *img = g->img;

	if (!img->driver->grow_end(img, g->old_bytes, g->err.code, &g->err))
		assert(img->info.size_bytes == g->size_bytes);
	else
		img->info.size_bytes = g->old_bytes;
	err_prefix(&g->err, "disk image %s", img->path);
	g->done(g);
}

static void cleared(struct image_req *req, int res)
{
	struct image_grow *g = container_of(req, struct image_grow, req);

	if (res)
		err_sys(&g->err, -res, "its new part cannot be cleared");
	finish(g);
}

void image_grow(struct image *img, struct image_grow *g)
{
	uint64_t from = 0, to = 0;

	assert(img->loop && !img->inflight);
	g->img = img;
	g->err = (struct err)ERR_INIT;
	g->old_bytes = img->info.size_bytes;
	if (check(img, g->size_bytes, &g->err) ||
	    img->driver->grow_begin(img, g->size_bytes, &from, &to, &g->err)) {
		err_prefix(&g->err, "disk image %s", img->path);
		g->done(g);
		return;
	}
	img->info.size_bytes = g->size_bytes;
	if (from >= to) {
		finish(g);
		return;
	}
	g->req = (struct image_req){.op = IMAGE_WRITE_ZEROES,
				    .flags = IMAGE_MAY_UNMAP,
				    .offset_bytes = from,
				    .len_bytes = to - from,
				    .done = cleared};
	image_submit(img, &g->req);
}
