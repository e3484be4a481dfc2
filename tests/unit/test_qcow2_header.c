/* disk/qcow2: what is refused, with which words, and that nothing is written to it. */
#include "disk/qcow2/header.h"
#include "tests/unit/qcow2_fixture.h"

struct patch {
	unsigned at, bytes;
	uint64_t value;
	const char *says;
	int code;
};

static uint8_t before[1 << 20], after[1 << 20];

static size_t slurp(const char *path, uint8_t *buf)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, buf, 1 << 20);

	assert_true(fd >= 0 && n >= 0);
	close(fd);
	return (size_t)n;
}

static void patch_file(const char *path, const struct patch *p)
{
	uint8_t be[8];
	int fd = open(path, O_RDWR | O_CLOEXEC);

	be64_store(be, p->value);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, be + 8 - p->bytes, p->bytes, p->at), p->bytes);
	close(fd);
}

static void assert_refused(struct fixture *f, const struct patch *p, bool read_only)
{
	struct image_opts o = {.path = f->path, .format = IMAGE_QCOW2, .read_only = read_only};
	struct err err = ERR_INIT;
	struct image *img = NULL;
	size_t n = slurp(f->path, before);
	int r = image_open(&o, &img, &err);

	if (!r)
		fail_msg("taken: %s", p->says);
	if (r != -p->code || !strstr(err.msg, p->says) || !strstr(err.msg, f->path))
		fail_msg("%d: %s (wanted %s)", r, err.msg, p->says);
	assert_int_equal(slurp(f->path, after), n);
	assert_memory_equal(before, after, n);
}

static void every_field(void **state)
{
	static const struct patch patches[] = {
	    {0, 4, 0x51464900, "not a qcow2 image", EINVAL},
	    {4, 4, 1, "version 1", ENOTSUP},
	    {4, 4, 4, "version 4", ENOTSUP},
	    {8, 8, 1 << 20, "backing_file_offset is 0x100000", EINVAL},
	    {8, 8, 8, "backing_file_offset is 0x8", EINVAL},
	    {20, 4, 8, "cluster_bits is 8", EINVAL},
	    {20, 4, 22, "cluster_bits is 22", EINVAL},
	    {20, 4, 0xffffffff, "cluster_bits is 4294967295", EINVAL},
	    {24, 8, UINT64_MAX, "size is 18446744073709551615", EINVAL},
	    {24, 8, UINT64_C(1) << 40, "l1_size is 1 entries; a disk of", EINVAL},
	    {32, 4, 2, "crypt_method 2", ENOTSUP},
	    {36, 4, 0, "l1_size is 0", EINVAL},
	    {36, 4, 0x7fffffff, "l1_size is 2147483647", EINVAL},
	    {36, 4, 4 << 20, "past the end of the file", EINVAL},
	    {40, 8, 0x30001, "l1_table_offset is 0x30001", EINVAL},
	    {40, 8, 0, "l1_table_offset is 0", EINVAL},
	    {40, 8, UINT64_MAX << 16, "l1_table_offset is 0xffffffffffff0000", EINVAL},
	    {48, 8, 0x200, "refcount_table_offset is 0x200", EINVAL},
	    {48, 8, UINT64_C(1) << 40, "refcount_table_offset is 0x10000000000", EINVAL},
	    {56, 4, 0, "refcount_table_clusters is 0", EINVAL},
	    {56, 4, 129, "refcount_table_clusters is 129", EINVAL},
	    {60, 4, 65537, "nb_snapshots is 65537", EINVAL},
	    {60, 4, 1, "snapshots_offset is 0", EINVAL},
	    {64, 8, 1, "snapshots_offset is 0x1", EINVAL},
	    {72, 8, 4, "external file", ENOTSUP},
	    {72, 8, 8, "compression_type is 0", EINVAL},
	    {72, 8, UINT64_C(1) << 5, "feature 'bit 5'", ENOTSUP},
	    {72, 8, UINT64_C(1) << 63, "feature 'bit 63'", ENOTSUP},
	    {72, 8, 2, "is marked corrupt", EROFS},
	    {96, 4, 7, "refcount_order is 7", EINVAL},
	    {100, 4, 96, "header_length is 96", EINVAL},
	    {100, 4, 108, "header_length is 108", EINVAL},
	    {100, 4, 0xfffffff8, "header_length is 4294967288", EINVAL},
	    {104, 1, 1, "compression_type is 1", EINVAL},
	    {112, 8, UINT64_C(0x1234567800100000), "header extension 0x12345678 at 0x70", EINVAL},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(patches); i++) {
		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
		patch_file(f->path, &patches[i]);
		assert_refused(f, &patches[i], false);
		if (patches[i].code != EROFS)
			assert_refused(f, &patches[i], true);
	}
}

/* The feature name table of the image gives the name. */
static void unknown_features_have_names(void **state)
{
	static const struct patch bit = {72, 8, UINT64_C(1) << 40, "feature 'time travel'",
					 ENOTSUP};
	static const struct patch ext = {112, 8, UINT64_C(0x6803f85700000030), "", 0};
	static const struct patch entry = {120, 2, 40, "", 0};
	struct fixture *f = *state;
	int fd;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
	patch_file(f->path, &bit);
	patch_file(f->path, &ext);
	patch_file(f->path, &entry);
	fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "time travel", 11, 122), 11);
	close(fd);
	assert_refused(f, &bit, false);
}

static void cut_files(void **state)
{
	static const size_t lens[] = {1, 3, 4, 71, 72, 103, 104, 511, 512, 65536, 131072, 196608};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		struct image_opts o = {.path = f->path, .format = IMAGE_QCOW2};
		struct err err = ERR_INIT;
		struct image *img;

		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
		assert_int_equal(truncate(f->path, (off_t)lens[i]), 0);
		assert_int_equal(image_open(&o, &img, &err), -EINVAL);
	}
}

static void extensions_survive_a_rewrite(void **state)
{
	struct fixture *f = *state;
	struct qcow2_info info;
	struct err err = ERR_INIT;
	uint8_t unknown[16] = {0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o'};
	int fd;

	qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
	fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, unknown, 16, 112), 16);
	close(fd);
	assert_int_equal(qcow2_set_backing(f->path, "other.raw", "raw", &err), 0);
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_string_equal(info.backing_path, "other.raw");
	assert_string_equal(info.backing_format, "raw");
	assert_int_equal(qcow2_set_backing(f->path, NULL, NULL, &err), 0);
	assert_int_equal(qcow2_info(f->path, &info, &err), 0);
	assert_false(info.has_backing);
	slurp(f->path, before);
	assert_memory_equal(before + 112, unknown, 16);
	qcow2_assert_sound(f, false);
}

static void impossible_options(void **state)
{
	static const struct qcow2_create_opts bad[] = {
	    {.size_bytes = MIB, .cluster_bytes = 1000},
	    {.size_bytes = MIB, .cluster_bytes = 256},
	    {.size_bytes = MIB, .cluster_bytes = 4u << 20},
	    {.size_bytes = MIB, .refcount_bits = 3},
	    {.size_bytes = MIB, .refcount_bits = 128},
	    {.size_bytes = MIB, .version = 2, .refcount_bits = 8},
	    {.size_bytes = MIB, .version = 2, .extended_l2 = true},
	    {.size_bytes = MIB, .version = 2, .compression = QCOW2_ZSTD},
	    {.size_bytes = MIB, .extended_l2 = true, .cluster_bytes = 8192},
	    {.size_bytes = MIB, .backing_path = "x"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct qcow2_create_opts o = bad[i];
		struct err err = ERR_INIT;

		o.path = f->path;
		o.has_size = true;
		assert_int_equal(qcow2_create(&o, &err), -EINVAL);
		assert_int_equal(access(f->path, F_OK), -1);
	}
	/* too large for the clusters: the file that was begun is gone again */
	for (int i = 0; i < 2; i++) {
		struct qcow2_create_opts o = {.path = f->path,
					      .has_size = true,
					      .size_bytes = i ? UINT64_MAX : UINT64_C(1) << 50,
					      .cluster_bytes = 512};
		struct err err = ERR_INIT;

		assert_int_equal(qcow2_create(&o, &err), -EFBIG);
		assert_int_equal(access(f->path, F_OK), -1);
	}
}

/* Tables that point at the header, each other, or nowhere: an I/O error, no more writes, no crash.
 */
static void tables_over_metadata(void **state)
{
	/* the L1 table of a new image is at 0x30000 */
	static const uint64_t entries[] = {
	    Q2_COPIED,		 Q2_COPIED | 0x10000,	 Q2_COPIED | 0x20000,
	    Q2_COPIED | 0x30000, Q2_COPIED | 0x7fff0000, Q2_COPIED | 0x10200,
	    UINT64_MAX,
	};
	struct fixture *f = *state;
	char b[4096] = "x";

	for (size_t i = 1; i < ARRAY_LEN(entries); i++) {
		struct patch p = {0x30000, 8, entries[i], "", 0};
		struct qcow2_info info;
		struct err err = ERR_INIT;

		qcow2_make(f, (struct qcow2_create_opts){.size_bytes = MIB});
		patch_file(f->path, &p);
		qcow2_open(f, (struct image_opts){0});
		if (i != 2) /* a refcount block taken for an L2 table: its entries are nonsense */
			assert_int_equal(run_read(f, b, 0, sizeof(b)), -EIO);
		assert_int_equal(run_write(f, b, 0, sizeof(b)), -EIO);
		fixture_close(f);
		/* and that is written down */
		assert_int_equal(qcow2_info(f->path, &info, &err), 0);
		assert_true(info.corrupt);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(every_field),	    QCOW2_TEST(unknown_features_have_names),
	    QCOW2_TEST(cut_files),	    QCOW2_TEST(extensions_survive_a_rewrite),
	    QCOW2_TEST(impossible_options), QCOW2_TEST(tables_over_metadata),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
