#include "tests/unit/fake_image.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEADLINE_S 20

static struct fake_image *fake_of(struct image *img)
{
	return container_of(img, struct fake_image, img);
}

static int fake_attach(struct image *img, struct loop *loop, struct err *err)
{
	(void)img;
	(void)loop;
	(void)err;
	return 0;
}

static void fake_detach(struct image *img)
{
	(void)img;
}

static void carry_out(struct fake_image *fi, const struct image_req *req)
{
	uint8_t *p = fi->data + req->offset_bytes;

	switch (req->op) {
	case IMAGE_READ:
	case IMAGE_WRITE:
		for (unsigned i = 0; i < req->niov; i++) {
			if (req->op == IMAGE_READ)
				memcpy(req->iov[i].iov_base, p, req->iov[i].iov_len);
			else
				memcpy(p, req->iov[i].iov_base, req->iov[i].iov_len);
			p += req->iov[i].iov_len;
		}
		break;
	case IMAGE_DISCARD:
	case IMAGE_WRITE_ZEROES:
		memset(p, 0, req->len_bytes);
		break;
	case IMAGE_FLUSH:
		break;
	}
}

static void release_fn(struct loop_msg *m)
{
	struct fake_image *fi = container_of(m, struct fake_image, release);
	struct image_req *list = NULL, *req;

	pthread_mutex_lock(&fi->lock);
	fi->posted = false;
	while (!fi->hold && (req = image_queue_pop(&fi->waiting))) {
		req->p.next = list;
		list = req;
		fi->nwaiting--;
	}
	pthread_mutex_unlock(&fi->lock);

	/* Last in, first out: nobody may rely on the order of what is in flight together. */
	while ((req = list)) {
		int res = 0;

		list = req->p.next;
		pthread_mutex_lock(&fi->lock);
		if (fi->fails) {
			fi->fails--;
			res = -fi->error;
		}
		pthread_mutex_unlock(&fi->lock);
		if (!res)
			carry_out(fi, req);
		image_complete(req, res);
	}
}

static void post_locked(struct fake_image *fi)
{
	if (fi->hold || fi->posted || !fi->nwaiting)
		return;
	fi->posted = true;
	loop_post(fi->img.loop, &fi->release);
}

static void fake_submit(struct image *img, struct image_req *req)
{
	struct fake_image *fi = fake_of(img);

	AUTOLOCK(&fi->lock);
	if (fi->nlog < FAKE_IMAGE_LOG)
		fi->log[fi->nlog++] = (struct fake_image_op){.op = req->op,
							     .flags = req->flags,
							     .offset_bytes = req->offset_bytes,
							     .len_bytes = req->len_bytes,
							     .niov = req->niov};
	image_queue_push(&fi->waiting, req);
	fi->nwaiting++;
	pthread_cond_broadcast(&fi->cond);
	post_locked(fi);
}

static const struct image_driver fake_driver = {
    .name = "fake",
    .attach = fake_attach,
    .detach = fake_detach,
    .submit = fake_submit,
};

void fake_image_init(struct fake_image *fi, uint64_t size_bytes, const struct image_info *info)
{
	static char path[] = "fake";

	memset(fi, 0, sizeof(*fi));
	fi->img.driver = &fake_driver;
	fi->img.path = path;
	fi->img.info = *info;
	fi->img.info.size_bytes = size_bytes;
	fi->data = calloc(1, size_bytes);
	if (!fi->data)
		exit(99);
	fi->release.fn = release_fn;
	pthread_mutex_init(&fi->lock, NULL);
	pthread_cond_init(&fi->cond, NULL);
}

void fake_image_fini(struct fake_image *fi)
{
	free(fi->data);
	pthread_mutex_destroy(&fi->lock);
	pthread_cond_destroy(&fi->cond);
}

void fake_image_hold(struct fake_image *fi)
{
	AUTOLOCK(&fi->lock);
	fi->hold = true;
}

bool fake_image_wait_held(struct fake_image *fi, unsigned n)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	AUTOLOCK(&fi->lock);
	while (fi->nwaiting < n && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&fi->cond, &fi->lock, &until);
	return fi->nwaiting >= n;
}

void fake_image_release(struct fake_image *fi)
{
	AUTOLOCK(&fi->lock);
	fi->hold = false;
	post_locked(fi);
}

void fake_image_fail(struct fake_image *fi, unsigned n, int errnum)
{
	AUTOLOCK(&fi->lock);
	fi->fails = n;
	fi->error = errnum;
}

unsigned fake_image_take_log(struct fake_image *fi, struct fake_image_op *ops, unsigned max)
{
	unsigned n;

	AUTOLOCK(&fi->lock);
	n = MIN(fi->nlog, max);
	memcpy(ops, fi->log, n * sizeof(*ops));
	fi->nlog = 0;
	return n;
}
