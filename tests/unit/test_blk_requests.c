/* virtio-blk: every other request type, and errors of the host. */
#include "tests/unit/blk_fixture.h"

/* ---- flush, write cache ---- */

static void test_flush(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(f->log[0].op, IMAGE_FLUSH);
	fake_image_fail(&f->fi, 1, EIO);
	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_IOERR);
	rig_start(&f->rig, 0, 1);
	assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_UNSUPP);
}

static unsigned write_flags(struct fixture *f)
{
	submitted(f);
	assert_int_equal(rig_do(&f->rig, 0, T_OUT, 0, DATA, 512), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(f->log[0].op, IMAGE_WRITE);
	return f->log[0].flags;
}

static void test_write_cache_follows_what_was_negotiated(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->rig.d;
	struct virtio_blk_config through = plain_config;

	/* a driver that cannot flush gets durable writes */
	rig_start(&f->rig, 0, 1);
	assert_int_equal(write_flags(f), IMAGE_FUA);
	rig_start(&f->rig, F_FLUSH, 1);
	assert_int_equal(write_flags(f), 0);
	rig_start(&f->rig, F_CONFIG_WCE, 1);
	assert_int_equal(vdrv_config(d, 32, 1), 0);
	assert_int_equal(write_flags(f), IMAGE_FUA);

	/* switched off and on; a reset forgets it */
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	assert_int_equal(write_flags(f), 0);
	vdrv_set_config(d, 32, 1, 0);
	assert_int_equal(vdrv_config(d, 32, 1), 0);
	assert_int_equal(write_flags(f), IMAGE_FUA);
	vdrv_set_config(d, 32, 1, 1);
	assert_int_equal(write_flags(f), 0);
	vdrv_set_config(d, 32, 1, 0);
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	assert_int_equal(vdrv_config(d, 32, 1), 1);

	/* not without CONFIG_WCE, and no other field */
	rig_start(&f->rig, F_FLUSH, 1);
	vdrv_set_config(d, 32, 1, 0);
	assert_int_equal(vdrv_config(d, 32, 1), 1);
	rig_start(&f->rig, F_FLUSH | F_CONFIG_WCE, 1);
	for (unsigned at = 0; at < 64; at += 4) {
		const uint64_t before = vdrv_config(d, at, 4);

		if (at == 32)
			continue;
		vdrv_set_config(d, at, 4, ~before);
		assert_int_equal(vdrv_config(d, at, 4), before);
	}

	through.write_through = true;
	replug(f, &plain_disk, &through);
	rig_start(&f->rig, F_FLUSH, 1);
	assert_int_equal(write_flags(f), IMAGE_FUA);
}

/* With the cache off, zeroes are as durable as data. */
static void test_write_zeroes_without_cache_are_flushed(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, F_WRITE_ZEROES, 1);
	rig_range(&f->rig, DATA, 0, 8, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 2);
	assert_int_equal(f->log[0].op, IMAGE_WRITE_ZEROES);
	assert_int_equal(f->log[1].op, IMAGE_FLUSH);
	rig_start(&f->rig, F_WRITE_ZEROES | F_FLUSH, 1);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 1);
}

/* ---- discard, write zeroes ---- */

static void test_ranges_reach_the_image(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint32_t type, flags;
		enum image_op op;
		unsigned image_flags;
	} cases[] = {
	    {T_DISCARD, 0, IMAGE_DISCARD, 0},
	    {T_WRITE_ZEROES, 0, IMAGE_WRITE_ZEROES, 0},
	    {T_WRITE_ZEROES, 1, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP},
	};
	const unsigned max = (unsigned)vdrv_config(&f->rig.d, 40, 4);

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (unsigned k = 0; k < max; k++)
			rig_range(&f->rig, DATA, k, 100 * k + 7, k + 1, cases[i].flags);
		memset(f->fi.data, 0x55, DISK_BYTES);
		assert_int_equal(rig_do(&f->rig, 0, cases[i].type, 0, DATA, 16 * max), S_OK);
		assert_int_equal(submitted(f), max);
		for (unsigned k = 0; k < max; k++) {
			assert_int_equal(f->log[k].op, cases[i].op);
			assert_int_equal(f->log[k].flags, cases[i].image_flags);
			assert_int_equal(f->log[k].offset_bytes, (100 * k + 7) * 512);
			assert_int_equal(f->log[k].len_bytes, (k + 1) * 512);
		}
	}
}

static void test_empty_ranges_are_skipped(void **state)
{
	struct fixture *f = *state;

	rig_range(&f->rig, DATA, 0, 5, 0, 0);
	rig_range(&f->rig, DATA, 1, 6, 1, 0);
	rig_range(&f->rig, DATA, 2, DISK_SECTORS, 0, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 48), S_OK);
	assert_int_equal(submitted(f), 1);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_OK);
	assert_int_equal(submitted(f), 0);
}

static void test_unknown_flags_are_unsupported(void **state)
{
	struct fixture *f = *state;

	for (unsigned bit = 0; bit < 32; bit++) {
		rig_range(&f->rig, DATA, 0, 0, 8, 0);
		rig_range(&f->rig, DATA, 1, 8, 8, 1u << bit);
		assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 32), S_UNSUPP);
		assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 32),
				 bit ? S_UNSUPP : S_OK);
	}
	assert_int_equal(submitted(f), 2); /* unmap, both ranges; of the refused ones nothing */
	assert_alive(f);
}

static void test_bad_discards_are_io_errors(void **state)
{
	struct fixture *f = *state;
	const uint32_t max = (uint32_t)vdrv_config(&f->rig.d, 36, 4);
	const uint32_t segs = (uint32_t)vdrv_config(&f->rig.d, 40, 4);
	const struct {
		uint64_t sector;
		uint32_t sectors;
	} bad[] = {
	    {DISK_SECTORS, 1},	      {DISK_SECTORS - 1, 2}, {UINT64_MAX, 1},
	    {UINT64_MAX, UINT32_MAX}, {0, max + 1},	     {0, UINT32_MAX},
	    {UINT64_C(1) << 55, 1},   {1, DISK_SECTORS},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		rig_range(&f->rig, DATA, 0, 0, 8, 0);
		rig_range(&f->rig, DATA, 1, bad[i].sector, bad[i].sectors, 0);
		assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 32), S_IOERR);
		assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 32), S_IOERR);
	}
	for (unsigned i = 0; i <= segs; i++)
		rig_range(&f->rig, DATA, i, 0, 1, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16 * (segs + 1)), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, MIB), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 15), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 17), S_IOERR);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 0), S_IOERR);
	assert_int_equal(submitted(f), 0);
	assert_alive(f);
}

static void test_ranges_not_negotiated_are_unsupported(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, F_FLUSH, 1);
	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16), S_UNSUPP);
	assert_int_equal(submitted(f), 0);
}

static void test_failed_range_ends_the_request(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++)
		rig_range(&f->rig, DATA, i, 8 * i, 8, 0);
	fake_image_fail(&f->fi, 1, ENOSPC);
	assert_int_equal(rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 64), S_IOERR);
	assert_int_equal(submitted(f), 1);
	assert_alive(f);
}

/* ---- serial number, unknown types ---- */

static void test_serial_number(void **state)
{
	struct fixture *f = *state;
	const struct virtio_blk_config short_serial = {.serial = "s1", .queues = 1};
	static const char padded[20] = "s1";

	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 20), S_OK);
	assert_memory_equal(mem(f, DATA, 20), SERIAL, 20);
	assert_int_equal(*mem(f, DATA + 20, 1), 0xaa);
	/* a buffer that is too short, or too long, is filled as far as both go */
	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_true(rig_add(&f->rig, 0, T_GET_ID, 0, DATA, 7));
	assert_int_equal(rig_finish(&f->rig, 0, 1), 8);
	assert_memory_equal(mem(f, DATA, 7), SERIAL, 7);
	assert_int_equal(*mem(f, DATA + 7, 1), 0xaa);
	assert_true(rig_add(&f->rig, 0, T_GET_ID, 0, DATA, 30));
	assert_int_equal(rig_finish(&f->rig, 0, 1), 20);
	assert_int_equal(*mem(f, DATA + 20, 1), 0xaa);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 0), S_OK);

	replug(f, &plain_disk, &short_serial);
	rig_start(&f->rig, DEFAULT, 1);
	memset(mem(f, DATA, 64), 0xaa, 64);
	assert_int_equal(rig_do(&f->rig, 0, T_GET_ID, 0, DATA, 20), S_OK);
	assert_memory_equal(mem(f, DATA, 20), padded, 20);
}

static void test_unknown_types_are_unsupported(void **state)
{
	struct fixture *f = *state;
	static const uint32_t known[] = {T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES};

	for (uint64_t type = 0; type <= UINT32_MAX; type = type < 64 ? type + 1 : type * 3) {
		bool is_known = false;

		for (size_t i = 0; i < ARRAY_LEN(known); i++)
			is_known |= known[i] == type;
		if (!is_known)
			assert_int_equal(rig_do(&f->rig, 0, (uint32_t)type, 0, DATA, 512),
					 S_UNSUPP);
	}
	assert_int_equal(submitted(f), 0);
	assert_alive(f);
}

/* ---- errors of the host ---- */

static void test_host_errors_are_io_errors(void **state)
{
	struct fixture *f = *state;
	static const int errors[] = {EIO, ENOSPC, EDQUOT, EINVAL, ENOMEM, ECANCELED};
	struct virtio_blk_stats stats;

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		fake_image_fail(&f->fi, 2, errors[i]);
		assert_int_equal(rig_do(&f->rig, 1, T_OUT, 0, DATA, 512), S_IOERR);
		assert_int_equal(rig_do(&f->rig, 2, T_IN, 0, DATA, 512), S_IOERR);
		assert_alive(f);
	}
	virtio_blk_stats(f->rig.dev, &stats);
	assert_int_equal(stats.op[VIRTIO_BLK_WRITE].errors, ARRAY_LEN(errors));
	assert_int_equal(stats.op[VIRTIO_BLK_READ].errors, ARRAY_LEN(errors));
	assert_int_equal(stats.op[VIRTIO_BLK_WRITE].operations, 0);
	assert_int_equal(stats.op[VIRTIO_BLK_WRITE].latency_sum_ns, 0);
	assert_int_equal(stats.in_flight, 0);
}

static void expect_stats(const struct virtio_blk_op_stats *s, uint64_t operations, uint64_t bytes)
{
	uint64_t in_buckets = 0, least_ns = 0;

	for (unsigned n = 0; n < VIRTIO_BLK_LATENCY_BUCKETS; n++) {
		in_buckets += s->latency[n];
		least_ns += s->latency[n] * (n ? UINT64_C(1000) << (n - 1) : 0);
	}
	assert_int_equal(s->operations, operations);
	assert_int_equal(s->bytes, bytes);
	assert_int_equal(s->errors, 0);
	/* every one is in a bucket, and the sum is within what the buckets say */
	assert_int_equal(in_buckets, operations);
	assert_in_range(s->latency_sum_ns, least_ns, 2 * least_ns + 1000 * operations);
}

static void test_statistics(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_stats s;

	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	for (unsigned q = 0; q < QUEUES; q++) {
		rig_do(&f->rig, q, T_IN, 0, DATA + 4096, 512);
		rig_do(&f->rig, q, T_OUT, 0, DATA + 4096, 1024);
	}
	rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0);
	rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16);
	rig_do(&f->rig, 0, T_WRITE_ZEROES, 0, DATA, 16);
	virtio_blk_stats(f->rig.dev, &s);
	expect_stats(&s.op[VIRTIO_BLK_READ], QUEUES, QUEUES * 512);
	expect_stats(&s.op[VIRTIO_BLK_WRITE], QUEUES, QUEUES * 1024);
	expect_stats(&s.op[VIRTIO_BLK_FLUSH], 1, 0);
	expect_stats(&s.op[VIRTIO_BLK_DISCARD], 1, 4096);
	expect_stats(&s.op[VIRTIO_BLK_WRITE_ZEROES], 1, 4096);
	assert_int_equal(s.in_flight, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_flush),
	    BOTH(test_write_cache_follows_what_was_negotiated),
	    BOTH(test_write_zeroes_without_cache_are_flushed),
	    BOTH(test_ranges_reach_the_image),
	    BOTH(test_empty_ranges_are_skipped),
	    BOTH(test_unknown_flags_are_unsupported),
	    BOTH(test_bad_discards_are_io_errors),
	    BOTH(test_ranges_not_negotiated_are_unsupported),
	    BOTH(test_failed_range_ends_the_request),
	    BOTH(test_serial_number),
	    BOTH(test_unknown_types_are_unsupported),
	    BOTH(test_host_errors_are_io_errors),
	    BOTH(test_statistics),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
