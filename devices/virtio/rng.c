/* virtio-rng. virtio 1.2 §5.4. See rng.h. */
#include "devices/virtio/rng.h"

#include "base/checked.h"
#include "devices/virtio/virtio_loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define RNG_QUEUE_SIZE 64

struct virtio_rng {
	struct virtio_dev dev;
	struct virtio_loop vl;
};

static struct virtio_rng *rng_of(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_rng, dev);
}

/* Random bytes straight into guest memory; fewer than asked for is allowed (§5.4.6.2). */
static uint32_t fill(const struct virtq_chain *chain)
{
	uint32_t done = 0;

	for (unsigned i = 0; i < chain->nwrite && done < RNG_REQUEST_MAX; i++) {
		const struct iovec *iov = &chain->iov[chain->nread + i];
		const size_t want = MIN(iov->iov_len, (size_t)(RNG_REQUEST_MAX - done));
		const ssize_t n = getrandom(iov->iov_base, want, 0);

		if (n < 0)
			break;
		done += (uint32_t)n;
		if ((size_t)n < want)
			break;
	}
	return done;
}

static int rng_take(struct virtio_loop_queue *q, const struct virtq_chain *chain)
{
	/* §5.4.6.1: only buffers to write, and something to write to. */
	if (chain->nread || !chain->nwrite)
		return -EPROTO;
	virtio_loop_push(q, chain->head, fill(chain));
	return 0;
}

static const struct virtio_loop_ops rng_loop_ops = {
    .take = rng_take,
};

static int rng_activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	(void)features;
	virtio_loop_start(&rng_of(dev)->vl, queues);
	return 0;
}

static void rng_reset(struct virtio_dev *dev)
{
	virtio_loop_stop(&rng_of(dev)->vl);
}

static void rng_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	virtio_loop_pause(&rng_of(dev)->vl, quiet, ctx);
}

static void rng_resume(struct virtio_dev *dev)
{
	virtio_loop_resume(&rng_of(dev)->vl);
}

static void rng_free(struct virtio_dev *dev)
{
	struct virtio_rng *rng = rng_of(dev);

	virtio_loop_fini(&rng->vl);
	virtio_dev_fini(dev);
	free(rng);
}

static const struct virtio_dev_ops rng_ops = {
    .activate = rng_activate,
    .reset = rng_reset,
    .pause = rng_pause,
    .resume = rng_resume,
    .free = rng_free,
};

int virtio_rng_new(const struct platform *plat, struct loop *loop, struct virtio_dev **ret_dev,
		   struct err *err)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int r;

	(void)plat;
	if (!rng)
		return err_set(err, ENOMEM, "rng: out of memory");
	rng->dev.ops = &rng_ops;
	rng->dev.name = "virtio-rng";
	rng->dev.id = VIRTIO_ID_RNG;
	rng->dev.nqueues = 1;
	rng->dev.queue_size_max = RNG_QUEUE_SIZE;
	r = virtio_dev_init(&rng->dev, err);
	if (r < 0) {
		free(rng);
		return r;
	}
	virtio_loop_init(&rng->vl, &rng_loop_ops, &rng->dev, loop);
	*ret_dev = &rng->dev;
	return 0;
}
