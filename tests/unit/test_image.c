/* The Image of 64-bit Arm, packed and not: what lies where, and what is said of bad ones. */
#include "tests/unit/kernel_fixture.h"

#include <errno.h>

#define RAM	    UINT64_C(0x40000000)
#define IMAGE_BYTES 300000
#define IMAGE_TAKES (700 * KIB)
#define BANNER_AT   200000

/* One region of memory, as a 64-bit Arm machine has it. */
static struct guest ram_new(uint64_t size)
{
	struct guest g = {.size = size, .fd = -1};

	g.host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(g.host, MAP_FAILED);
	assert_int_equal(gmem_new(&g.mem), 0);

	struct gmem_region ram = {RAM, size, g.host, -1, 0};

	assert_int_equal(gmem_add(g.mem, &ram, NULL), 0);
	return g;
}

static struct blob fake_image(uint64_t text_offset, uint64_t takes)
{
	struct blob b = blob_new(IMAGE_BYTES);

	fill_like_code(b.data, b.len, 7);
	memset(b.data, 0, 64);
	le64_store(b.data + 8, text_offset);
	le64_store(b.data + 16, takes);
	le64_store(b.data + 24, 0xa); /* 4 KiB pages, anywhere */
	memcpy(b.data + 56, "ARM\x64", 4);
	strcpy((char *)b.data + BANNER_AT, "Linux version 6.1.0-arm (a@b)");
	return b;
}

/* The payload of an EFI zboot image. */
static struct blob fake_zboot(const struct blob *packed, enum unpack_format format, size_t unpacked)
{
	size_t extra = format == UNPACK_GZIP ? 0 : 4, at = 512;
	struct blob b = blob_new(at + packed->len + extra + 100);

	memcpy(b.data, "MZ", 2);
	memcpy(b.data + 4, "zimg", 4);
	le32_store(b.data + 8, (uint32_t)at);
	le32_store(b.data + 12, (uint32_t)(packed->len + extra));
	memcpy(b.data + at, packed->data, packed->len);
	if (extra)
		le32_store(b.data + at + packed->len, (uint32_t)unpacked);
	return b;
}

static void assert_image(const struct blob *image, uint64_t offset)
{
	struct guest g = ram_new(4 * MIB);
	struct kernel_loaded l = loads(&g);

	assert_int_equal(l.entry, RAM + offset);
	assert_int_equal(l.start, RAM + offset);
	assert_int_equal(l.end, align_up(RAM + offset + IMAGE_TAKES, 4096));
	assert_int_equal(l.setup_header_len, 0);
	assert_true(zero(g.host, offset));
	assert_memory_equal(g.host + offset, image->data, image->len);
	assert_true(zero(g.host + offset + image->len, g.size - offset - image->len));
	guest_free(&g);
}

static void image_goes_to_its_offset(void **state)
{
	static const uint64_t offsets[] = {0, 0x80000, 0x1ff000};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
		struct blob b = fake_image(offsets[i], IMAGE_TAKES);

		write_file(b.data, b.len);
		save_seed("image", &b);
		assert_image(&b, offsets[i]);
		free(b.data);
	}
}

static void packed_image_is_unpacked(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ, UNPACK_LZMA,
						     UNPACK_LZ4, UNPACK_ZSTD};
	struct blob image = fake_image(0, IMAGE_TAKES);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		struct blob packed = pack(formats[i], image.data, image.len);
		struct blob zboot = fake_zboot(&packed, formats[i], image.len);
		char name[40];

		write_file(packed.data, packed.len);
		snprintf(name, sizeof(name), "image-%s", unpack_name(formats[i]));
		save_seed(name, &packed);
		assert_image(&image, 0);
		write_file(zboot.data, zboot.len);
		snprintf(name, sizeof(name), "zboot-%s", unpack_name(formats[i]));
		save_seed(name, &zboot);
		assert_image(&image, 0);
		free(packed.data);
		free(zboot.data);
	}
	free(image.data);
}

static void assert_release(const char *want)
{
	struct kernel *k = NULL;

	assert_int_equal(kernel_open(path, machine, &k, NULL), 0);
	assert_int_equal(kernel_format(k), KERNEL_IMAGE);
	if (want)
		assert_string_equal(kernel_release(k), want);
	else
		assert_null(kernel_release(k));
	kernel_close(k);
}

static void release_is_found_in_a_packed_image_too(void **state)
{
	/* also across the pieces in which it comes out */
	static const size_t places[] = {BANNER_AT, 256 * KIB - 20, 256 * KIB - 3, 256 * KIB, 128};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		struct blob b = fake_image(0, IMAGE_TAKES), packed;

		memset(b.data + BANNER_AT, 'x', 40);
		memcpy(b.data + places[i], "Linux version 6.1.0-arm (", 26);
		write_file(b.data, b.len);
		assert_release("6.1.0-arm");
		packed = pack(UNPACK_GZIP, b.data, b.len);
		write_file(packed.data, packed.len);
		assert_release("6.1.0-arm");
		free(packed.data);
		memset(b.data + places[i], 'x', 40);
		packed = pack(UNPACK_GZIP, b.data, b.len);
		write_file(packed.data, packed.len);
		assert_release(NULL);
		free(packed.data);
		free(b.data);
	}
}

/* Before Linux 3.17: text_offset is 0x80000 whatever the header says, the size is the file's. */
static void image_of_an_old_kernel_loads(void **state)
{
	struct blob b = fake_image(0x123, 0);
	struct guest g = ram_new(4 * MIB);
	struct kernel_loaded l;

	(void)state;
	write_file(b.data, b.len);
	l = loads(&g);
	assert_int_equal(l.entry, RAM + 0x80000);
	assert_memory_equal(g.host + 0x80000, b.data, b.len);
	guest_free(&g);
	free(b.data);
}

static void bad_headers_are_named(void **state)
{
	struct blob b = fake_image(0, IMAGE_TAKES);
	struct err err;

	(void)state;
	le64_store(b.data + 24, 1);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "big-endian");
	le64_store(b.data + 24, 0);
	le64_store(b.data + 8, 2 * MIB);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "damaged", "0x200000");
	le64_store(b.data + 8, 0);
	le64_store(b.data + 16, UINT64_MAX);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "damaged");
	free(b.data);
}

static void too_little_memory_says_how_much(void **state)
{
	struct blob b = fake_image(0x80000, 3 * MIB);
	struct guest g = ram_new(3 * MIB);
	struct err err;

	(void)state;
	write_file(b.data, b.len);
	err = load_fails(&g, ENOMEM);
	SAYS(&err, "4 MiB", "3 MiB", "--memory");
	guest_free(&g);
	free(b.data);
}

static void damaged_and_foreign_packed_files_are_named(void **state)
{
	struct blob image = fake_image(0, IMAGE_TAKES), packed, more;
	struct guest g = ram_new(4 * MIB);
	struct err err;

	(void)state;
	packed = pack(UNPACK_GZIP, image.data, image.len);
	write_file(packed.data, packed.len / 2);
	err = load_fails(&g, EBADMSG);
	SAYS(&err, "damaged");
	free(packed.data);

	/* more comes out than the header says */
	le64_store(image.data + 16, 4096);
	packed = pack(UNPACK_GZIP, image.data, image.len);
	write_file(packed.data, packed.len);
	err = load_fails(&g, EBADMSG);
	SAYS(&err, "damaged");
	free(packed.data);

	more = blob_new(5000);
	fill_like_code(more.data, more.len, 9);
	packed = pack(UNPACK_ZSTD, more.data, more.len);
	write_file(packed.data, packed.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "zstd", "holds no Image");
	free(packed.data);
	free(more.data);

	packed = fake_zboot(&image, UNPACK_UNKNOWN, image.len);
	write_file(packed.data, packed.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "zboot");
	write_file(packed.data, 4000);
	err = open_fails(EBADMSG);
	SAYS(&err, "truncated");
	free(packed.data);
	guest_free(&g);
	free(image.data);
}

static void kernels_of_other_machines_are_named(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob bz = fake_packed(&elf, UNPACK_LZ4, 2 * MIB, 8 << 20);
	struct err err;

	(void)state;
	write_file(bz.data, bz.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "x86", "bzImage", "64-bit ARM");
	write_file(elf.data, elf.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "x86-64", "64-bit ARM");
	le16_store(elf.data + 18, EM_AARCH64);
	write_file(elf.data, elf.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "Image");
	free(bz.data);
	free(elf.data);
}

/* Whatever is wrong: an error, or a kernel that stays where it says. */
static void any_header_byte_may_be_wrong(void **state)
{
	struct blob image = fake_image(0x80000, IMAGE_TAKES);
	struct guest g = ram_new(2 * MIB);

	(void)state;
	for (size_t i = 0; i < 64; i++)
		for (unsigned k = 0; k < 3; k++) {
			uint8_t was = image.data[i];
			struct err err = ERR_INIT;
			struct kernel_loaded l;
			struct kernel *kernel;

			image.data[i] = k == 0 ? 0xff : k == 1 ? was ^ 0x80 : was + 1;
			write_file(image.data, image.len);
			image.data[i] = was;
			if (kernel_open(path, machine, &kernel, &err) < 0)
				continue;
			if (!kernel_load(kernel, g.mem, &l, &err)) {
				assert_true(l.start >= RAM && l.end <= RAM + g.size);
				assert_true(zero(g.host, l.start - RAM));
				assert_true(zero(g.host + (l.end - RAM), g.size - (l.end - RAM)));
			}
			kernel_close(kernel);
			memset(g.host, 0, g.size);
		}
	guest_free(&g);
	free(image.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(image_goes_to_its_offset),
	    cmocka_unit_test(packed_image_is_unpacked),
	    cmocka_unit_test(release_is_found_in_a_packed_image_too),
	    cmocka_unit_test(image_of_an_old_kernel_loads),
	    cmocka_unit_test(bad_headers_are_named),
	    cmocka_unit_test(too_little_memory_says_how_much),
	    cmocka_unit_test(damaged_and_foreign_packed_files_are_named),
	    cmocka_unit_test(kernels_of_other_machines_are_named),
	    cmocka_unit_test(any_header_byte_may_be_wrong),
	};

	machine = KERNEL_FOR_ARM64;
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
