/*
 * disk/qcow2: images that are damaged here are found to be so, and repaired; qemu-img check, where
 * it is there, finds the same before and nothing after.
 */
#include "disk/qcow2/tools.h"
#include "tests/unit/qcow2_fixture.h"

#define CLUSTER 4096u
#define BYTES	(256 * CLUSTER)

enum { QEMU_CLEAN = 0, QEMU_CORRUPT = 2, QEMU_LEAKS = 3 };

static uint8_t contents[BYTES];

static void make(struct fixture *f, struct qcow2_create_opts o)
{
	fill_random(contents, BYTES / 2, 4);
	memset(contents + BYTES / 2, 0, BYTES / 2);
	o.size_bytes = BYTES;
	o.cluster_bytes = CLUSTER;
	qcow2_make(f, o);
	qcow2_open(f, (struct image_opts){0});
	assert_int_equal(run_write(f, contents, 0, BYTES / 2), 0);
	fixture_close(f);
}

/* Opened as it is, and closed without a word about what it says now. */
static struct qcow2 *begin(struct fixture *f)
{
	struct err err = ERR_INIT;
	struct qcow2 *q;

	if (q2_tool_open(f->path, false, true, &q, &err))
		fail_msg("%s", err.msg);
	return q;
}

static void finish(struct qcow2 *q)
{
	assert_int_equal(q2_tool_commit(q), 0);
	q2_free(q);
}

static void set_refcount(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
	assert_int_equal(Q2_SYNC(q, q2_ref_set(q, cluster, value)), 0);
}

static uint64_t entry_of(struct qcow2 *q, uint64_t guest, struct q2_table **ret_t)
{
	assert_int_equal(Q2_SYNC(q, q2_l2_get(q, guest, ret_t)), 0);
	return q2_entry_load(q, *ret_t, guest).word;
}

static void print_problem(void *ctx, const char *line)
{
	(void)ctx;
	print_message("%s\n", line);
}

static struct qcow2_check_result check(struct fixture *f, unsigned repair)
{
	struct qcow2_check_ops ops = {.problem = print_problem};
	struct qcow2_check_result res;
	struct err err = ERR_INIT;

	if (qcow2_check(f->path, repair, &ops, &res, &err))
		fail_msg("%s", err.msg);
	return res;
}

static void assert_qemu_says(struct fixture *f, int code)
{
	char cmd[80];

	snprintf(cmd, sizeof(cmd), "qemu-img check disk.qcow2; [ $? = %d ]", code);
	if (qcow2_shell(f, "qemu-img --version") && !qcow2_shell(f, cmd))
		fail_msg("qemu-img check: not %d", code);
}

static void assert_whole(struct fixture *f)
{
	uint8_t *got = malloc(BYTES);

	qcow2_assert_sound(f, false);
	assert_qemu_says(f, QEMU_CLEAN);
	qcow2_open(f, (struct image_opts){0});
	assert_int_equal(run_read(f, got, 0, BYTES), 0);
	assert_memory_equal(got, contents, BYTES);
	assert_int_equal(run_write(f, contents, 0, BYTES), 0);
	fixture_close(f);
	qcow2_assert_sound(f, false);
	free(got);
}

static void leaks_are_given_back(void **state)
{
	struct fixture *f = *state;
	uint64_t offset, count;
	struct qcow2 *q;

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 2, &offset, &count)), 0);
	assert_int_equal(count, 2);
	finish(q);
	assert_int_equal(truncate(f->path, (off_t)(offset + 2 * CLUSTER)), 0);
	assert_qemu_says(f, QEMU_LEAKS);
	assert_int_equal(check(f, 0).leaks, 2);
	assert_int_equal(check(f, 0).corruptions, 0);
	assert_int_equal(check(f, QCOW2_REPAIR_LEAKS).leaks_fixed, 2);
	assert_whole(f);
}

static void refcounts_too_low_are_raised(void **state)
{
	struct fixture *f = *state;
	struct qcow2 *q;

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	set_refcount(q, 20, 0);
	set_refcount(q, 21, 0);
	finish(q);
	assert_qemu_says(f, QEMU_CORRUPT);
	assert_int_equal(check(f, 0).corruptions, 2);
	assert_int_equal(check(f, QCOW2_REPAIR_LEAKS).corruptions_fixed, 0);
	assert_int_equal(check(f, QCOW2_REPAIR_ALL).corruptions_fixed, 2);
	assert_whole(f);
}

static void copied_flags_are_set_right(void **state)
{
	struct fixture *f = *state;
	struct q2_table *t;
	struct qcow2 *q;
	uint64_t word;

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	word = entry_of(q, 5 * CLUSTER, &t);
	q2_entry_store(q, t, 5 * CLUSTER, (struct q2_entry){word & ~Q2_COPIED, 0});
	finish(q);
	assert_qemu_says(f, QEMU_CORRUPT);
	assert_int_equal(check(f, 0).corruptions, 1);
	assert_int_equal(check(f, QCOW2_REPAIR_ALL).corruptions_fixed, 1);
	assert_whole(f);
}

/* A block that lies outside the file: all refcounts are made anew. */
static void lost_refcount_blocks_are_made_anew(void **state)
{
	static const uint64_t places[] = {0x7fff0000, 0x10001, 0};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		struct qcow2 *q;

		make(f, (struct qcow2_create_opts){0});
		q = begin(f);
		q->reftable[0] = places[i];
		q->reftable_dirty[0] = 1;
		q->reftable_any_dirty = true;
		finish(q);
		assert_qemu_says(f, QEMU_CORRUPT);
		assert_true(check(f, 0).corruptions > 0);
		assert_true(check(f, QCOW2_REPAIR_ALL).corruptions_fixed > 0);
		assert_whole(f);
	}
}

static void narrow_refcounts_are_made_anew(void **state)
{
	struct fixture *f = *state;

	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		struct qcow2 *q;

		make(f, (struct qcow2_create_opts){.refcount_bits = bits});
		q = begin(f);
		q->reftable[0] = 0x7fff0000;
		q->reftable_dirty[0] = 1;
		q->reftable_any_dirty = true;
		finish(q);
		assert_true(check(f, QCOW2_REPAIR_ALL).corruptions_fixed > 0);
		assert_whole(f);
	}
}

/* Two guest clusters in one place: nothing can tell whose it is, but neither is written any more.
 */
static void doubly_used_clusters_are_shared(void **state)
{
	struct fixture *f = *state;
	struct q2_table *t;
	struct qcow2 *q;
	uint8_t got[CLUSTER];
	uint64_t word;

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	word = entry_of(q, 5 * CLUSTER, &t);
	entry_of(q, 200 * CLUSTER, &t);
	q2_entry_store(q, t, 200 * CLUSTER, (struct q2_entry){word, 0});
	finish(q);
	assert_qemu_says(f, QEMU_CORRUPT);
	check(f, QCOW2_REPAIR_ALL);
	qcow2_assert_sound(f, false);
	assert_qemu_says(f, QEMU_CLEAN);
	memset(got, 7, sizeof(got));
	qcow2_open(f, (struct image_opts){0});
	assert_int_equal(run_write(f, got, 200 * CLUSTER, CLUSTER), 0);
	assert_int_equal(run_read(f, got, 5 * CLUSTER, CLUSTER), 0);
	assert_memory_equal(got, contents + 5 * CLUSTER, CLUSTER);
	fixture_close(f);
	/* it is not shared any more, which its COPIED flag does not say yet */
	assert_int_equal(check(f, QCOW2_REPAIR_ALL).corruptions, 1);
	qcow2_assert_sound(f, false);
}

static void looking_changes_nothing(void **state)
{
	static uint8_t before[4 * BYTES], after[4 * BYTES];
	struct fixture *f = *state;
	struct qcow2 *q;
	struct stat st;

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	set_refcount(q, 20, 0);
	set_refcount(q, 30, 2);
	finish(q);
	assert_int_equal(stat(f->path, &st), 0);
	file_read(f->path, before, (size_t)st.st_size, 0);
	check(f, 0);
	file_read(f->path, after, (size_t)st.st_size, 0);
	assert_memory_equal(before, after, (size_t)st.st_size);
}

/* Tens of thousands of entries that name one table of 2 MiB: 64 GiB if each were followed. */
static void tables_are_read_once(void **state)
{
	enum { ENTRIES = 32768 };
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	uint64_t offset, count;
	struct qcow2 *q;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = (uint64_t)ENTRIES << 39,
						 .cluster_bytes = 2u << 20});
	q = begin(f);
	assert_int_equal(Q2_SYNC(q, q2_alloc(q, 1, &offset, &count)), 0);
	assert_int_equal(ftruncate(q->file.fd, (off_t)q->file_end), 0);
	for (uint64_t i = 0; i < ENTRIES; i++)
		q->l1[i] = offset | Q2_COPIED;
	memset(q->l1_dirty, 1, ENTRIES * 8 / q->unit_bytes);
	q->l1_any_dirty = true;
	finish(q);
	alarm(30);
	assert_true(qcow2_check(f->path, QCOW2_REPAIR_ALL, NULL, &(struct qcow2_check_result){0},
				&err) == 0);
	qcow2_assert_sound(f, false);
}

/* Snapshots whose L1 tables are all the same one: said, and not followed again and again. */
static void snapshots_share_no_l1_table(void **state)
{
	enum { SNAPSHOTS = 4000 };
	struct fixture *f = *state;
	uint64_t offset;
	struct qcow2 *q;
	uint8_t entry[56] = {0};

	make(f, (struct qcow2_create_opts){0});
	q = begin(f);
	assert_int_equal(q2_alloc_contiguous(q, SNAPSHOTS * sizeof(entry) / CLUSTER + 1, &offset),
			 0);
	be64_store(entry, q->h.l1_offset);
	be32_store(entry + 8, 512);
	be32_store(entry + 36, 16);
	be64_store(entry + 48, BYTES);
	for (uint64_t i = 0; i < SNAPSHOTS; i++)
		assert_int_equal(q2_pwrite(&q->file, entry, 56, offset + i * 56), 0);
	be64_store(q->first + 64, offset);
	be32_store(q->first + 60, SNAPSHOTS);
	assert_int_equal(q2_pwrite(&q->file, q->first, 512, 0), 0);
	finish(q);
	assert_true(check(f, 0).corruptions > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(leaks_are_given_back),
	    QCOW2_TEST(refcounts_too_low_are_raised),
	    QCOW2_TEST(copied_flags_are_set_right),
	    QCOW2_TEST(lost_refcount_blocks_are_made_anew),
	    QCOW2_TEST(narrow_refcounts_are_made_anew),
	    QCOW2_TEST(doubly_used_clusters_are_shared),
	    QCOW2_TEST(looking_changes_nothing),
	    QCOW2_TEST(tables_are_read_once),
	    QCOW2_TEST(snapshots_share_no_l1_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
