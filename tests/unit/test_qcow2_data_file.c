/* disk/qcow2: images of qemu-img's making that keep their data in a file of its own. */
#include "disk/image_tools.h"
#include "tests/unit/qcow2_fixture.h"

#define BYTES	(3 * MIB + 512 * 5)
#define CLUSTER (64 * KIB)

static char data_path[300];

static void make(struct fixture *f, const char *options)
{
	char cmd[400];

	if (!qcow2_shell(f, "qemu-img --version")) {
		print_message("SKIP: no qemu-img\n");
		skip();
	}
	snprintf(data_path, sizeof(data_path), "%s/data", f->dir);
	snprintf(
	    cmd, sizeof(cmd),
	    "rm -f data disk.qcow2; qemu-img create -f qcow2 -o data_file=data%s disk.qcow2 %u",
	    options, (unsigned)BYTES);
	assert_true(qcow2_shell(f, cmd));
}

static void open_with(struct fixture *f, bool read_only)
{
	qcow2_open(f, (struct image_opts){
			  .data_file = data_path, .backing = true, .read_only = read_only});
}

static void assert_reads(struct fixture *f, const uint8_t *want)
{
	uint8_t *got = malloc(BYTES);

	assert_int_equal(run_read(f, got, 0, BYTES), 0);
	for (uint64_t i = 0; i < BYTES; i += 512) {
		if (memcmp(got + i, want + i, 512) != 0)
			fail_msg("differs at %llu", (unsigned long long)i);
	}
	free(got);
}

/* Writes and zeroes of all kinds; `model` is what it reads as then. */
static void work(struct fixture *f, uint8_t *model, uint64_t seed)
{
	for (unsigned i = 0; i < 120; i++) {
		uint64_t unit = next_random(&seed) % 2 ? 512 : CLUSTER;
		uint64_t at = next_random(&seed) % (BYTES / unit) * unit;
		uint64_t some = (1 + next_random(&seed) % 5) * unit, len = MIN(BYTES - at, some);
		unsigned what = next_random(&seed) % 4;

		if (what < 2) {
			fill_random(model + at, len, seed);
			assert_int_equal(run_write(f, model + at, at, len), 0);
		} else if (what == 2) {
			memset(model + at, 0, len);
			assert_int_equal(
			    run_op(f, IMAGE_WRITE_ZEROES, i & 1 ? IMAGE_MAY_UNMAP : 0, at, len), 0);
		} else {
			assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
		}
	}
}

static void write_file(const char *path, const uint8_t *contents)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, contents, BYTES, 0), BYTES);
	close(fd);
}

static void refused_without_it(void **state)
{
	struct fixture *f = *state;
	struct image_opts o = {.path = f->path, .format = IMAGE_QCOW2};
	struct err err = ERR_INIT;
	struct image *img;

	make(f, "");
	assert_int_equal(image_open(&o, &img, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "'data'"));
	assert_non_null(strstr(err.msg, "data_file=PATH"));
	/* and given where it is not wanted */
	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
	o.data_file = data_path;
	err = (struct err)ERR_INIT;
	assert_int_equal(image_open(&o, &img, &err), -EINVAL);
}

static void written_and_read_as_qemu_does(void **state)
{
	static const char *const options[] = {"", ",data_file_raw=on", ",extended_l2=on",
					      ",cluster_size=4k", ",preallocation=metadata"};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		uint8_t *model = calloc(1, BYTES);
		char path[300];

		make(f, options[i]);
		open_with(f, false);
		work(f, model, i + 1);
		assert_reads(f, model);
		fixture_close(f);
		qcow2_assert_sound(f, false);
		snprintf(path, sizeof(path), "%s/model", f->dir);
		write_file(path, model);
		if (!qcow2_shell(f, "qemu-img check disk.qcow2 && "
				    "qemu-img compare -f qcow2 -F raw disk.qcow2 model"))
			fail_msg("qemu-img:%s", options[i]);
		open_with(f, true);
		assert_reads(f, model);
		fixture_close(f);
		free(model);
	}
}

/* Promised by the raw bit: the data file alone is the disk. */
static void a_raw_data_file_is_the_disk(void **state)
{
	struct fixture *f = *state;
	uint8_t *model = calloc(1, BYTES), *got = malloc(BYTES);
	struct qcow2_info info;
	struct err err = ERR_INIT;

	make(f, ",data_file_raw=on");
	open_with(f, false);
	work(f, model, 77);
	fixture_close(f);
	file_read(data_path, got, BYTES, 0);
	assert_memory_equal(got, model, BYTES);
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_true(info.autoclear_features & 2);
	free(model);
	free(got);
}

/* What QEMU wrote, with a backing file, is read and written on. */
static void what_qemu_wrote_is_read(void **state)
{
	struct fixture *f = *state;
	uint8_t *model = malloc(BYTES);

	make(f, "");
	fill_random(model, BYTES, 4);
	memset(model + MIB, 0x77, MIB);
	assert_true(
	    qcow2_shell(f, "qemu-io -f qcow2 -c 'write -P 0x77 1M 1M' disk.qcow2 || exit 0"));
	if (!qcow2_shell(f, "qemu-io --version")) {
		free(model);
		return;
	}
	open_with(f, false);
	assert_int_equal(run_write(f, model, 0, MIB), 0);
	assert_int_equal(run_write(f, model + 2 * MIB, 2 * MIB, BYTES - 2 * MIB), 0);
	assert_reads(f, model);
	free(model);
}

static void data_over_a_backing_file_is_copied(void **state)
{
	struct fixture *f = *state;
	uint8_t *model = malloc(BYTES);
	char path[300];

	fill_random(model, BYTES, 6);
	snprintf(path, sizeof(path), "%s/base", f->dir);
	write_file(path, model);
	make(f, " -b base -F raw");
	open_with(f, false);
	assert_reads(f, model);
	work(f, model, 5);
	assert_reads(f, model);
	fixture_close(f);
	assert_true(qcow2_shell(f, "qemu-img check disk.qcow2"));
	open_with(f, true);
	assert_reads(f, model);
	free(model);
}

/* An entry that says another place than the guest's: an error, and nothing is written. */
static void other_places_are_refused(void **state)
{
	struct fixture *f = *state;
	struct image_extent ext;
	struct err err = ERR_INIT;
	char b[4096] = "x";

	make(f, ",preallocation=metadata");
	open_with(f, false);
	assert_int_equal(image_map(f->img, 2 * CLUSTER, CLUSTER, &ext, &err), 0);
	assert_false(ext.has_host_offset);
	fixture_close(f);
	/* the first L2 entry, wherever qemu-img has put the table */
	assert_true(qcow2_shell(
	    f,
	    "l1=$((0x$(od -An -tx8 --endian=big -j40 -N8 disk.qcow2 | tr -d ' '))) && "
	    "l2=$(od -An -tx8 --endian=big -j$l1 -N8 disk.qcow2 | tr -d ' ') && "
	    "l2=$((0x0${l2#8})) && "
	    "printf '\\200\\0\\0\\0\\0\\5\\0\\0' | dd of=disk.qcow2 bs=1 seek=$l2 conv=notrunc"));
	open_with(f, false);
	assert_int_equal(run_read(f, b, 0, sizeof(b)), -EIO);
	assert_int_equal(run_write(f, b, 0, sizeof(b)), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(refused_without_it),
	    QCOW2_TEST(written_and_read_as_qemu_does),
	    QCOW2_TEST(a_raw_data_file_is_the_disk),
	    QCOW2_TEST(what_qemu_wrote_is_read),
	    QCOW2_TEST(data_over_a_backing_file_is_copied),
	    QCOW2_TEST(other_places_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
