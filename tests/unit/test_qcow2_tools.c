/* disk/qcow2: what tools see and change, and what stays true when an image gets another backing. */
#include "disk/image_tools.h"
#include "tests/unit/qcow2_fixture.h"

#define CLUSTER (64 * KIB)

static void base_file(struct fixture *f, const char *name, uint64_t size, int byte)
{
	char path[300];
	uint8_t *all = malloc(size);
	int fd;

	memset(all, byte, size);
	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, all, size, 0), size);
	close(fd);
	free(all);
}

static void assert_bytes(struct fixture *f, uint64_t offset, uint64_t len, int byte)
{
	uint8_t *got = malloc(len);

	assert_int_equal(run_read(f, got, offset, len), 0);
	for (uint64_t i = 0; i < len; i++) {
		if (got[i] != byte)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)(offset + i),
				 got[i], byte);
	}
	free(got);
}

static void write_bytes(struct fixture *f, uint64_t offset, uint64_t len, int byte)
{
	uint8_t *data = malloc(len);

	memset(data, byte, len);
	assert_int_equal(run_write(f, data, offset, len), 0);
	free(data);
}

static void set_backing(struct fixture *f, const char *name)
{
	struct err err = ERR_INIT;

	if (qcow2_set_backing(f->path, name, name ? "raw" : NULL, &err))
		fail_msg("%s", err.msg);
}

static struct image_extent extent(struct fixture *f, uint64_t offset)
{
	struct image_extent ext = {0};
	struct err err = ERR_INIT;

	if (image_map(f->img, offset, 64 * MIB, &ext, &err))
		fail_msg("%s", err.msg);
	return ext;
}

/* What was discarded or zeroed while there was no backing file stays zero under a new one. */
static void zeroes_hide_a_later_backing_file(void **state)
{
	struct fixture *f = *state;

	for (int extended = 0; extended < 2; extended++) {
		base_file(f, "base", MIB, 0xbb);
		qcow2_make(f,
			   (struct qcow2_create_opts){.size_bytes = MIB, .extended_l2 = extended});
		qcow2_open(f, (struct image_opts){0});
		write_bytes(f, 0, 4 * CLUSTER, 1);
		assert_int_equal(run_op(f, IMAGE_DISCARD, 0, CLUSTER, CLUSTER), 0);
		assert_int_equal(
		    run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, 2 * CLUSTER, CLUSTER), 0);
		/* never written at all */
		assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, 0, 8 * CLUSTER, CLUSTER), 0);
		fixture_close(f);
		set_backing(f, "base");
		qcow2_open(f, (struct image_opts){.backing = true});
		assert_bytes(f, 0, CLUSTER, 1);
		assert_bytes(f, CLUSTER, 2 * CLUSTER, 0);
		assert_bytes(f, 3 * CLUSTER, CLUSTER, 1);
		assert_bytes(f, 4 * CLUSTER, 4 * CLUSTER, 0xbb);
		assert_bytes(f, 8 * CLUSTER, CLUSTER, 0);
		fixture_close(f);
		qcow2_assert_sound(f, false);
	}
}

/* Discarding what was never there takes no table. */
static void discarding_nothing_stores_nothing(void **state)
{
	struct fixture *f = *state;
	struct qcow2_info before, after;
	struct err err = ERR_INIT;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = 64 * GIB});
	assert_int_equal(qcow2_info(f->path, &before, &err), 0);
	qcow2_open(f, (struct image_opts){0});
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, 64 * GIB), 0);
	fixture_close(f);
	assert_int_equal(qcow2_info(f->path, &after, &err), 0);
	assert_true(before.file_bytes == after.file_bytes);
}

static void growing_hides_a_longer_backing_file(void **state)
{
	static const uint64_t ends[] = {4 * CLUSTER, 4 * CLUSTER + 512, 5 * CLUSTER - 512};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(ends) * 2; i++) {
		uint64_t end = ends[i / 2];
		struct err err = ERR_INIT;

		base_file(f, "base", MIB, 0xbb);
		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = end,
							 .extended_l2 = i & 1,
							 .backing_path = "base",
							 .backing_format = "raw"});
		if (qcow2_resize(f->path, 2 * MIB, false, QCOW2_PREALLOC_OFF, NULL, &err))
			fail_msg("%s", err.msg);
		qcow2_open(f, (struct image_opts){.backing = true});
		assert_bytes(f, 0, end, 0xbb);
		assert_bytes(f, end, 2 * MIB - end, 0);
		fixture_close(f);
		qcow2_assert_sound(f, false);
	}
}

/* Version 2 has nothing to say so with: refused, and nothing changed. */
static void version_2_says_that_it_cannot_hide_it(void **state)
{
	struct fixture *f = *state;
	struct qcow2_info info;
	struct err err = ERR_INIT;

	base_file(f, "base", MIB, 0xbb);
	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = 4 * CLUSTER,
						 .version = 2,
						 .backing_path = "base",
						 .backing_format = "raw"});
	assert_int_equal(qcow2_resize(f->path, MIB, false, QCOW2_PREALLOC_OFF, NULL, &err),
			 -ENOTSUP);
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_true(info.size_bytes == 4 * CLUSTER);
	qcow2_assert_sound(f, false);
}

/* What a smaller disk has behind its end does not come back. */
static void shrunk_data_does_not_come_back(void **state)
{
	struct fixture *f = *state;

	for (unsigned version = 2; version <= 3; version++) {
		struct err err = ERR_INIT;

		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .version = version});
		qcow2_open(f, (struct image_opts){0});
		write_bytes(f, 0, MIB, 5);
		fixture_close(f);
		assert_int_equal(qcow2_resize(f->path, 3 * CLUSTER + 512, true, 0, NULL, &err), 0);
		assert_int_equal(qcow2_resize(f->path, MIB, false, 0, NULL, &err), 0);
		qcow2_open(f, (struct image_opts){0});
		assert_bytes(f, 0, 3 * CLUSTER + 512, 5);
		assert_bytes(f, 3 * CLUSTER + 512, MIB - 3 * CLUSTER - 512, 0);
		fixture_close(f);
		qcow2_assert_sound(f, false);
	}
}

static bool until_half(void *ctx, uint64_t done, uint64_t total)
{
	unsigned *calls = ctx;

	assert_true(done <= total);
	++*calls;
	return done < total / 2;
}

/* Stopped on the way, growing has changed nothing that shows, and lost no space. */
static void stopped_growing_leaves_the_old_size(void **state)
{
	static const enum qcow2_prealloc kinds[] = {QCOW2_PREALLOC_METADATA, QCOW2_PREALLOC_FALLOC,
						    QCOW2_PREALLOC_FULL};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		unsigned calls = 0;
		const struct tool_progress progress = {.at = until_half, .ctx = &calls};
		struct qcow2_info info;
		struct err err = ERR_INIT;

		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .cluster_bytes = 4096});
		qcow2_open(f, (struct image_opts){0});
		write_bytes(f, 0, MIB, 5);
		fixture_close(f);
		assert_int_equal(qcow2_resize(f->path, 16 * MIB, false, kinds[i], &progress, &err),
				 -ECANCELED);
		assert_true(calls > 0);
		assert_int_equal(qcow2_info(f->path, &info, &err), 0);
		assert_true(info.size_bytes == MIB);
		qcow2_assert_sound(f, false);
		qcow2_open(f, (struct image_opts){0});
		assert_bytes(f, 0, MIB, 5);
		fixture_close(f);
	}
}

static void maps_of_chains(void **state)
{
	struct fixture *f = *state;
	struct image_extent ext;

	base_file(f, "base", 2 * MIB, 1);
	qcow2_make(f, (struct qcow2_create_opts){
			  .size_bytes = 4 * MIB, .backing_path = "base", .backing_format = "raw"});
	qcow2_open(f, (struct image_opts){.backing = true});
	write_bytes(f, CLUSTER, CLUSTER, 2);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, 2 * CLUSTER, CLUSTER), 0);
	ext = extent(f, 0);
	assert_true(ext.kind == IMAGE_EXTENT_DATA && ext.depth == 1 && ext.len_bytes == CLUSTER);
	assert_true(ext.has_host_offset && ext.host_offset_bytes == 0);
	ext = extent(f, CLUSTER + 512);
	assert_true(ext.kind == IMAGE_EXTENT_DATA && ext.depth == 0 && ext.has_host_offset);
	assert_true(ext.len_bytes == CLUSTER - 512 && ext.host_offset_bytes % CLUSTER == 512);
	ext = extent(f, 2 * CLUSTER);
	assert_true(ext.kind == IMAGE_EXTENT_ZERO && ext.depth == 0 && ext.len_bytes == CLUSTER);
	ext = extent(f, 3 * CLUSTER);
	assert_true(ext.kind == IMAGE_EXTENT_DATA && ext.depth == 1);
	assert_true(ext.len_bytes == 2 * MIB - 3 * CLUSTER);
	ext = extent(f, 3 * MIB);
	assert_true(ext.kind == IMAGE_EXTENT_HOLE && ext.len_bytes == MIB);
}

static void compressed_clusters_map_one_by_one(void **state)
{
	struct fixture *f = *state;
	struct image_extent ext;
	struct err err = ERR_INIT;
	uint8_t *cluster = calloc(1, CLUSTER);

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
	qcow2_open(f, (struct image_opts){0});
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(qcow2_write_compressed(f->img, i * CLUSTER, cluster, &err), 0);
	ext = extent(f, CLUSTER);
	assert_true(ext.compressed && !ext.has_host_offset && ext.len_bytes == CLUSTER);
	assert_int_equal(qcow2_write_compressed(f->img, CLUSTER, cluster, &err), -EEXIST);
	free(cluster);
}

/* Everything of its own goes; the backing file shows, and the space is free. */
static void emptied_images_show_their_backing_file(void **state)
{
	struct fixture *f = *state;
	struct qcow2_check_result res;
	struct err err = ERR_INIT;

	base_file(f, "base", MIB, 0xbb);
	qcow2_make(f, (struct qcow2_create_opts){
			  .size_bytes = MIB, .backing_path = "base", .backing_format = "raw"});
	qcow2_open(f, (struct image_opts){.backing = true});
	write_bytes(f, 512, 5 * CLUSTER, 2);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, 0, 8 * CLUSTER, 2 * CLUSTER), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	assert_int_equal(qcow2_make_empty(f->img, &err), 0);
	assert_bytes(f, 0, MIB, 0xbb);
	write_bytes(f, 0, CLUSTER, 3);
	assert_bytes(f, 0, CLUSTER, 3);
	fixture_close(f);
	assert_int_equal(qcow2_check(f->path, 0, NULL, &res, &err), 0);
	assert_int_equal(res.allocated_clusters, 1);
	qcow2_assert_sound(f, false);
}

/* Many at a time, large and small, of the same clusters and others. */
static void compressed_clusters_read_in_parallel(void **state)
{
	enum { READS = 48, CLUSTERS = 40 };
	struct fixture *f = *state;
	static struct waited w[READS];
	static struct iovec iov[READS];
	uint8_t *all = malloc(CLUSTERS * CLUSTER), *got = malloc(READS * 3 * CLUSTER);
	struct err err = ERR_INIT;
	uint64_t seed = 8;
	int left = READS;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = CLUSTERS * CLUSTER});
	qcow2_open(f, (struct image_opts){0});
	for (size_t i = 0; i < CLUSTERS * CLUSTER; i++)
		all[i] = (uint8_t)(next_random(&seed) & 15);
	for (uint64_t i = 0; i < CLUSTERS; i++)
		assert_int_equal(
		    qcow2_write_compressed(f->img, i * CLUSTER, all + i * CLUSTER, &err), 0);
	for (unsigned i = 0; i < READS; i++) {
		uint64_t len = 512 + next_random(&seed) % (3 * CLUSTER - 512) / 512 * 512;
		uint64_t offset = next_random(&seed) % (CLUSTERS * CLUSTER - len) / 512 * 512;

		iov[i] = (struct iovec){got + i * 3 * CLUSTER, len};
		w[i] = waited_new(f, IMAGE_READ, offset, len, &iov[i], 1);
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	assert_int_equal(loop_run(f->loop), 0);
	for (unsigned i = 0; i < READS; i++) {
		assert_int_equal(w[i].res, 0);
		assert_memory_equal(iov[i].iov_base, all + w[i].req.offset_bytes, iov[i].iov_len);
	}
	free(all);
	free(got);
}

/*
 * Two writes in flight, of different sectors of one subcluster that is there: one of them begins in
 * a subcluster before it that is not. Neither may store again what the other one writes.
 */
static void writes_side_by_side_in_a_subcluster(void **state)
{
	enum { SUB = CLUSTER / 32 };
	struct fixture *f = *state;
	static uint8_t over[SUB + 512], beside[512];
	struct iovec iov[] = {{over, sizeof(over)}, {beside, sizeof(beside)}};
	struct waited w[2];
	int left = 2;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB, .extended_l2 = true});
	qcow2_open(f, (struct image_opts){0});
	write_bytes(f, SUB, SUB, 1);
	memset(over, 2, sizeof(over));
	memset(beside, 3, sizeof(beside));
	w[0] = waited_new(f, IMAGE_WRITE, 0, sizeof(over), &iov[0], 1);
	w[1] = waited_new(f, IMAGE_WRITE, SUB + 1024, sizeof(beside), &iov[1], 1);
	for (int i = 0; i < 2; i++) {
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	assert_int_equal(loop_run(f->loop), 0);
	assert_bytes(f, 0, SUB + 512, 2);
	assert_bytes(f, SUB + 512, 512, 1);
	assert_bytes(f, SUB + 1024, 512, 3);
	assert_bytes(f, SUB + 1536, SUB - 1536, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(zeroes_hide_a_later_backing_file),
	    QCOW2_TEST(discarding_nothing_stores_nothing),
	    QCOW2_TEST(growing_hides_a_longer_backing_file),
	    QCOW2_TEST(version_2_says_that_it_cannot_hide_it),
	    QCOW2_TEST(shrunk_data_does_not_come_back),
	    QCOW2_TEST(stopped_growing_leaves_the_old_size),
	    QCOW2_TEST(maps_of_chains),
	    QCOW2_TEST(compressed_clusters_map_one_by_one),
	    QCOW2_TEST(emptied_images_show_their_backing_file),
	    QCOW2_TEST(compressed_clusters_read_in_parallel),
	    QCOW2_TEST(writes_side_by_side_in_a_subcluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
