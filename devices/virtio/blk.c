/* virtio-blk: features, configuration space, life. virtio 1.2 §5.2. Requests: blk_request.c. */
#include "devices/virtio/blk.h"

#include "base/checked.h"
#include "devices/virtio/blk_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLK_QUEUE_SIZE 256
#define BLK_QUEUE_MIN  4 /* header, one piece of data, status, and a power of two */

/* Configuration space (§5.2.4). */
struct blk_config_wire {
	struct le64 capacity; /* 0x00, sectors */
	struct le32 size_max;
	struct le32 seg_max;
	struct { /* 0x10, GEOMETRY: not offered */
		struct le16 cylinders;
		uint8_t heads;
		uint8_t sectors;
	} geometry;
	struct le32 blk_size; /* 0x14 */
	struct {	      /* 0x18, in blocks of blk_size */
		uint8_t physical_block_exp;
		uint8_t alignment_offset;
		struct le16 min_io_size;
		struct le32 opt_io_size;
	} topology;
	uint8_t writeback; /* 0x20 */
	uint8_t unused0;
	struct le16 num_queues;
	struct le32 max_discard_sectors; /* 0x24 */
	struct le32 max_discard_seg;
	struct le32 discard_sector_alignment;
	struct le32 max_write_zeroes_sectors; /* 0x30 */
	struct le32 max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
};
_Static_assert(sizeof(struct blk_config_wire) == 0x3c, "configuration space");
_Static_assert(offsetof(struct blk_config_wire, blk_size) == 0x14, "configuration space");
_Static_assert(offsetof(struct blk_config_wire, topology) == 0x18, "configuration space");
_Static_assert(offsetof(struct blk_config_wire, writeback) == 0x20, "configuration space");
_Static_assert(offsetof(struct blk_config_wire, max_discard_sectors) == 0x24,
	       "configuration space");
_Static_assert(offsetof(struct blk_config_wire, write_zeroes_may_unmap) == 0x38,
	       "configuration space");

static struct virtio_blk *blk_of(struct virtio_dev *dev)
{
	return container_of(dev, struct virtio_blk, dev);
}

/* ---- configuration space ---- */

static uint8_t log2_of(uint32_t v)
{
	return v ? (uint8_t)(31 - __builtin_clz(v)) : 0;
}

static void config_fill(const struct virtio_blk *blk, struct blk_config_wire *c)
{
	const struct image_info *info = blk->info;
	const uint32_t block = info->logical_block_bytes;
	const uint32_t physical = MAX(info->physical_block_bytes, block);
	const uint32_t align = MAX(info->discard_granularity_bytes, BLK_RANGE_ALIGN);
	const unsigned segs = MIN(blk->dev.queue_size_max, VIRTQ_SEGS_MAX) - 2u;

	*c = (struct blk_config_wire){
	    .capacity = le64_put(atomic_load(&blk->capacity_bytes) / IMAGE_SECTOR_BYTES),
	    .seg_max = le32_put(segs),
	    .blk_size = le32_put(block),
	    .topology.physical_block_exp = log2_of(physical / block),
	    .topology.min_io_size = le16_put((uint16_t)MIN(physical / block, UINT16_MAX)),
	    .topology.opt_io_size = le32_put(info->optimal_io_bytes / block),
	    .writeback = atomic_load_explicit(&blk->writeback, memory_order_relaxed),
	    .num_queues = le16_put((uint16_t)blk->dev.nqueues),
	};
	if (blk->dev.features & BLK_F_DISCARD) {
		c->max_discard_sectors = le32_put(BLK_RANGE_SECTORS_MAX);
		c->max_discard_seg = le32_put(BLK_RANGE_SEGS_MAX);
		c->discard_sector_alignment = le32_put(align / IMAGE_SECTOR_BYTES);
	}
	if (blk->dev.features & BLK_F_WRITE_ZEROES) {
		c->max_write_zeroes_sectors = le32_put(BLK_RANGE_SECTORS_MAX);
		c->max_write_zeroes_seg = le32_put(BLK_RANGE_SEGS_MAX);
		c->write_zeroes_may_unmap = info->discard_granularity_bytes != 0;
	}
}

static void blk_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	struct blk_config_wire c;

	memset(buf, 0, len);
	if (offset >= sizeof(c))
		return;
	config_fill(blk_of(dev), &c);
	memcpy(buf, (const uint8_t *)&c + offset, MIN(len, sizeof(c) - offset));
}

/* The one field that a driver writes is `writeback`, once it has negotiated CONFIG_WCE. */
static void blk_config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	const unsigned at = offsetof(struct blk_config_wire, writeback);
	struct virtio_blk *blk = blk_of(dev);

	if (offset > at || at - offset >= len || !(blk->features & BLK_F_CONFIG_WCE))
		return;
	atomic_store_explicit(&blk->writeback, ((const uint8_t *)buf)[at - offset] != 0,
			      memory_order_relaxed);
}

/* ---- size ---- */

static void resize_done(struct image_grow *g)
{
	struct virtio_blk_resize *r = container_of(g, struct virtio_blk_resize, grow);

	if (!g->err.code)
		atomic_store(&r->blk->size_bytes, g->size_bytes);
	virtio_loop_job_end(&r->job);
	r->done(r);
}

static void resize_run(struct virtio_loop_job *job)
{
	struct virtio_blk_resize *r = container_of(job, struct virtio_blk_resize, job);

	image_grow(r->blk->img, &r->grow);
}

void virtio_blk_resize(struct virtio_dev *dev, struct virtio_blk_resize *r)
{
	struct virtio_blk *blk = blk_of(dev);

	r->blk = blk;
	r->grow.done = resize_done;
	r->job.run = resize_run;
	virtio_loop_alone(&blk->vl, &r->job);
}

static void show_size(struct virtio_dev *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	atomic_store(&blk->capacity_bytes, atomic_load(&blk->size_bytes));
}

void virtio_blk_resized(struct virtio_dev *dev)
{
	virtio_change_config(dev, show_size);
}

/* ---- life ---- */

static int blk_activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct virtio_blk *blk = blk_of(dev);

	blk->features = features;
	/* §5.2.5.2: a driver that may switch the cache but cannot flush it finds it off. */
	if ((features & BLK_F_CONFIG_WCE) && !(features & BLK_F_FLUSH))
		atomic_store_explicit(&blk->writeback, false, memory_order_relaxed);
	virtio_loop_start(&blk->vl, queues);
	return 0;
}

static void blk_reset(struct virtio_dev *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	virtio_loop_stop(&blk->vl);
	blk->features = 0;
	atomic_store_explicit(&blk->writeback, !blk->write_through, memory_order_relaxed);
}

static void blk_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	virtio_loop_pause(&blk_of(dev)->vl, quiet, ctx);
}

static void blk_resume(struct virtio_dev *dev)
{
	virtio_loop_resume(&blk_of(dev)->vl);
}

/* Also of a device that is half built. */
static void blk_free(struct virtio_dev *dev)
{
	struct virtio_blk *blk = blk_of(dev);

	if (blk->pool_map)
		munmap(blk->pool_map, blk->pool_map_bytes);
	virtio_loop_fini(&blk->vl);
	virtio_dev_fini(dev);
	/* Nothing is in flight: the loop's thread no longer knows the image. */
	image_detach(blk->img);
	free(blk);
}

static const struct virtio_dev_ops blk_ops = {
    .config_read = blk_config_read,
    .config_write = blk_config_write,
    .activate = blk_activate,
    .reset = blk_reset,
    .pause = blk_pause,
    .resume = blk_resume,
    .free = blk_free,
};

/* The debt of before a reset. */
static void blk_starting(struct virtio_loop *vl)
{
	struct virtio_blk *blk = container_of(vl, struct virtio_blk, vl);
	const uint64_t now_ns = loop_now_ns();

	if (blk->limit.on)
		blk_hold_back(blk, NULL, blk_limit_wait_ns(&blk->limit, now_ns), now_ns);
}

static const struct virtio_loop_ops blk_loop_ops = {
    .take = blk_take,
    .starting = blk_starting,
};

static uint64_t blk_features(const struct image_info *info, unsigned queues)
{
	uint64_t f =
	    BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_TOPOLOGY | BLK_F_CONFIG_WCE;

	if (queues > 1)
		f |= BLK_F_MQ;
	if (info->read_only)
		return f | BLK_F_RO;
	if (info->discard_granularity_bytes)
		f |= BLK_F_DISCARD;
	if (info->can_write_zeroes)
		f |= BLK_F_WRITE_ZEROES;
	return f;
}

/* One mapping for all queues: untouched memory costs nothing. */
static int map_pools(struct virtio_blk *blk)
{
	const size_t depth = blk->dev.queue_size_max, queues = blk->dev.nqueues;
	const size_t slabs_bytes = depth * sizeof(*blk->pools[0].slabs);
	const size_t requests_bytes = depth * sizeof(struct blk_request);
	uint8_t *p;

	/* at most 8 queues of 1024 entries of 4.5 KiB: no overflow */
	blk->pool_map_bytes = queues * (slabs_bytes + requests_bytes);
	p = mmap(NULL, blk->pool_map_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	/* A transparent huge page at the first touch would cost more than all else of the process.
	 */
	madvise(p, blk->pool_map_bytes, MADV_NOHUGEPAGE);
	blk->pool_map = p;
	for (size_t i = 0; i < queues; i++) {
		blk->pools[i].slabs = (void *)(p + i * slabs_bytes);
		blk->pools[i].requests = (void *)(p + queues * slabs_bytes + i * requests_bytes);
	}
	return 0;
}

static int check_config(const struct virtio_blk_config *config, struct err *err)
{
	const unsigned size = config->queue_size;

	if (!config->queues || config->queues > VIRTIO_BLK_QUEUES_MAX)
		return err_set(err, EINVAL, "disk: %u queues; 1 to %d are possible", config->queues,
			       VIRTIO_BLK_QUEUES_MAX);
	if (size && (!is_pow2(size) || size < BLK_QUEUE_MIN || size > VIRTQ_SIZE_MAX))
		return err_set(err, EINVAL, "disk: queue size %u; use a power of two from %d to %d",
			       size, BLK_QUEUE_MIN, VIRTQ_SIZE_MAX);
	return 0;
}

int virtio_blk_new(const struct virtio_blk_config *config, const struct platform *plat,
		   struct image *img, struct loop *loop, struct virtio_dev **ret_dev,
		   struct err *err)
{
	struct virtio_blk *blk;
	int r;

	(void)plat;
	r = check_config(config, err);
	if (r < 0)
		return r;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return err_set(err, ENOMEM, "%s: out of memory", image_path(img));
	blk->dev.ops = &blk_ops;
	blk->dev.name = "virtio-blk";
	blk->dev.id = VIRTIO_ID_BLOCK;
	blk->dev.nqueues = config->queues;
	blk->dev.queue_size_max = config->queue_size ? config->queue_size : BLK_QUEUE_SIZE;
	blk->dev.config_len = sizeof(struct blk_config_wire);
	blk->img = img;
	blk->info = image_info(img);
	blk->size_bytes = blk->capacity_bytes = blk->info->size_bytes;
	blk->dev.features = blk_features(blk->info, config->queues);
	blk->write_through = config->write_through;
	blk->writeback = !config->write_through;
	blk_limit_init(&blk->limit, config->bytes_per_s, config->ops_per_s);
	memcpy(blk->serial, config->serial, strnlen(config->serial, sizeof(blk->serial)));

	r = image_attach(img, loop, err);
	if (r < 0) {
		free(blk);
		return r;
	}
	virtio_loop_init(&blk->vl, &blk_loop_ops, &blk->dev, loop);
	r = virtio_dev_init(&blk->dev, err);
	if (r == 0) {
		r = map_pools(blk);
		if (r < 0)
			err_sys(err, -r, "%s: no memory for requests", image_path(img));
	}
	if (r < 0) {
		blk_free(&blk->dev);
		return r;
	}
	*ret_dev = &blk->dev;
	return 0;
}
