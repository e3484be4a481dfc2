/* disk/qcow2: refcounts of every width, their tables growing, and who may use a cluster when. */
#include "disk/qcow2/tools.h"
#include "tests/unit/qcow2_fixture.h"

static struct qcow2 *tool_open(struct fixture *f)
{
	struct err err = ERR_INIT;
	struct qcow2 *q;

	if (q2_tool_open(f->path, false, false, &q, &err))
		fail_msg("%s", err.msg);
	return q;
}

static void tool_close(struct qcow2 *q)
{
	struct err err = ERR_INIT;

	if (q2_tool_close(q, 0, &err))
		fail_msg("%s", err.msg);
}

static uint64_t refcount(struct qcow2 *q, uint64_t offset)
{
	uint64_t value = 0;

	assert_int_equal(Q2_SYNC(q, q2_ref_get(q, q2_cluster_of(q, offset), &value)), 0);
	return value;
}

static void widths_hold_their_values(void **state)
{
	(void)state;
	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		uint8_t block[512];

		memset(block, 0, sizeof(block));
		for (uint64_t i = 0; i < sizeof(block) * 8 / bits; i++)
			q2_ref_store(block, bits, i, (i * 37 + 1) & q2_ref_max(bits));
		for (uint64_t i = 0; i < sizeof(block) * 8 / bits; i++)
			assert_true(q2_ref_load(block, bits, i) ==
				    ((i * 37 + 1) & q2_ref_max(bits)));
	}
}

static void neighbours_stay_as_they_are(void **state)
{
	(void)state;
	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		uint8_t block[64];

		memset(block, 0xff, sizeof(block));
		q2_ref_store(block, bits, 3, 0);
		assert_true(q2_ref_load(block, bits, 2) == q2_ref_max(bits));
		assert_true(q2_ref_load(block, bits, 3) == 0);
		assert_true(q2_ref_load(block, bits, 4) == q2_ref_max(bits));
	}
}

/* The order of bits within a byte, and of bytes: as the format has it. */
static void widths_lie_as_the_format_says(void **state)
{
	uint8_t block[16] = {0};

	(void)state;
	q2_ref_store(block, 1, 0, 1);
	q2_ref_store(block, 1, 9, 1);
	assert_int_equal(block[0], 1);
	assert_int_equal(block[1], 2);
	memset(block, 0, sizeof(block));
	q2_ref_store(block, 4, 1, 0xa);
	assert_int_equal(block[0], 0xa0);
	q2_ref_store(block, 16, 1, 0x1234);
	assert_int_equal(block[2], 0x12);
	q2_ref_store(block, 64, 1, 0x0102030405060708);
	assert_int_equal(block[8], 1);
	assert_int_equal(block[15], 8);
}

/* Tables grow through several sizes; all of them are counted, and by qemu-img too. */
static void growth_at_every_width(void **state)
{
	struct fixture *f = *state;
	uint8_t *data = malloc(MIB);

	fill_random(data, MIB, 5);
	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = 24 * MIB,
							 .cluster_bytes = 512,
							 .refcount_bits = bits});
		qcow2_open(f, (struct image_opts){0});
		for (uint64_t at = 0; at < 24 * MIB; at += MIB)
			assert_int_equal(run_write(f, data, at, MIB), 0);
		fixture_close(f);
		qcow2_assert_sound(f, false);
		if (qcow2_shell(f, "qemu-img --version"))
			assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	}
	free(data);
}

static void a_longer_table_moves_and_the_old_one_is_free(void **state)
{
	struct fixture *f = *state;
	uint64_t old_table, offset, count, entries;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){
			  .size_bytes = MIB, .cluster_bytes = 512, .refcount_bits = 64});
	q = tool_open(f);
	old_table = q->h.reftable_offset;
	entries = q->reftable_entries;
	while (q->reftable_entries == entries) {
		assert_int_equal(Q2_SYNC(q, q2_alloc(q, 16, &offset, &count)), 0);
		q2_release(q, offset, count * 512);
	}
	assert_true(q->h.reftable_offset != old_table);
	assert_int_equal(refcount(q, q->h.reftable_offset), 1);
	assert_int_equal(refcount(q, old_table), 1); /* the header on disk still names it */
	assert_int_equal(q2_tool_commit(q), 0);
	assert_int_equal(refcount(q, old_table), 0);
	tool_close(q);
	qcow2_assert_sound(f, false);
}

static void a_block_counts_itself(void **state)
{
	struct fixture *f = *state;
	uint64_t offset, count, block = 0;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){
			  .size_bytes = MIB, .cluster_bytes = 512, .refcount_bits = 64});
	q = tool_open(f);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(Q2_SYNC(q, q2_alloc(q, 16, &offset, &count)), 0);
		assert_int_equal(q2_refblock(q, offset / 512, &block), 0);
		assert_int_equal(refcount(q, block), 1);
		assert_true(block < offset || block >= offset + count * 512);
		q2_release(q, offset, count * 512);
	}
	tool_close(q);
	qcow2_assert_sound(f, false);
}

static void reuse_only_after_a_commit(void **state)
{
	struct fixture *f = *state;
	uint64_t first, second, third, count;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .cluster_bytes = 4096});
	q = tool_open(f);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &first, &count)), 0);
	assert_int_equal(q2_tool_commit(q), 0);
	q2_release(q, first, 4096);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &second, &count)), 0);
	assert_true(second != first);
	assert_int_equal(refcount(q, first), 1);
	assert_int_equal(q2_tool_commit(q), 0);
	assert_int_equal(refcount(q, first), 0);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &third, &count)), 0);
	assert_true(third == first);
	q2_release(q, second, 4096);
	q2_release(q, third, 4096);
	tool_close(q);
	qcow2_assert_sound(f, false);
}

/* One of several references is given up: the cluster stays. */
static void shared_clusters_stay(void **state)
{
	struct fixture *f = *state;
	uint64_t offset, count;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .cluster_bytes = 4096});
	q = tool_open(f);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &offset, &count)), 0);
	assert_int_equal(Q2_SYNC(q, q2_ref_set(q, q2_cluster_of(q, offset), 3)), 0);
	q2_release(q, offset, 4096);
	assert_int_equal(q2_tool_commit(q), 0);
	assert_int_equal(refcount(q, offset), 2);
	q2_release(q, offset, 4096);
	q2_release(q, offset, 4096);
	assert_int_equal(q2_tool_commit(q), 0);
	assert_int_equal(refcount(q, offset), 0);
	tool_close(q);
}

/* A write that fails leaves no cluster behind. */
static void failed_writes_give_clusters_back(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8192];

	fill_random(data, sizeof(data), 9);
	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .cluster_bytes = 4096});
	qcow2_open(f, (struct image_opts){0});
	assert_int_equal(run_write(f, data, 0, sizeof(data)), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	image_inject_fault(f->img, 1, ENOSPC);
	assert_int_equal(run_write(f, data, 64 * KIB, sizeof(data)), -ENOSPC);
	image_inject_fault(f->img, 0, 0);
	fixture_close(f);
	qcow2_assert_sound(f, false); /* no leak */
}

/* A refcount of 0 under something in use: no cluster is handed out twice. */
static void contradictions_stop_the_allocator(void **state)
{
	struct fixture *f = *state;
	uint64_t offset, count;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .cluster_bytes = 4096});
	q = tool_open(f);
	assert_int_equal(Q2_SYNC(q, q2_ref_set(q, q2_cluster_of(q, q->h.l1_offset), 0)), 0);
	q->free_hint = 0;
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &offset, &count)), -EIO);
	assert_true(q->broken);
	q2_free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(widths_hold_their_values),
	    cmocka_unit_test(neighbours_stay_as_they_are),
	    cmocka_unit_test(widths_lie_as_the_format_says),
	    QCOW2_TEST(growth_at_every_width),
	    QCOW2_TEST(a_longer_table_moves_and_the_old_one_is_free),
	    QCOW2_TEST(a_block_counts_itself),
	    QCOW2_TEST(reuse_only_after_a_commit),
	    QCOW2_TEST(shared_clusters_stay),
	    QCOW2_TEST(failed_writes_give_clusters_back),
	    QCOW2_TEST(contradictions_stop_the_allocator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
