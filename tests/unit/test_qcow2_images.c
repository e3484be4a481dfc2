/* disk/qcow2: images made by qemu-img with every option read right; images of ours are accepted by
 * it. */
#include "tests/unit/qcow2_fixture.h"

#define BYTES (6 * MIB + 512 * 3)

static void need_qemu_img(struct fixture *f)
{
	if (!qcow2_shell(f, "qemu-img --version")) {
		print_message("SKIP: no qemu-img\n");
		skip();
	}
}

/* A disk with data, holes and a ragged end, as DIR/flat. */
static uint8_t *make_flat(struct fixture *f)
{
	uint8_t *flat = calloc(1, BYTES);
	char path[300];
	int fd;

	fill_random(flat + 100 * KIB, 300 * KIB, 1);
	memset(flat + MIB, 0x5a, MIB);
	fill_random(flat + 3 * MIB + 512, 512, 2);
	fill_random(flat + BYTES - 1024, 1024, 3);
	snprintf(path, sizeof(path), "%s/flat", f->dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, flat, BYTES, 0), BYTES);
	close(fd);
	return flat;
}

static void assert_reads(struct fixture *f, const uint8_t *want, uint64_t size)
{
	uint8_t *got = malloc(size);

	assert_true(image_info(f->img)->size_bytes == size);
	assert_int_equal(run_read(f, got, 0, size), 0);
	for (uint64_t i = 0; i < size; i += 512) {
		if (memcmp(got + i, want + i, 512) != 0)
			fail_msg("differs at %llu", (unsigned long long)i);
	}
	free(got);
}

static void options_of_qemu_img(void **state)
{
	static const char *const options[] = {
	    "",
	    "-o compat=0.10",
	    "-o cluster_size=512",
	    "-o cluster_size=2M",
	    "-o refcount_bits=1",
	    "-o refcount_bits=64",
	    "-o extended_l2=on",
	    "-o extended_l2=on,cluster_size=16k",
	    "-o lazy_refcounts=on",
	    "-o preallocation=metadata",
	    "-o preallocation=full",
	    "-c",
	    "-c -o compression_type=zstd",
	    "-c -o cluster_size=512",
	    "-c -o cluster_size=2M",
	    "-c -o compat=0.10",
	    "-c -o extended_l2=on",
	    "-c -o cluster_size=2M,compression_type=zstd",
	};
	struct fixture *f = *state;
	uint8_t *flat;

	need_qemu_img(f);
	flat = make_flat(f);
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		char cmd[300];

		snprintf(cmd, sizeof(cmd), "qemu-img convert -f raw -O qcow2 %s flat disk.qcow2",
			 options[i]);
		if (!qcow2_shell(f, cmd))
			fail_msg("%s", cmd);
		qcow2_assert_sound(f, false);
		qcow2_open(f, (struct image_opts){.read_only = true});
		assert_reads(f, flat, BYTES);
		fixture_close(f);
		/* and written */
		qcow2_open(f, (struct image_opts){0});
		assert_int_equal(run_write(f, flat + MIB, 99 * KIB, 64 * KIB), 0);
		assert_int_equal(run_write(f, flat + 99 * KIB, 99 * KIB, 64 * KIB), 0);
		assert_reads(f, flat, BYTES);
		fixture_close(f);
		qcow2_assert_sound(f, false);
		if (!qcow2_shell(f, "qemu-img check disk.qcow2 && "
				    "qemu-img compare -f raw -F qcow2 flat disk.qcow2"))
			fail_msg("qemu-img after: %s", options[i]);
	}
	free(flat);
}

static void chains_of_qemu_img(void **state)
{
	struct fixture *f = *state;
	struct image_opts opts = {.format = IMAGE_QCOW2, .path = f->path};
	struct err err = ERR_INIT;
	struct image *img;
	uint8_t *flat;

	need_qemu_img(f);
	flat = make_flat(f);
	assert_true(qcow2_shell(
	    f, "qemu-img create -f qcow2 -F raw -b flat -o cluster_size=1M mid.qcow2 && "
	       "qemu-img create -f qcow2 -F qcow2 -b mid.qcow2 -o cluster_size=4k "
	       "disk.qcow2"));
	/* only where it is allowed */
	assert_int_equal(image_open(&opts, &img, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "backing=on"));
	qcow2_open(f, (struct image_opts){.backing = true});
	assert_reads(f, flat, BYTES);
	memset(flat + 2 * MIB + 512, 7, 1024);
	assert_int_equal(run_write(f, flat + 2 * MIB + 512, 2 * MIB + 512, 1024), 0);
	memset(flat + MIB, 0, 100 * KIB);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, MIB, 100 * KIB), 0);
	assert_reads(f, flat, BYTES);
	fixture_close(f);
	assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	qcow2_open(f, (struct image_opts){.backing = true, .read_only = true});
	assert_reads(f, flat, BYTES);
	free(flat);
}

static void loops_and_unstated_formats_are_refused(void **state)
{
	struct fixture *f = *state;
	struct image_opts opts = {.format = IMAGE_QCOW2, .path = f->path, .backing = true};
	struct err err = ERR_INIT;
	struct image *img;

	need_qemu_img(f);
	assert_true(qcow2_shell(f, "qemu-img create -f qcow2 a.qcow2 1M && "
				   "qemu-img create -f qcow2 -F qcow2 -b a.qcow2 disk.qcow2 && "
				   "qemu-img rebase -u -F qcow2 -b disk.qcow2 a.qcow2"));
	assert_int_equal(image_open(&opts, &img, &err), -ELOOP);
	assert_true(qcow2_shell(f, "qemu-img rebase -u -F qcow2 -b disk.qcow2 disk.qcow2"));
	err = (struct err)ERR_INIT;
	assert_int_equal(image_open(&opts, &img, &err), -ELOOP);
	assert_true(qcow2_shell(f, "qemu-img rebase -u -F qcow2 -b nbd://host/x disk.qcow2"));
	err = (struct err)ERR_INIT;
	assert_int_equal(image_open(&opts, &img, &err), -ENOTSUP);
}

/* Internal snapshots survive: what they hold is as it was. */
static void snapshots_are_not_overwritten(void **state)
{
	struct fixture *f = *state;
	struct qcow2_snapshot *list;
	struct err err = ERR_INIT;
	unsigned count;
	uint8_t *flat;

	need_qemu_img(f);
	flat = make_flat(f);
	assert_true(qcow2_shell(f, "qemu-img convert -f raw -O qcow2 flat disk.qcow2 && "
				   "qemu-img snapshot -c first disk.qcow2"));
	assert_int_equal(qcow2_snapshot_list(f->path, &list, &count, &err), 0);
	assert_int_equal(count, 1);
	assert_string_equal(list[0].name, "first");
	free(list);
	qcow2_open(f, (struct image_opts){0});
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(run_write(f, flat + MIB, i * 150 * KIB, 12 * KIB), 0);
	assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, MIB, MIB), 0);
	assert_int_equal(run_op(f, IMAGE_DISCARD, 0, 3 * MIB, MIB), 0);
	fixture_close(f);
	qcow2_assert_sound(f, false);
	assert_true(
	    qcow2_shell(f, "qemu-img check disk.qcow2 && qemu-img snapshot -a first disk.qcow2 && "
			   "qemu-img compare -f raw -F qcow2 flat disk.qcow2"));
	free(flat);
}

/* An image that was not closed: QEMU left its refcounts behind. */
static void dirty_images_are_rebuilt(void **state)
{
	struct fixture *f = *state;
	struct qcow2_info info;
	struct err err = ERR_INIT;
	uint8_t *flat;

	need_qemu_img(f);
	flat = make_flat(f);
	assert_true(qcow2_shell(f, "qemu-img convert -f raw -O qcow2 -o "
				   "lazy_refcounts=on,cluster_size=4k flat disk.qcow2"));
	/* the dirty bit, and a refcount block (found through the table) full of zeroes */
	assert_true(qcow2_shell(
	    f, "printf '\\001' | dd of=disk.qcow2 bs=1 seek=79 conv=notrunc && "
	       "b=$(od -An -tx8 --endian=big -j4096 -N8 disk.qcow2 | tr -d ' ') && "
	       "dd if=/dev/zero of=disk.qcow2 bs=1 seek=$((0x$b)) count=4096 conv=notrunc"));
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_true(info.dirty);
	qcow2_open(f, (struct image_opts){0});
	assert_reads(f, flat, BYTES);
	assert_int_equal(run_write(f, flat + MIB, 5 * MIB, 64 * KIB), 0);
	memcpy(flat + 5 * MIB, flat + MIB, 64 * KIB);
	fixture_close(f);
	qcow2_assert_sound(f, false);
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_false(info.dirty);
	assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	qcow2_open(f, (struct image_opts){.read_only = true});
	assert_reads(f, flat, BYTES);
	free(flat);
}

/* qcow2_create() with every option, then grown and shrunk. */
static void ours_are_accepted(void **state)
{
	static const struct qcow2_create_opts all[] = {
	    {.cluster_bytes = 0},
	    {.version = 2},
	    {.cluster_bytes = 512, .refcount_bits = 64},
	    {.cluster_bytes = 512, .refcount_bits = 1, .prealloc = QCOW2_PREALLOC_METADATA},
	    {.cluster_bytes = 2u << 20, .prealloc = QCOW2_PREALLOC_FALLOC},
	    {.extended_l2 = true, .lazy_refcounts = true, .prealloc = QCOW2_PREALLOC_METADATA},
	    {.compression = QCOW2_ZSTD, .refcount_bits = 32, .prealloc = QCOW2_PREALLOC_FULL},
	};
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	need_qemu_img(f);
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct qcow2_create_opts o = all[i];

		o.size_bytes = 5 * MIB + 512;
		qcow2_make(f, o);
		qcow2_assert_sound(f, false);
		assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
		assert_int_equal(qcow2_resize(f->path, 40 * MIB, false, o.prealloc, NULL, &err), 0);
		assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
		assert_int_equal(qcow2_resize(f->path, MIB + 512, false, 0, NULL, &err), -EINVAL);
		err = (struct err)ERR_INIT;
		if (qcow2_resize(f->path, MIB + 512, true, 0, NULL, &err))
			fail_msg("%s", err.msg);
		qcow2_assert_sound(f, false);
		assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	}
	/* a terabyte, sparse: an L1 table longer than what one refcount block covers */
	qcow2_make(f, (struct qcow2_create_opts){
			  .size_bytes = 64 * GIB, .cluster_bytes = 512, .refcount_bits = 64});
	assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = 1024 * GIB});
	assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(options_of_qemu_img),
	    QCOW2_TEST(chains_of_qemu_img),
	    QCOW2_TEST(loops_and_unstated_formats_are_refused),
	    QCOW2_TEST(snapshots_are_not_overwritten),
	    QCOW2_TEST(dirty_images_are_rebuilt),
	    QCOW2_TEST(ours_are_accepted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
