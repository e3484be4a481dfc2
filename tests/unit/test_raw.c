/* disk/raw: what requests do, in every mode. */
#include "tests/unit/raw_fixture.h"

#include <sched.h>
#include <sys/mount.h>

static void info_describes_the_file(void **state)
{
	struct fixture *f = fixture_of(state);
	const struct image_info *info = image_info(f->img);

	assert_int_equal(info->format, IMAGE_RAW);
	assert_true(info->size_bytes == DISK_BYTES);
	assert_true(info->logical_block_bytes == 512 || info->logical_block_bytes == 4096);
	assert_true(info->physical_block_bytes >= info->logical_block_bytes);
	assert_true(info->can_write_zeroes);
	assert_false(info->read_only);
	assert_string_equal(image_path(f->img), f->path);
}

static void what_is_written_is_read(void **state)
{
	struct fixture *f = fixture_of(state);
	char out[8192], in[8192], file[8192];

	fill_random(out, sizeof(out), 1);
	assert_int_equal(run_write(f, out, 12288, sizeof(out)), 0);
	assert_int_equal(run_read(f, in, 12288, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	file_read(f->path, file, sizeof(file), 12288);
	assert_memory_equal(file, out, sizeof(file));

	/* never written: zeroes; and the last block of the disk is as good as any */
	assert_int_equal(run_read(f, in, DISK_BYTES - 8192, 8192), 0);
	memset(out, 0, sizeof(out));
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(run_write(f, out, DISK_BYTES - 8192, 8192), 0);
}

/* Odd addresses, odd lengths, empty pieces: what a guest's descriptors may look like. */
static void scattered_unaligned_memory(void **state)
{
	struct fixture *f = fixture_of(state);
	static const size_t lens[] = {1, 0, 511, 4097, 0, 3, 70000, 77, 0, 4096};
	size_t total = 0, n = ARRAY_LEN(lens), len;
	struct iovec v[ARRAY_LEN(lens) + 1];
	char *out, *in;

	for (size_t i = 0; i < n; i++)
		total += lens[i];
	len = align_up(total, 4096);
	out = malloc(len + 1);
	in = calloc(1, len);
	fill_random(out, len + 1, 2);

	total = 1;
	for (size_t i = 0; i < n; i++) {
		v[i] = (struct iovec){out + total, lens[i]};
		total += lens[i];
	}
	v[n] = (struct iovec){out + total, len + 1 - total};
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, 4096, len, v, (unsigned)n + 1), 0);
	assert_int_equal(run_read(f, in, 4096, len), 0);
	assert_memory_equal(in, out + 1, len);

	memset(in, 0, len);
	for (size_t i = 0, at = 0; i <= n; at += v[i++].iov_len)
		v[i].iov_base = in + at;
	assert_int_equal(run_iov(f, IMAGE_READ, 0, 4096, len, v, (unsigned)n + 1), 0);
	assert_memory_equal(in, out + 1, len);
	free(out);
	free(in);
}

/* More pieces than the kernel takes at once (IOV_MAX is 1024). */
static void more_pieces_than_one_call_takes(void **state)
{
	enum { N = 3000, PIECE = 512 };
	struct fixture *f = fixture_of(state);
	size_t len = align_down(N * PIECE, 4096);
	char *out = NULL, *in = calloc(1, N * PIECE);
	struct iovec *v = calloc(N, sizeof(*v));
	unsigned n = (unsigned)(len / PIECE);

	assert_int_equal(posix_memalign((void **)&out, 4096, N * PIECE), 0);
	fill_random(out, len, 3);
	/* in reverse order, so that the pieces do not merge */
	for (unsigned i = 0; i < n; i++)
		v[i] = (struct iovec){out + (n - 1 - i) * PIECE, PIECE};
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, 0, len, v, n), 0);
	assert_int_equal(run_read(f, in, 0, len), 0);
	for (unsigned i = 0; i < n; i++)
		assert_memory_equal(in + i * PIECE, v[i].iov_base, PIECE);
	free(v);
	free(out);
	free(in);
}

static void one_request_for_the_whole_disk(void **state)
{
	struct fixture *f = fixture_of(state);
	char *out = malloc(DISK_BYTES), *in = calloc(1, DISK_BYTES);

	fill_random(out, DISK_BYTES, 4);
	assert_int_equal(run_write(f, out, 0, DISK_BYTES), 0);
	assert_int_equal(run_read(f, in, 0, DISK_BYTES), 0);
	assert_memory_equal(in, out, DISK_BYTES);
	free(out);
	free(in);
}

/* More unaligned requests than there are bounce buffers, more requests than the ring holds. */
static void many_in_flight(void **state)
{
	enum { N = 256, LEN = 4096 };
	struct fixture *f = fixture_of(state);
	struct waited *w = calloc(N, sizeof(*w));
	struct iovec *v = calloc(N, sizeof(*v));
	char *mem = malloc(N * (LEN + 1)), *file = malloc(N * LEN);
	int left = N;

	for (size_t i = 0; i < N; i++) {
		v[i] = (struct iovec){mem + i * (LEN + 1), LEN};
		memset(v[i].iov_base, (int)i, LEN);
		w[i] = waited_new(f, IMAGE_WRITE, i * LEN, LEN, &v[i], 1);
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	assert_int_equal(image_inflight(f->img), N);
	assert_int_equal(loop_run(f->loop), 0);
	for (size_t i = 0; i < N; i++) {
		assert_int_equal(w[i].calls, 1);
		assert_int_equal(w[i].res, 0);
	}
	file_read(f->path, file, N * LEN, 0);
	for (size_t i = 0; i < N * LEN; i++)
		assert_int_equal((uint8_t)file[i], i / LEN);
	free(w);
	free(v);
	free(mem);
	free(file);
}

static void bad_requests_are_refused(void **state)
{
	struct fixture *f = fixture_of(state);
	static char b[8192];
	struct iovec v = {b, 4096};

	assert_int_equal(run_iov(f, IMAGE_READ, 0, DISK_BYTES, 4096, &v, 1), -EINVAL);
	assert_int_equal(run_iov(f, IMAGE_READ, 0, DISK_BYTES - 4096 + 512, 4096, &v, 1), -EINVAL);
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, UINT64_MAX - 511, 4096, &v, 1), -EINVAL);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, DISK_BYTES + 4096), -EINVAL);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, 0, 4096, UINT64_MAX - 4095), -EINVAL);
	/* misaligned */
	assert_int_equal(run_iov(f, IMAGE_READ, 0, 1, 4096, &v, 1), -EINVAL);
	v.iov_len = 100;
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, 0, 100, &v, 1), -EINVAL);
	/* buffers that hold more or less than the request says */
	v.iov_len = 8192;
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, 0, 4096, &v, 1), -EINVAL);
	v.iov_len = 2048;
	assert_int_equal(run_iov(f, IMAGE_READ, 0, 0, 4096, &v, 1), -EINVAL);
	v.iov_len = SIZE_MAX;
	assert_int_equal(run_iov(f, IMAGE_READ, 0, 0, 4096, (struct iovec[]){v, {b, 4097}}, 2),
			 -EINVAL);
	assert_int_equal(run_op(f, (enum image_op)77, 0, 0, 4096), -EINVAL);
	/* nothing to do is no error */
	assert_int_equal(run_op(f, IMAGE_READ, 0, DISK_BYTES, 0), 0);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, 0), 0);
	assert_true(file_blocks(f->path) == 0);
}

static void read_only_takes_no_writes(void **state)
{
	struct fixture *f = fixture_of(state);
	struct err err = ERR_INIT;
	char b[4096] = "data";
	struct iovec v = {b, sizeof(b)};

	assert_int_equal(run_write(f, b, 0, sizeof(b)), 0);
	fixture_close(f);
	assert_int_equal(fixture_open(f, (struct image_opts){.read_only = true}, &err), 0);
	assert_true(image_info(f->img)->read_only);
	assert_int_equal(image_info(f->img)->discard_granularity_bytes, 0);
	assert_int_equal(run_iov(f, IMAGE_WRITE, 0, 0, sizeof(b), &v, 1), -EROFS);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, 4096), -EROFS);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, 0, 0, 4096), -EROFS);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	memset(b, 0, sizeof(b));
	assert_int_equal(run_read(f, b, 0, sizeof(b)), 0);
	assert_string_equal(b, "data");
}

static void flush_and_fua(void **state)
{
	struct fixture *f = fixture_of(state);
	char b[4096] = "x";
	struct iovec v = {b, sizeof(b)};

	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	assert_int_equal(run_iov(f, IMAGE_WRITE, IMAGE_FUA, 0, sizeof(b), &v, 1), 0);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, IMAGE_FUA, 4096, 4096), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, UINT64_MAX, 77), 0); /* no range is meant */
}

static void many_flushes_at_once(void **state)
{
	enum { N = 50 };
	struct fixture *f = fixture_of(state);
	struct waited w[N];
	int left = N;

	for (int i = 0; i < N; i++) {
		w[i] = waited_new(f, IMAGE_FLUSH, 0, 0, NULL, 0);
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	assert_int_equal(loop_run(f->loop), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(w[i].calls, 1);
		assert_int_equal(w[i].res, 0);
	}
}

/* Fills the disk with ones, zeroes [16 KiB, 1 MiB + 20 KiB), checks all of it. */
static void check_zeroing(struct fixture *f, unsigned flags)
{
	uint64_t from = 16 * KIB, to = MIB + 20 * KIB;
	char *b = malloc(DISK_BYTES);

	memset(b, 1, DISK_BYTES);
	assert_int_equal(run_write(f, b, 0, DISK_BYTES), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, flags, from, to - from), 0);
	assert_int_equal(run_read(f, b, 0, DISK_BYTES), 0);
	for (uint64_t i = 0; i < DISK_BYTES; i++)
		assert_int_equal(b[i], i < from || i >= to);
	free(b);
}

static void zeroes_keep_the_space(void **state)
{
	struct fixture *f = fixture_of(state);

	check_zeroing(f, 0);
	assert_true(file_blocks(f->path) * 512 >= DISK_BYTES);
}

static void zeroes_may_give_the_space_back(void **state)
{
	struct fixture *f = fixture_of(state);

	check_zeroing(f, IMAGE_MAY_UNMAP);
	if (image_info(f->img)->discard_granularity_bytes)
		assert_true(file_blocks(f->path) * 512 <= DISK_BYTES - MIB + 64 * KIB);
}

/* A host that can neither punch holes nor zero ranges: zeroes are written. */
static void zeroes_where_the_host_cannot(void **state)
{
	struct fixture *f = fixture_of(state);
	struct stat st;

	image_inject_fault(f->img, 1, EOPNOTSUPP);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, 0, 0, 4096), 0);
	check_zeroing(f, 0); /* remembered */
	if (image_info(f->img)->discard_granularity_bytes) {
		image_inject_fault(f->img, 1, EOPNOTSUPP);
		assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, 0, 4096), 0);
	}
	check_zeroing(f, IMAGE_MAY_UNMAP);
	assert_true(file_blocks(f->path) * 512 >= DISK_BYTES);
	assert_int_equal(stat(f->path, &st), 0);
	assert_true(st.st_size == DISK_BYTES);
}

static void discard_gives_the_space_back(void **state)
{
	struct fixture *f = fixture_of(state);
	char *b = malloc(DISK_BYTES);
	struct stat st;

	if (!image_info(f->img)->discard_granularity_bytes) {
		free(b);
		print_message("SKIP: the temporary directory cannot punch holes\n");
		skip();
	}
	memset(b, 1, DISK_BYTES);
	assert_int_equal(run_write(f, b, 0, DISK_BYTES), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, MIB, 2 * MIB), 0);
	assert_true(file_blocks(f->path) * 512 <= DISK_BYTES - 2 * MIB + 64 * KIB);
	assert_int_equal(stat(f->path, &st), 0);
	assert_true(st.st_size == DISK_BYTES);
	assert_int_equal(run_read(f, b, 0, DISK_BYTES), 0);
	assert_int_equal(b[MIB - 1], 1);
	assert_int_equal(b[3 * MIB], 1);
	free(b);
}

static void discard_may_do_nothing(void **state)
{
	struct fixture *f = fixture_of(state);
	struct err err = ERR_INIT;
	char b[65536], in[65536];

	fill_random(b, sizeof(b), 5);
	fixture_close(f);
	assert_int_equal(fixture_open(f, (struct image_opts){.no_discard = true}, &err), 0);
	assert_int_equal(image_info(f->img)->discard_granularity_bytes, 0);
	assert_int_equal(run_write(f, b, 0, sizeof(b)), 0);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, sizeof(b)), 0);
	assert_int_equal(run_read(f, in, 0, sizeof(b)), 0);
	assert_memory_equal(in, b, sizeof(b));

	/* asked for by a guest, refused by the host */
	fixture_close(f);
	assert_int_equal(fixture_open(f, (struct image_opts){0}, &err), 0);
	image_inject_fault(f->img, 1, EOPNOTSUPP);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, sizeof(b)), 0);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, sizeof(b)), 0);
}

static void file_cut_short_is_an_error(void **state)
{
	struct fixture *f = fixture_of(state);
	char b[65536];

	memset(b, 6, sizeof(b));
	assert_int_equal(run_write(f, b, 0, sizeof(b)), 0);
	assert_int_equal(truncate(f->path, 32768), 0);
	assert_int_equal(run_read(f, b, 0, sizeof(b)), -EIO);
	assert_int_equal(run_read(f, b, 40960, 4096), -EIO);
	assert_int_equal(run_read(f, b, 0, 32768), 0);
	assert_int_equal(b[32767], 6);
	/* a write makes it longer again */
	assert_int_equal(run_write(f, b, 32768, 4096), 0);
	assert_int_equal(run_read(f, b, 32768, 4096), 0);
}

static void attach_to_another_loop(void **state)
{
	struct fixture *f = fixture_of(state);
	struct loop_opts lo = {.backend = f->mode.backend};
	struct err err = ERR_INIT;
	char b[4096] = "kept";

	assert_int_equal(run_write(f, b, 0, sizeof(b)), 0);
	image_detach(f->img);
	loop_free(f->loop);
	assert_int_equal(loop_new(&lo, &f->loop, &err), 0);
	assert_int_equal(image_attach(f->img, f->loop, &err), 0);
	memset(b, 0, sizeof(b));
	assert_int_equal(run_read(f, b, 0, sizeof(b)), 0);
	assert_string_equal(b, "kept");
}

static void loop_that_ends_cancels(void **state)
{
	enum { N = 40, LEN = 4096 };
	struct fixture *f = fixture_of(state);
	char *mem = calloc(N, LEN + 1);
	struct waited w[N], sync = waited_new(f, IMAGE_FLUSH, 0, 0, NULL, 0);
	struct iovec v[N];
	int left = N + 1;

	for (size_t i = 0; i < N; i++) {
		v[i] = (struct iovec){mem + i * (LEN + 1), LEN};
		w[i] = waited_new(f, IMAGE_WRITE, i * LEN, LEN, &v[i], 1);
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	sync.left = &left;
	image_submit(f->img, &sync.req);
	loop_free(f->loop);
	f->loop = NULL;
	assert_int_equal(left, 0);
	assert_int_equal(sync.res, -ECANCELED);
	for (size_t i = 0; i < N; i++)
		assert_int_equal(w[i].res, -ECANCELED);
	assert_int_equal(image_inflight(f->img), 0);
	free(mem);
}

/* A full host: the request fails, what was acknowledged stays, the image goes on. */
static void full_host_file_system(void **state)
{
	struct fixture *f = fixture_of(state);
	char dir[256], path[300], b[65536], in[65536];
	struct err err = ERR_INIT;
	uint64_t at = 0;
	int r;

	snprintf(dir, sizeof(dir), "%s/full", f->dir);
	snprintf(path, sizeof(path), "%s/disk.img", dir);
	assert_int_equal(mkdir(dir, 0700), 0);
	if (mount("none", dir, "tmpfs", 0, "size=1m")) {
		rmdir(dir);
		print_message("SKIP: no permission to mount a small file system\n");
		skip();
	}
	make_file(path, DISK_BYTES);
	fixture_close(f);
	r = fixture_open(f, (struct image_opts){.path = path}, &err);
	if (r && f->mode.direct) {
		umount2(dir, MNT_DETACH);
		rmdir(dir);
		print_message("SKIP: tmpfs has no O_DIRECT here\n");
		skip();
	}
	assert_int_equal(r, 0);

	fill_random(b, sizeof(b), 7);
	while (!(r = run_write(f, b, at, sizeof(b))))
		at += sizeof(b);
	assert_int_equal(r, -ENOSPC);
	assert_true(at >= 512 * KIB);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	for (uint64_t i = 0; i < at; i += sizeof(b)) {
		assert_int_equal(run_read(f, in, i, sizeof(in)), 0);
		assert_memory_equal(in, b, sizeof(b));
	}
	/* room again */
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 0, 256 * KIB), 0);
	assert_int_equal(run_write(f, b, at, sizeof(b)), 0);

	fixture_close(f);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ALL_MODES(info_describes_the_file),
	    ALL_MODES(what_is_written_is_read),
	    ALL_MODES(scattered_unaligned_memory),
	    ALL_MODES(more_pieces_than_one_call_takes),
	    ALL_MODES(one_request_for_the_whole_disk),
	    ALL_MODES(many_in_flight),
	    ALL_MODES(bad_requests_are_refused),
	    ALL_MODES(read_only_takes_no_writes),
	    ALL_MODES(flush_and_fua),
	    ALL_MODES(many_flushes_at_once),
	    ALL_MODES(zeroes_keep_the_space),
	    ALL_MODES(zeroes_may_give_the_space_back),
	    ALL_MODES(zeroes_where_the_host_cannot),
	    ALL_MODES(discard_gives_the_space_back),
	    ALL_MODES(discard_may_do_nothing),
	    ALL_MODES(file_cut_short_is_an_error),
	    ALL_MODES(attach_to_another_loop),
	    ALL_MODES(loop_that_ends_cancels),
	    ALL_MODES(full_host_file_system),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
