/* A virtqueue with a driver's ring on top of it: what the tests of the queue share. */
#ifndef TESTS_UNIT_VIRTQ_RIG_H
#define TESTS_UNIT_VIRTQ_RIG_H

#include "base/checked.h"
#include "devices/virtio/virtq.h"
#include "tests/unit/virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MEM_BYTES (16 * MIB)
#define HIGH_GPA  (4 * GIB)
#define DATA_GPA  (8 * MIB)
#define SIZE	  16

struct fixture {
	struct fake_platform fp;
	struct vring r;
	struct virtq *vq;
	struct iovec iov[VIRTQ_SEGS_MAX];
	struct virtq_chain chain;
};

static inline struct virtq_config config_of(const struct vring *r)
{
	return (struct virtq_config){
	    .size = r->size, .desc = r->desc, .avail = r->avail, .used = r->used, .enabled = true};
}

static inline void make_queue(struct fixture *f, uint16_t size, uint64_t features)
{
	struct virtq_config c;

	virtq_free(f->vq);
	vring_init(&f->r, &f->fp, 0x1000, size, features);
	c = config_of(&f->r);
	assert_int_equal(virtq_new(f->fp.plat.mem, &c, features, 3, &f->vq), 0);
	f->chain = (struct virtq_chain){.iov = f->iov, .max_iov = VIRTQ_SEGS_MAX};
}

static inline int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	fake_platform_init_hole(&f.fp, MEM_BYTES, HIGH_GPA, MEM_BYTES);
	make_queue(&f, SIZE, VDRV_V1 | VDRV_INDIRECT | VDRV_EVENT);
	*state = &f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	virtq_free(f->vq);
	fake_platform_fini(&f->fp);
	return 0;
}

/* One chain as the test wrote it at head 0: what does the device make of it? */
static inline int pop_head(struct fixture *f, uint16_t head)
{
	vring_add_head(&f->r, head);
	vring_publish(&f->r);
	return virtq_pop(f->vq, &f->chain);
}

static inline void desc(struct fixture *f, unsigned i, gpa_t addr, uint32_t len, uint16_t flags,
			uint16_t next)
{
	vring_desc(&f->fp, f->r.desc, i, addr, len, flags, next);
}

#endif
