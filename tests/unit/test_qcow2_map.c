/* disk/qcow2: where a guest's bytes lie, entry by entry. */
#include "disk/qcow2/tools.h"
#include "tests/unit/qcow2_fixture.h"

#define CLUSTER UINT64_C(65536)

/* An image whose first table is there, and so are 64 clusters of data from `base` on. */
struct map_rig {
	struct qcow2 *q;
	uint64_t base;
};

static struct map_rig rig_new(struct fixture *f, struct qcow2_create_opts o)
{
	struct err err = ERR_INIT;
	struct map_rig rig = {0};

	o.size_bytes = o.size_bytes ? o.size_bytes : 64 * MIB;
	qcow2_make(f, o);
	if (q2_tool_open(f->path, false, false, &rig.q, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(q2_tool_table(rig.q, 0), 0);
	assert_int_equal(q2_alloc_contiguous(rig.q, 64, &rig.base), 0);
	return rig;
}

static void set(const struct map_rig *rig, uint64_t n, uint64_t word, uint64_t bitmap)
{
	struct q2_table *t;

	assert_int_equal(Q2_SYNC(rig->q, q2_l2_get(rig->q, n * CLUSTER, &t)), 0);
	q2_entry_store(rig->q, t, n * CLUSTER, (struct q2_entry){word, bitmap});
}

static struct q2_extent map(const struct map_rig *rig, uint64_t guest, uint64_t len)
{
	struct q2_extent ext = {0};

	assert_int_equal(Q2_SYNC(rig->q, q2_map(rig->q, guest, len, &ext)), 0);
	return ext;
}

static void kinds(void **state)
{
	struct map_rig rig = rig_new(*state, (struct qcow2_create_opts){0});
	struct q2_extent ext;

	set(&rig, 1, rig.base | Q2_COPIED, 0);
	set(&rig, 2, rig.base + 4 * CLUSTER, 0);
	set(&rig, 3, Q2_L2_ZERO, 0);
	set(&rig, 4, (rig.base + 5 * CLUSTER) | Q2_COPIED | Q2_L2_ZERO, 0);
	set(&rig, 5, q2_entry_make_compressed(rig.q, rig.base + 6 * CLUSTER + 100, 1000), 0);
	ext = map(&rig, 0, 4096);
	assert_int_equal(ext.kind, Q2_UNALLOCATED);
	assert_true(ext.len == 4096);
	ext = map(&rig, CLUSTER + 512, CLUSTER - 512);
	assert_int_equal(ext.kind, Q2_DATA);
	assert_true(ext.copied && ext.host == rig.base + 512);
	ext = map(&rig, 2 * CLUSTER, 512);
	assert_true(ext.kind == Q2_DATA && !ext.copied);
	ext = map(&rig, 3 * CLUSTER, CLUSTER);
	assert_true(ext.kind == Q2_ZERO && !ext.host);
	ext = map(&rig, 4 * CLUSTER + 512, 512);
	assert_true(ext.kind == Q2_ZERO && ext.host == rig.base + 5 * CLUSTER + 512);
	ext = map(&rig, 5 * CLUSTER + 512, 8 * CLUSTER);
	assert_int_equal(ext.kind, Q2_COMPRESSED_DATA);
	assert_true(ext.host == rig.base + 6 * CLUSTER + 100 && ext.len == CLUSTER - 512);
	assert_true(!ext.copied && ext.host_len >= 1000 && ext.host_len < 1000 + 512);
	q2_free(rig.q);
}

static void extents_end_where_the_file_jumps(void **state)
{
	struct map_rig rig = rig_new(*state, (struct qcow2_create_opts){0});

	for (unsigned i = 0; i < 4; i++)
		set(&rig, i, (rig.base + i * CLUSTER) | Q2_COPIED, 0);
	set(&rig, 4, (rig.base + 9 * CLUSTER) | Q2_COPIED, 0);
	set(&rig, 5, rig.base + 10 * CLUSTER, 0); /* goes on, but must not be written in place */
	assert_true(map(&rig, 0, 64 * CLUSTER).len == 4 * CLUSTER);
	assert_true(map(&rig, 512, 64 * CLUSTER).len == 4 * CLUSTER - 512);
	assert_true(map(&rig, 512, CLUSTER).len == CLUSTER);
	assert_true(map(&rig, 4 * CLUSTER, 64 * CLUSTER).len == CLUSTER);
	q2_free(rig.q);
}

/* The disk's first 32 MiB are one piece of the table. */
static void extents_end_with_their_piece(void **state)
{
	struct map_rig rig = rig_new(*state, (struct qcow2_create_opts){0});

	assert_true(map(&rig, 31 * MIB, 4 * MIB).len == MIB);
	assert_true(map(&rig, 32 * MIB, 4 * MIB).len == 4 * MIB);
	q2_free(rig.q);
}

static void no_table_is_a_long_hole(void **state)
{
	struct map_rig rig =
	    rig_new(*state, (struct qcow2_create_opts){.size_bytes = UINT64_C(4) << 30});

	assert_true(map(&rig, GIB + MIB, 2 * GIB).len == 512 * MIB - MIB);
	q2_free(rig.q);
}

static void subclusters(void **state)
{
	struct map_rig rig = rig_new(*state, (struct qcow2_create_opts){.extended_l2 = true});
	struct q2_extent ext;

	/* 0-3 data, 4-7 zero, 8 nothing, 9 data, the rest nothing */
	set(&rig, 1, rig.base | Q2_COPIED, UINT64_C(0xf0) << 32 | 0x20f);
	ext = map(&rig, CLUSTER, CLUSTER);
	assert_true(ext.kind == Q2_DATA && ext.len == 4 * 2048 && ext.host == rig.base);
	ext = map(&rig, CLUSTER + 4 * 2048 + 512, CLUSTER);
	assert_true(ext.kind == Q2_ZERO && ext.len == 4 * 2048 - 512);
	ext = map(&rig, CLUSTER + 8 * 2048, CLUSTER);
	assert_true(ext.kind == Q2_UNALLOCATED && ext.len == 2048);
	ext = map(&rig, CLUSTER + 9 * 2048, CLUSTER);
	assert_true(ext.kind == Q2_DATA && ext.len == 2048 && ext.host == rig.base + 9 * 2048);
	q2_free(rig.q);
}

static void broken_entries(void **state)
{
	static const struct {
		bool extl2;
		uint64_t word, bitmap;
	} bad[] = {
	    {false, Q2_COPIED | 0x10200, 0},		      /* not on a cluster */
	    {false, Q2_COPIED | UINT64_C(0x7fffffff0000), 0}, /* past the end */
	    {false, Q2_COPIED | 0x10000, 0},		      /* the refcount table */
	    {false, Q2_COMPRESSED | 100, 0},		      /* within the header */
	    {false, Q2_COMPRESSED | UINT64_C(0x3fffffffffff), 0},
	    {true, 0, 1},			      /* data without a cluster */
	    {true, Q2_COPIED, UINT64_C(1) << 32 | 1}, /* data and zero */
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct map_rig rig =
		    rig_new(*state, (struct qcow2_create_opts){.extended_l2 = bad[i].extl2});
		struct q2_extent ext;

		set(&rig, 0, bad[i].word, bad[i].bitmap);
		assert_int_equal(Q2_SYNC(rig.q, q2_map(rig.q, 0, 512, &ext)), -EIO);
		assert_true(rig.q->broken);
		q2_free(rig.q);
	}
}

/* All that an entry can say about compressed data comes back; sectors that it touches are counted.
 */
static void compressed_entries(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (unsigned bits = 9; bits <= 21; bits++) {
		struct qcow2 q = {.cluster_bits = bits, .cluster_bytes = 1u << bits};
		uint64_t largest = UINT64_C(1) << (62 - (bits - 8));

		for (unsigned i = 0; i < 1000; i++) {
			uint64_t offset = next_random(&seed) * UINT64_C(12345) % largest, at;
			uint32_t len = 1 + next_random(&seed) % (1u << bits), got;
			uint64_t word = q2_entry_make_compressed(&q, offset, len);

			assert_true(word & Q2_COMPRESSED && !(word & Q2_COPIED));
			q2_entry_compressed(&q, word, &at, &got);
			assert_true(at == offset);
			assert_true(got >= len && (offset + got) % 512 == 0);
			assert_true(offset + got - 512 < offset + len);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(kinds),
	    QCOW2_TEST(extents_end_where_the_file_jumps),
	    QCOW2_TEST(extents_end_with_their_piece),
	    QCOW2_TEST(no_table_is_a_long_hole),
	    QCOW2_TEST(subclusters),
	    QCOW2_TEST(broken_entries),
	    cmocka_unit_test(compressed_entries),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
