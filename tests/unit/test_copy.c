/* The copying engine on raw images, compared byte by byte with what must come out. */
#include "disk/copy.h"

#include "base/checked.h"
#include "disk/image_tools.h"
#include "tests/unit/raw_fixture.h"

#define UNIT 4096u

struct rig {
	struct loop *loop;
	char dir[200];
	char path[3][256];
	struct image *img[3]; /* source, target, compare */
	uint64_t size[3];
	bool all_data;
	bool plan_fails;
	unsigned planned;
	uint64_t progress;
	unsigned progress_calls;
	struct copy *copy;
	unsigned cancel_after; /* calls of progress */
	unsigned stored;
};

static struct rig rig;

static int setup(void **state)
{
	struct err err = ERR_INIT;

	memset(&rig, 0, sizeof(rig));
	*state = &rig;
	alarm(WATCHDOG_S);
	if (temp_dir(rig.dir, sizeof(rig.dir)) || loop_new(NULL, &rig.loop, &err))
		return -1;
	for (int i = 0; i < 3; i++)
		snprintf(rig.path[i], sizeof(rig.path[i]), "%s/%d", rig.dir, i);
	return 0;
}

static void close_images(void)
{
	for (int i = 0; i < 3; i++) {
		if (!rig.img[i])
			continue;
		image_detach(rig.img[i]);
		image_close(rig.img[i]);
		rig.img[i] = NULL;
	}
}

static int rig_teardown(void **state)
{
	(void)state;
	close_images();
	loop_free(rig.loop);
	for (int i = 0; i < 3; i++)
		unlink(rig.path[i]);
	rmdir(rig.dir);
	alarm(0);
	return 0;
}

static void make(int i, uint64_t size)
{
	struct image_opts o = {.path = rig.path[i], .read_only = i != 1};
	struct err err = ERR_INIT;

	if (!rig.size[i])
		make_file(rig.path[i], size);
	rig.size[i] = size;
	if (image_open(&o, &rig.img[i], &err) || image_attach(rig.img[i], rig.loop, &err))
		fail_msg("%s", err.msg);
}

/* Before make(). */
static void put(int i, uint64_t size, uint64_t offset, size_t len, uint64_t seed)
{
	char *buf = malloc(len);
	int fd;

	if (!rig.size[i])
		make_file(rig.path[i], size);
	rig.size[i] = size;
	fill_random(buf, len, seed);
	fd = open(rig.path[i], O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, buf, len, (off_t)offset), len);
	close(fd);
	free(buf);
}

static int plan(void *ctx, uint64_t offset, uint64_t len, enum copy_kind *ret_kind,
		uint64_t *ret_len, struct err *err)
{
	struct rig *r = ctx;
	struct image_extent e;
	int rc;

	r->planned++;
	if (r->plan_fails && offset)
		return err_set(err, EIO, "no plan");
	*ret_kind = COPY_DATA;
	*ret_len = len;
	if (r->all_data)
		return 0;
	rc = image_map(r->img[0], offset, len, &e, err);
	if (rc)
		return rc;
	*ret_kind = e.kind == IMAGE_EXTENT_DATA ? COPY_DATA : COPY_ZERO;
	*ret_len = e.len_bytes;
	return 0;
}

static void progress(void *ctx, uint64_t done)
{
	struct rig *r = ctx;

	r->progress = MAX(r->progress, done);
	if (++r->progress_calls == r->cancel_after)
		copy_cancel(r->copy);
}

static int store(void *ctx, uint64_t offset, const void *data, uint64_t len, struct err *err)
{
	struct rig *r = ctx;
	int fd = open(r->path[1], O_WRONLY | O_CLOEXEC);
	ssize_t n;

	assert_true(is_aligned(offset | len, UNIT));
	assert_int_equal(image_inflight(r->img[1]), 0);
	n = pwrite(fd, data, len, (off_t)offset);
	close(fd);
	r->stored++;
	return n == (ssize_t)len ? 0 : err_set(err, EIO, "short");
}

static int run(struct copy_opts o, struct copy_stats *ret_stats, struct err *err)
{
	int r;

	o.loop = rig.loop;
	o.src = o.src ? o.src : rig.img[0];
	o.dst = rig.img[1];
	o.compare = rig.img[2];
	o.len_bytes = o.len_bytes ? o.len_bytes : rig.size[0];
	o.unit_bytes = o.unit_bytes ? o.unit_bytes : UNIT;
	o.plan = plan;
	o.progress = progress;
	o.ctx = o.progress_ctx = &rig;
	assert_int_equal(copy_new(&o, &rig.copy, err), 0);
	r = copy_run(rig.copy, ret_stats, err);
	copy_free(rig.copy);
	return r;
}

static void expect_same(uint64_t size)
{
	char *a = malloc(size), *b = malloc(size);

	file_read(rig.path[0], a, size, 0);
	file_read(rig.path[1], b, size, 0);
	assert_memory_equal(a, b, size);
	free(a);
	free(b);
}

static void copies_data_and_leaves_holes(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 64 * MIB, 5 * MIB, 3 * MIB, 1);
	put(0, 64 * MIB, 40 * MIB + UNIT, UNIT, 2);
	put(0, 64 * MIB, 64 * MIB - 512, 512, 3);
	make(0, 64 * MIB);
	make(1, 64 * MIB);
	assert_int_equal(run((struct copy_opts){.skip_zeroes = true}, &stats, &err), 0);
	expect_same(64 * MIB);
	assert_true(file_blocks(rig.path[1]) * 512 <= 4 * MIB);
	assert_true(stats.written_bytes <= 3 * MIB + 2 * UNIT);
	assert_int_equal(stats.zeroed_bytes, 0);
	assert_int_equal(rig.progress, 64 * MIB);
}

static void finds_zeroes_in_data(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 8 * MIB, 3 * UNIT, UNIT, 1);
	put(0, 8 * MIB, 6 * UNIT + 100, 1, 2); /* one byte makes a unit data */
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	rig.all_data = true;
	assert_int_equal(run((struct copy_opts){.skip_zeroes = true}, &stats, &err), 0);
	expect_same(8 * MIB);
	assert_int_equal(stats.written_bytes, 2 * UNIT);
}

static void zeroes_overwrite_what_was_there(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 8 * MIB, 1 * MIB, 1 * MIB, 1);
	put(1, 8 * MIB, 0, 8 * MIB, 2);
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	assert_int_equal(run((struct copy_opts){0}, &stats, &err), 0);
	expect_same(8 * MIB);
	assert_int_equal(stats.zeroed_bytes, 7 * MIB);
}

static void writes_only_what_differs(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 8 * MIB, 0, 4 * MIB, 1);
	put(2, 4 * MIB, 0, 4 * MIB, 1);
	put(0, 8 * MIB, 2 * MIB, UNIT, 2);     /* differs */
	put(0, 8 * MIB, 6 * MIB, 2 * UNIT, 3); /* beyond the end of `compare` */
	put(2, 4 * MIB, 3 * MIB, UNIT, 4);
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	make(2, 4 * MIB);
	assert_int_equal(run((struct copy_opts){0}, &stats, &err), 0);
	assert_int_equal(stats.written_bytes, 4 * UNIT);
	assert_int_equal(stats.zeroed_bytes, 0);
}

static void zeroes_that_differ_are_written(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(2, 8 * MIB, 1 * MIB, 1 * MIB, 1);
	put(1, 8 * MIB, 1 * MIB, 1 * MIB, 1); /* as a backing file would show */
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	make(2, 8 * MIB);
	assert_int_equal(run((struct copy_opts){0}, &stats, &err), 0);
	assert_int_equal(stats.zeroed_bytes, 1 * MIB);
	expect_same(8 * MIB);
}

static void random_contents_survive(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;
	uint64_t seed = 7;

	(void)state;
	for (int i = 0; i < 400; i++) {
		uint64_t offset = next_random(&seed) % (32 * MIB / 512 - 200) * 512;

		put(0, 32 * MIB + 512, offset, next_random(&seed) % 90000 + 1, seed);
	}
	make(0, 32 * MIB + 512);
	make(1, 32 * MIB + 512);
	for (unsigned unit = 4096; unit <= COPY_UNIT_MAX; unit *= 8) {
		struct copy_opts o = {.unit_bytes = unit, .skip_zeroes = unit == 4096};

		assert_int_equal(run(o, &stats, &err), 0);
		expect_same(32 * MIB + 512);
	}
}

static void stores_whole_units(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 8 * MIB + 512, 3 * MIB, 2 * MIB, 1);
	put(0, 8 * MIB + 512, 8 * MIB, 512, 2);
	make(0, 8 * MIB + 512);
	make(1, 8 * MIB + 512);
	assert_int_equal(run((struct copy_opts){.skip_zeroes = true, .store = store}, &stats, &err),
			 0);
	expect_same(8 * MIB + 512);
	assert_true(rig.stored > 0);
}

/* Zeroes are written by requests, data is not: they never meet. */
static void stores_beside_zeroes(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	for (unsigned i = 0; i < 64; i++)
		put(0, 32 * MIB, i * (512 * KIB), 100 * KIB, i);
	put(1, 32 * MIB, 0, 32 * MIB, 100); /* as `compare` would show */
	put(2, 32 * MIB, 0, 32 * MIB, 100);
	make(0, 32 * MIB);
	make(1, 32 * MIB);
	make(2, 32 * MIB);
	assert_int_equal(run((struct copy_opts){.store = store}, &stats, &err), 0);
	expect_same(32 * MIB);
	assert_true(rig.stored > 0 && stats.zeroed_bytes > 0);
}

static void gives_zeroes_back_in_place(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;
	char *zeroes = calloc(1, 4 * MIB);
	int fd;

	(void)state;
	put(1, 8 * MIB, 0, 8 * MIB, 1);
	fd = open(rig.path[1], O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, zeroes, 4 * MIB, 2 * MIB), 4 * MIB);
	close(fd);
	free(zeroes);
	make(1, 8 * MIB);
	rig.all_data = true;
	assert_int_equal(
	    run((struct copy_opts){.src = rig.img[1], .skip_data = true, .len_bytes = 8 * MIB},
		&stats, &err),
	    0);
	assert_int_equal(stats.zeroed_bytes, 4 * MIB);
	assert_int_equal(stats.written_bytes, 0);
	assert_true(file_blocks(rig.path[1]) * 512 <= 5 * MIB);
}

static void a_huge_hole_takes_no_time(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	make(0, 8192 * GIB);
	make(1, 8192 * GIB);
	assert_int_equal(run((struct copy_opts){.skip_zeroes = true}, &stats, &err), 0);
	assert_true(rig.planned < 10);
}

/* Every operation fails once: the error is told, nothing hangs, the next attempt succeeds. */
static void faults_end_it(int image, int errnum)
{
	bool failed = true;

	put(0, 8 * MIB, 1 * MIB, 5 * MIB, 1);
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	for (unsigned n = 1; failed; n++) {
		struct err err = ERR_INIT;
		struct copy_stats stats;
		int r;

		image_inject_fault(rig.img[image], n, errnum);
		r = run((struct copy_opts){.skip_zeroes = true}, &stats, &err);
		failed = r != 0;
		if (failed) {
			assert_int_equal(r, -errnum);
			assert_non_null(strstr(err.msg, rig.path[image]));
			/* a flush that failed stays failed */
			image_inject_fault(rig.img[image], 0, 0);
			close_images();
			make(0, 8 * MIB);
			make(1, 8 * MIB);
		}
		assert_true(n < 100);
	}
	expect_same(8 * MIB);
}

static void read_faults_end_it(void **state)
{
	(void)state;
	faults_end_it(0, EIO);
}

static void write_faults_end_it(void **state)
{
	(void)state;
	faults_end_it(1, ENOSPC);
}

static void a_plan_that_fails_ends_it(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 8 * MIB, 1 * MIB, 1 * MIB, 1);
	make(0, 8 * MIB);
	make(1, 8 * MIB);
	rig.plan_fails = true;
	assert_int_equal(run((struct copy_opts){0}, &stats, &err), -EIO);
	assert_string_equal(err.msg, "no plan");
}

static void cancel_ends_it(void **state)
{
	struct err err = ERR_INIT;
	struct copy_stats stats;

	(void)state;
	put(0, 256 * MIB, 0, 1, 1);
	make(0, 256 * MIB);
	make(1, 256 * MIB);
	rig.all_data = true;
	rig.cancel_after = 40;
	assert_int_equal(run((struct copy_opts){.skip_zeroes = true}, &stats, &err), -ECANCELED);
	assert_true(rig.progress_calls <= 40);
}

static void runs_are_told_apart(void **state)
{
	uint8_t data[6 * 16] = {0}, other[6 * 16] = {0};
	size_t len;

	(void)state;
	data[16] = 1;
	data[2 * 16 + 15] = 1;
	memset(data + 4 * 16, 2, 16);
	assert_int_equal(copy_next_run(data, NULL, 0, 96, 16, &len), COPY_RUN_ZERO);
	assert_int_equal(len, 16);
	assert_int_equal(copy_next_run(data, NULL, 16, 96, 16, &len), COPY_RUN_DATA);
	assert_int_equal(len, 32);
	assert_int_equal(copy_next_run(data, NULL, 80, 90, 16, &len), COPY_RUN_ZERO);
	assert_int_equal(len, 10);
	memcpy(other + 16, data + 16, 16);
	other[0] = 1;
	assert_int_equal(copy_next_run(data, other, 0, 96, 16, &len), COPY_RUN_ZERO);
	assert_int_equal(len, 16);
	assert_int_equal(copy_next_run(data, other, 16, 96, 16, &len), COPY_RUN_EQUAL);
	assert_int_equal(len, 16);
	assert_int_equal(copy_next_run(data, other, 48, 96, 16, &len), COPY_RUN_EQUAL);
	assert_int_equal(len, 16);
}

static void zero_is_seen_at_every_place(void **state)
{
	uint8_t data[100] = {0};

	(void)state;
	for (size_t len = 0; len <= sizeof(data); len++)
		assert_true(copy_is_zero(data, len));
	for (size_t i = 0; i < sizeof(data); i++) {
		data[i] = 0x80;
		assert_false(copy_is_zero(data, sizeof(data)));
		assert_true(copy_is_zero(data, i));
		data[i] = 0;
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(copies_data_and_leaves_holes),
	    TEST(finds_zeroes_in_data),
	    TEST(zeroes_overwrite_what_was_there),
	    TEST(writes_only_what_differs),
	    TEST(zeroes_that_differ_are_written),
	    TEST(random_contents_survive),
	    TEST(stores_whole_units),
	    TEST(stores_beside_zeroes),
	    TEST(gives_zeroes_back_in_place),
	    TEST(a_huge_hole_takes_no_time),
	    TEST(read_faults_end_it),
	    TEST(write_faults_end_it),
	    TEST(a_plan_that_fails_ends_it),
	    TEST(cancel_ends_it),
	    TEST(runs_are_told_apart),
	    TEST(zero_is_seen_at_every_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
