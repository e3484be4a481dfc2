/* The split virtqueue: configuration, chains, and drivers that break the rules. */
#include "base/cleanup.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/virtq_rig.h"

#include <errno.h>

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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
