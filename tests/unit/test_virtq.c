/* The split virtqueue against a driver that obeys and against drivers that do not. */
#include "devices/virtio/virtq.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
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

static struct virtq_config config_of(const struct vring *r)
{
	return (struct virtq_config){
	    .size = r->size, .desc = r->desc, .avail = r->avail, .used = r->used, .enabled = true};
}

static void make_queue(struct fixture *f, uint16_t size, uint64_t features)
{
	struct virtq_config c;

	virtq_free(f->vq);
	vring_init(&f->r, &f->fp, 0x1000, size, features);
	c = config_of(&f->r);
	assert_int_equal(virtq_new(f->fp.plat.mem, &c, features, 3, &f->vq), 0);
	f->chain = (struct virtq_chain){.iov = f->iov, .max_iov = VIRTQ_SEGS_MAX};
}

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	fake_platform_init_hole(&f.fp, MEM_BYTES, HIGH_GPA, MEM_BYTES);
	make_queue(&f, SIZE, VDRV_V1 | VDRV_INDIRECT | VDRV_EVENT);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtq_free(f->vq);
	fake_platform_fini(&f->fp);
	return 0;
}

/* One chain as the test wrote it at head 0: what does the device make of it? */
static int pop_head(struct fixture *f, uint16_t head)
{
	vring_add_head(&f->r, head);
	vring_publish(&f->r);
	return virtq_pop(f->vq, &f->chain);
}

static void desc(struct fixture *f, unsigned i, gpa_t addr, uint32_t len, uint16_t flags,
		 uint16_t next)
{
	vring_desc(&f->fp, f->r.desc, i, addr, len, flags, next);
}

/* Broken for good: also a faultless chain is refused now. */
static void assert_broken(struct fixture *f)
{
	desc(f, 0, DATA_GPA, 64, 0, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
	assert_false(virtq_kick_enable(f->vq));
}

/* ---- configuration ---- */

static void test_new_refuses_bad_sizes(void **state)
{
	struct fixture *f = *state;
	static const uint16_t bad[] = {0, 3, 15, 17, 255, 1000, 2048, 32768, 65535};
	struct virtq_config c = config_of(&f->r);
	struct virtq *vq = NULL;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		c.size = bad[i];
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), -EINVAL);
		assert_null(vq);
	}
}

static void test_new_takes_every_power_of_two(void **state)
{
	struct fixture *f = *state;
	struct virtq_config c = config_of(&f->r);
	struct virtq *vq;

	for (unsigned size = 1; size <= VIRTQ_SIZE_MAX; size *= 2) {
		c = (struct virtq_config){
		    .size = (uint16_t)size, .desc = 0, .avail = 0x10000, .used = 0x20000};
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 5, &vq), 0);
		assert_int_equal(virtq_size(vq), size);
		assert_int_equal(virtq_index(vq), 5);
		virtq_free(vq);
	}
}

static void test_new_refuses_misaligned_rings(void **state)
{
	struct fixture *f = *state;
	const struct virtq_config good = config_of(&f->r);
	struct virtq *vq = NULL;

	for (unsigned off = 1; off < 16; off++) {
		struct virtq_config c = good;

		c.desc += off;
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), -EINVAL);
		c = good;
		c.avail += off;
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), off % 2 ? -EINVAL : 0);
		virtq_free(steal_ptr(&vq));
		c = good;
		c.used += off;
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), off % 4 ? -EINVAL : 0);
		virtq_free(steal_ptr(&vq));
	}
}

static void test_new_refuses_rings_outside_memory(void **state)
{
	struct fixture *f = *state;
	const struct virtq_config good = config_of(&f->r);
	/* each has a byte too few, is in the hole, or wraps round the end of the address space */
	const gpa_t desc_bad[] = {MEM_BYTES - 16 * SIZE + 16, MEM_BYTES, HIGH_GPA - 16,
				  UINT64_MAX - 15};
	const gpa_t avail_bad[] = {MEM_BYTES - 6 - 2 * SIZE + 2, MEM_BYTES, UINT64_MAX - 1};
	const gpa_t used_bad[] = {MEM_BYTES - 8 * SIZE - 4, HIGH_GPA - 4, UINT64_MAX - 3};
	struct virtq *vq = NULL;
	struct virtq_config c;

	for (size_t i = 0; i < ARRAY_LEN(desc_bad); i++) {
		c = good;
		c.desc = desc_bad[i];
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), -EFAULT);
	}
	for (size_t i = 0; i < ARRAY_LEN(avail_bad); i++) {
		c = good;
		c.avail = avail_bad[i];
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), -EFAULT);
	}
	for (size_t i = 0; i < ARRAY_LEN(used_bad); i++) {
		c = good;
		c.used = used_bad[i];
		assert_int_equal(virtq_new(f->fp.plat.mem, &c, 0, 0, &vq), -EFAULT);
	}
	assert_null(vq);
}

static void test_rings_may_end_with_memory(void **state)
{
	struct fixture *f = *state;
	struct virtq_config c = {.size = SIZE,
				 .desc = MEM_BYTES - 16 * SIZE,
				 .avail = HIGH_GPA + MEM_BYTES - 6 - 2 * SIZE,
				 .used = 0x4000};
	struct virtq *vq;

	assert_int_equal(virtq_new(f->fp.plat.mem, &c, VDRV_EVENT, 0, &vq), 0);
	assert_int_equal(virtq_pop(vq, &f->chain), 0);
	virtq_free(vq);
}

/* ---- chains ---- */

static void check_mixed_chain(struct fixture *f, bool indirect)
{
	const struct vbuf bufs[] = {
	    {DATA_GPA, 16, false},
	    {HIGH_GPA + 100, 5, false},
	    {DATA_GPA + 4096, 512, true},
	    {DATA_GPA + 9000, 1, true},
	};
	int head;

	head = vring_add(&f->r, bufs, 4, indirect);
	assert_true(head >= 0);
	assert_int_equal(virtq_pop(f->vq, &f->chain), 0); /* not published yet */
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
	assert_int_equal(f->chain.head, head);
	assert_int_equal(f->chain.nread, 2);
	assert_int_equal(f->chain.nwrite, 2);
	assert_int_equal(f->chain.read_bytes, 21);
	assert_int_equal(f->chain.write_bytes, 513);
	for (unsigned i = 0; i < 4; i++) {
		assert_ptr_equal(f->iov[i].iov_base, fake_mem(&f->fp, bufs[i].gpa, bufs[i].len));
		assert_int_equal(f->iov[i].iov_len, bufs[i].len);
	}
	assert_int_equal(virtq_pop(f->vq, &f->chain), 0);
}

static void test_direct_chain(void **state)
{
	check_mixed_chain(*state, false);
}

static void test_indirect_chain(void **state)
{
	check_mixed_chain(*state, true);
}

static void test_direct_part_then_indirect(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 16, VDESC_NEXT, 7);
	desc(f, 7, DATA_GPA + 0x1000, 32, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA + 0x1000, 0, DATA_GPA + 512, 8, VDESC_NEXT, 1);
	vring_desc(&f->fp, DATA_GPA + 0x1000, 1, DATA_GPA + 1024, 9, VDESC_WRITE, 0);
	assert_int_equal(pop_head(f, 0), 1);
	assert_int_equal(f->chain.nread, 2);
	assert_int_equal(f->chain.nwrite, 1);
	assert_int_equal(f->chain.read_bytes, 24);
	assert_int_equal(f->chain.write_bytes, 9);
}

static void test_write_flag_of_indirect_is_ignored(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 16, VDESC_INDIRECT | VDESC_WRITE, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA + 512, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), 1);
	assert_int_equal(f->chain.nread, 1);
	assert_int_equal(f->chain.nwrite, 0);
}

static void test_indirect_table_need_not_be_aligned(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA + 3, 16, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA + 3, 0, DATA_GPA + 512, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), 1);
	assert_int_equal(f->chain.read_bytes, 8);
}

/* What Linux does when it could get only a small queue: tables longer than the queue. */
static void test_indirect_table_may_be_longer_than_queue(void **state)
{
	struct fixture *f = *state;
	const gpa_t table = DATA_GPA;

	desc(f, 0, table, 200 * 16, VDESC_INDIRECT, 0);
	for (unsigned i = 0; i < 200; i++)
		vring_desc(&f->fp, table, i, DATA_GPA + MIB + i, 1, i < 199 ? VDESC_NEXT : 0,
			   (uint16_t)(i + 1));
	assert_int_equal(pop_head(f, 0), 1);
	assert_int_equal(f->chain.nread, 200);
}

static void test_empty_buffers_carry_nothing(void **state)
{
	struct fixture *f = *state;
	const struct vbuf bufs[] = {{DATA_GPA, 0, false},
				    {DATA_GPA, 16, false},
				    {UINT64_MAX, 0, true},
				    {DATA_GPA, 3, true}};

	vring_add(&f->r, bufs, 4, false);
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
	assert_int_equal(f->chain.nread, 1);
	assert_int_equal(f->chain.nwrite, 1);
	assert_int_equal(f->chain.write_bytes, 3);
}

static void test_ring_wraps(void **state)
{
	struct fixture *f = *state;
	const struct vbuf buf = {DATA_GPA, 8, true};
	uint16_t head;
	uint32_t len;

	/* past the end of the 16-bit indices, in steps that do not divide the ring */
	for (unsigned i = 0; i < 3 * 65536 / 5; i++) {
		int heads[5];

		for (unsigned k = 0; k < 5; k++)
			heads[k] = vring_add(&f->r, &buf, 1, i & 1);
		vring_publish(&f->r);
		for (unsigned k = 0; k < 5; k++) {
			assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
			assert_int_equal(f->chain.head, heads[k]);
			virtq_push(f->vq, f->chain.head, i + k);
		}
		assert_int_equal(virtq_pop(f->vq, &f->chain), 0);
		for (unsigned k = 0; k < 5; k++) {
			assert_true(vring_take(&f->r, &head, &len));
			assert_int_equal(head, heads[k]);
			assert_int_equal(len, i + k);
		}
		assert_false(vring_take(&f->r, &head, &len));
	}
}

static void test_whole_ring_may_be_out(void **state)
{
	struct fixture *f = *state;
	const struct vbuf buf = {DATA_GPA, 8, true};

	for (unsigned i = 0; i < SIZE; i++)
		assert_true(vring_add(&f->r, &buf, 1, false) >= 0);
	vring_publish(&f->r);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
	assert_int_equal(virtq_pop(f->vq, &f->chain), 0);
}

/* ---- breaches ---- */

static void test_head_out_of_range(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pop_head(f, SIZE), -EPROTO);
	assert_broken(f);
}

static void test_index_jumps(void **state)
{
	struct fixture *f = *state;

	f->r.avail_idx = SIZE + 1;
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), -EPROTO);
	assert_broken(f);
}

static void test_index_goes_back(void **state)
{
	struct fixture *f = *state;

	f->r.avail_idx = 0xffff;
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), -EPROTO);
}

static void test_more_out_than_the_ring_holds(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 8, 0, 0);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(pop_head(f, 0), 1);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_loop(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 8, VDESC_NEXT, 1);
	desc(f, 1, DATA_GPA, 8, VDESC_NEXT, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
	assert_broken(f);
}

static void test_loop_of_empty_buffers(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 0, VDESC_NEXT, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_loop_in_indirect_table(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 32, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA, 0, VDESC_NEXT, 1);
	vring_desc(&f->fp, DATA_GPA, 1, DATA_GPA, 0, VDESC_NEXT, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_next_out_of_range(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 8, VDESC_NEXT, SIZE);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_next_leaves_indirect_table(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 16, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA, 8, VDESC_NEXT, 1);
	vring_desc(&f->fp, DATA_GPA, 1, DATA_GPA, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_readable_after_writable(void **state)
{
	struct fixture *f = *state;
	const struct vbuf bufs[] = {{DATA_GPA, 8, true}, {DATA_GPA, 8, false}};

	vring_add(&f->r, bufs, 2, false);
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), -EPROTO);
}

static void test_buffers_outside_memory(void **state)
{
	struct fixture *f = *state;
	static const struct {
		gpa_t addr;
		uint32_t len;
	} bad[] = {
	    {MEM_BYTES, 1},
	    {MEM_BYTES - 1, 2},
	    {HIGH_GPA - 1, 2},
	    {HIGH_GPA + MEM_BYTES, 1},
	    {HIGH_GPA + MEM_BYTES - 4, 5},
	    {UINT64_MAX, 1},
	    {UINT64_MAX - 7, 16},
	    {0, UINT32_MAX},
	    {UINT64_C(1) << 63, 4096},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		for (uint16_t flags = 0; flags <= VDESC_WRITE; flags += VDESC_WRITE) {
			make_queue(f, SIZE, VDRV_INDIRECT);
			desc(f, 0, bad[i].addr, bad[i].len, flags, 0);
			assert_int_equal(pop_head(f, 0), -EPROTO);
		}
	}
}

static void test_indirect_not_negotiated(void **state)
{
	struct fixture *f = *state;

	make_queue(f, SIZE, VDRV_EVENT);
	desc(f, 0, DATA_GPA, 16, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_indirect_with_next(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 16, VDESC_INDIRECT | VDESC_NEXT, 1);
	desc(f, 1, DATA_GPA, 8, 0, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_nested_indirect(void **state)
{
	struct fixture *f = *state;

	desc(f, 0, DATA_GPA, 16, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA + 512, 16, VDESC_INDIRECT, 0);
	vring_desc(&f->fp, DATA_GPA + 512, 0, DATA_GPA, 8, 0, 0);
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

static void test_bad_indirect_tables(void **state)
{
	struct fixture *f = *state;
	static const struct {
		gpa_t addr;
		uint32_t len;
	} bad[] = {
	    {DATA_GPA, 0},
	    {DATA_GPA, 15},
	    {DATA_GPA, 17},
	    {DATA_GPA, 16 * (VIRTQ_SIZE_MAX + 1)},
	    {DATA_GPA, UINT32_MAX & ~15u},
	    {MEM_BYTES - 8, 16},
	    {MEM_BYTES, 16},
	    {UINT64_MAX - 15, 32},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		make_queue(f, SIZE, VDRV_INDIRECT);
		vring_desc(&f->fp, DATA_GPA, 0, DATA_GPA, 8, 0, 0);
		desc(f, 0, bad[i].addr, bad[i].len, VDESC_INDIRECT, 0);
		assert_int_equal(pop_head(f, 0), -EPROTO);
	}
}

static void test_more_buffers_than_iovecs(void **state)
{
	struct fixture *f = *state;
	const struct vbuf bufs[] = {
	    {DATA_GPA, 8, false}, {DATA_GPA, 8, false}, {DATA_GPA, 8, true}};

	f->chain.max_iov = 2;
	vring_add(&f->r, bufs, 3, true);
	vring_publish(&f->r);
	assert_int_equal(virtq_pop(f->vq, &f->chain), -EPROTO);
}

/* 1024 buffers of 8 MiB: more than 32 bits can count. */
static void test_length_overflows(void **state)
{
	struct fixture *f = *state;
	static struct iovec iov[VIRTQ_SIZE_MAX];

	f->chain = (struct virtq_chain){.iov = iov, .max_iov = VIRTQ_SIZE_MAX};
	desc(f, 0, DATA_GPA, 16 * VIRTQ_SIZE_MAX, VDESC_INDIRECT, 0);
	for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
		vring_desc(&f->fp, DATA_GPA, i, 0, 8 * MIB, i < VIRTQ_SIZE_MAX - 1 ? VDESC_NEXT : 0,
			   (uint16_t)(i + 1));
	assert_int_equal(pop_head(f, 0), -EPROTO);
}

/* ---- notifications ---- */

static void push_one(struct fixture *f)
{
	desc(f, 0, DATA_GPA, 8, VDESC_WRITE, 0);
	assert_int_equal(pop_head(f, 0), 1);
	virtq_push(f->vq, 0, 8);
}

static void test_nothing_pushed_nothing_to_notify(void **state)
{
	struct fixture *f = *state;

	for (unsigned event = 0; event < 2; event++) {
		make_queue(f, SIZE, event ? VDRV_EVENT : 0);
		vring_irq_on(&f->r, 1);
		assert_false(virtq_should_notify(f->vq));
		push_one(f);
		assert_true(virtq_should_notify(f->vq));
		assert_false(virtq_should_notify(f->vq));
	}
}

static void test_flag_suppresses_interrupts(void **state)
{
	struct fixture *f = *state;

	make_queue(f, SIZE, 0);
	vring_irq_off(&f->r);
	push_one(f);
	assert_false(virtq_should_notify(f->vq));
	vring_irq_on(&f->r, 1);
	push_one(f);
	assert_true(virtq_should_notify(f->vq));
}

/* With event index the flag says nothing. */
static void test_flag_means_nothing_with_event_idx(void **state)
{
	struct fixture *f = *state;

	vring_irq_on(&f->r, 1);
	le16_store(fake_mem(&f->fp, f->r.avail, 2), 1);
	push_one(f);
	assert_true(virtq_should_notify(f->vq));
}

/* Everywhere on the circle of indices, for batches of every length: exactly when used_event is
 * passed. */
static void test_used_event_is_exact(void **state)
{
	struct fixture *f = *state;
	uint16_t used = 0;

	for (unsigned step = 0; step < 3000; step++) {
		const unsigned batch = step % SIZE + 1;
		const uint16_t ahead = (uint16_t)(step * 7 % 40);
		/* from 10 behind to 29 ahead of where the batch starts */
		const uint16_t event = (uint16_t)(used + ahead - 10);
		const bool expect = ahead >= 10 && ahead - 10 < (int)batch;

		le16_store(fake_mem(&f->fp, f->r.avail + 4 + 2 * SIZE, 2), event);
		for (unsigned i = 0; i < batch; i++)
			push_one(f);
		used = (uint16_t)(used + batch);
		assert_int_equal(virtq_should_notify(f->vq), expect);
		/* fast round the circle */
		if (step % 100 == 0) {
			for (unsigned i = 0; i < 3000; i++)
				push_one(f);
			used = (uint16_t)(used + 3000);
			virtq_should_notify(f->vq);
		}
	}
}

static void check_kicks(struct fixture *f, uint64_t features)
{
	uint16_t old;

	make_queue(f, SIZE, features);
	desc(f, 0, DATA_GPA, 8, 0, 0);
	assert_false(virtq_kick_enable(f->vq));
	for (unsigned i = 0; i < 70000; i++) {
		/* waiting for work: the driver must kick */
		old = f->r.published_idx;
		vring_add_head(&f->r, 0);
		vring_publish(&f->r);
		assert_true(vring_wants_kick(&f->r, old));

		/* busy: it need not */
		virtq_kick_disable(f->vq);
		assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
		old = f->r.published_idx;
		vring_add_head(&f->r, 0);
		vring_publish(&f->r);
		assert_false(vring_wants_kick(&f->r, old));

		/* work that came meanwhile is not missed */
		assert_true(virtq_kick_enable(f->vq));
		virtq_kick_disable(f->vq);
		assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
		assert_false(virtq_kick_enable(f->vq));
		virtq_push(f->vq, 0, 0);
		virtq_push(f->vq, 0, 0);
	}
}

static void test_kicks_by_flag(void **state)
{
	check_kicks(*state, 0);
}

static void test_kicks_by_event_idx(void **state)
{
	check_kicks(*state, VDRV_EVENT);
}

/* ---- two threads ---- */

#define RACE_CHAINS 200000

struct race {
	struct fixture *f;
	_Atomic bool kicked;
	_Atomic bool notified;
	_Atomic bool lost;
};

static bool spin_for(_Atomic bool *flag, _Atomic bool *stop)
{
	for (uint64_t spins = 0; !atomic_exchange(flag, false); spins++) {
		if (atomic_load(stop) || spins > 20000000) {
			atomic_store(stop, true);
			return false;
		}
		if (spins > 100)
			sched_yield();
	}
	return true;
}

/* The device: sleeps until it is kicked, and only the suppression protocol keeps it from sleeping
 * for ever. */
static void *race_device(void *arg)
{
	struct race *race = arg;
	struct fixture *f = race->f;
	unsigned done = 0;

	while (done < RACE_CHAINS) {
		do {
			virtq_kick_disable(f->vq);
			while (virtq_pop(f->vq, &f->chain) == 1) {
				virtq_push(f->vq, f->chain.head, done++);
			}
			if (virtq_should_notify(f->vq))
				atomic_store(&race->notified, true);
		} while (virtq_kick_enable(f->vq));
		if (done < RACE_CHAINS && !spin_for(&race->kicked, &race->lost))
			break;
	}
	return NULL;
}

/* The driver: sleeps until it is notified, with an eye on the used ring only before it does. */
static void check_race(struct fixture *f, uint64_t features)
{
	const struct vbuf buf = {DATA_GPA, 8, true};
	struct race race = {.f = f};
	unsigned sent = 0, got = 0;
	pthread_t device;
	uint16_t head, old;
	uint32_t len;

	make_queue(f, SIZE, features);
	vring_irq_off(&f->r);
	assert_int_equal(pthread_create(&device, NULL, race_device, &race), 0);
	while (got < RACE_CHAINS && !atomic_load(&race.lost)) {
		old = f->r.published_idx;
		while (sent < RACE_CHAINS && vring_add(&f->r, &buf, 1, false) >= 0)
			sent++;
		if (f->r.avail_idx != old) {
			vring_publish(&f->r);
			if (vring_wants_kick(&f->r, old))
				atomic_store(&race.kicked, true);
		}
		vring_irq_on(&f->r, 1);
		if (!vring_used_waiting(&f->r) && !spin_for(&race.notified, &race.lost))
			break;
		vring_irq_off(&f->r);
		while (vring_take(&f->r, &head, &len)) {
			if (len != got)
				atomic_store(&race.lost, true);
			got++;
		}
	}
	pthread_join(device, NULL);
	assert_false(race.lost);
	assert_int_equal(got, RACE_CHAINS);
}

static void test_no_notification_is_lost_with_flags(void **state)
{
	check_race(*state, 0);
}

static void test_no_notification_is_lost_with_event_idx(void **state)
{
	check_race(*state, VDRV_EVENT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_new_refuses_bad_sizes),
	    T(test_new_takes_every_power_of_two),
	    T(test_new_refuses_misaligned_rings),
	    T(test_new_refuses_rings_outside_memory),
	    T(test_rings_may_end_with_memory),
	    T(test_direct_chain),
	    T(test_indirect_chain),
	    T(test_direct_part_then_indirect),
	    T(test_write_flag_of_indirect_is_ignored),
	    T(test_indirect_table_need_not_be_aligned),
	    T(test_indirect_table_may_be_longer_than_queue),
	    T(test_empty_buffers_carry_nothing),
	    T(test_ring_wraps),
	    T(test_whole_ring_may_be_out),
	    T(test_head_out_of_range),
	    T(test_index_jumps),
	    T(test_index_goes_back),
	    T(test_more_out_than_the_ring_holds),
	    T(test_loop),
	    T(test_loop_of_empty_buffers),
	    T(test_loop_in_indirect_table),
	    T(test_next_out_of_range),
	    T(test_next_leaves_indirect_table),
	    T(test_readable_after_writable),
	    T(test_buffers_outside_memory),
	    T(test_indirect_not_negotiated),
	    T(test_indirect_with_next),
	    T(test_nested_indirect),
	    T(test_bad_indirect_tables),
	    T(test_more_buffers_than_iovecs),
	    T(test_length_overflows),
	    T(test_nothing_pushed_nothing_to_notify),
	    T(test_flag_suppresses_interrupts),
	    T(test_flag_means_nothing_with_event_idx),
	    T(test_used_event_is_exact),
	    T(test_kicks_by_flag),
	    T(test_kicks_by_event_idx),
	    T(test_no_notification_is_lost_with_flags),
	    T(test_no_notification_is_lost_with_event_idx),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
