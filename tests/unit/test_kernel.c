/*
 * Kernels that load: what lies where afterwards. Where LODGE_GUEST_KERNEL names a distribution's
 * bzImage, that one too, against what the tool of its format makes of it.
 */
#include "tests/unit/kernel_fixture.h"

#include <errno.h>
#include <time.h>

static void elf_goes_to_its_physical_addresses(void **state)
{
	struct blob elf = fake_vmlinux();

	(void)state;
	write_file(elf.data, elf.len);
	save_seed("elf", &elf);
	for (int memfd = 0; memfd < MEMORY_KINDS; memfd++) {
		struct guest g = guest_new(16 * MIB, memfd);
		struct kernel_loaded l = loads(&g);

		assert_segments(&g, &elf);
		assert_int_equal(l.entry, ENTRY);
		assert_int_equal(l.start, 2 * MIB);
		assert_int_equal(l.end, KERNEL_END);
		assert_int_equal(l.setup_header_len, 0);
		guest_free(&g);
	}
	free(elf.data);
}

static void elf_virtual_entry_is_translated(void **state)
{
	struct blob elf = fake_elf(UINT64_C(0xffffffff80000000) + ENTRY, segments, NSEGMENTS);
	struct guest g = guest_new(16 * MIB, ANONYMOUS);

	(void)state;
	write_file(elf.data, elf.len);
	assert_int_equal(loads(&g).entry, ENTRY);
	guest_free(&g);
	free(elf.data);
}

static void payload_of_each_format_is_unpacked(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ,   UNPACK_LZMA,
						     UNPACK_LZ4,  UNPACK_ZSTD, UNPACK_NONE};
	struct blob elf = fake_vmlinux();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		struct blob b = fake_packed(&elf, formats[i], 2 * MIB, 8 << 20);

		write_file(b.data, b.len);
		save_seed(unpack_name(formats[i]), &b);
		for (int memfd = 0; memfd < MEMORY_KINDS; memfd++) {
			struct guest g = guest_new(16 * MIB, memfd);
			struct kernel_loaded l = loads(&g);

			assert_segments(&g, &elf);
			assert_int_equal(l.entry, ENTRY);
			assert_int_equal(l.start, 2 * MIB);
			assert_int_equal(l.end, KERNEL_END);
			assert_int_equal(l.initrd_max, 0x7fffffff);
			assert_int_equal(l.setup_header_len, 0x26c - 0x1f1);
			assert_memory_equal(l.setup_header, b.data + 0x1f1, l.setup_header_len);
			guest_free(&g);
		}
		free(b.data);
	}
	free(elf.data);
}

static void unknown_payload_is_left_to_unpack_itself(void **state)
{
	struct blob packed = blob_new(50000);
	struct guest g = guest_new(16 * MIB, MEMFD);
	struct kernel_loaded l;

	(void)state;
	fill_like_code(packed.data, packed.len, 3);
	memcpy(packed.data, "BZh91AY", 7);

	struct blob b = fake_bzimage(&packed, UNPACK_UNKNOWN, 1 << 20, 8 * MIB, 4 << 20);

	write_file(b.data, b.len);
	save_seed("bzip2", &b);
	l = loads(&g);
	assert_int_equal(l.start, 8 * MIB);
	assert_int_equal(l.entry, 8 * MIB + 0x200);
	assert_int_equal(l.end, 12 * MIB);
	assert_memory_equal(g.host + 8 * MIB, b.data + FAKE_BZ_CODE, b.len - FAKE_BZ_CODE);
	guest_free(&g);

	/* less memory: as low as its alignment allows */
	g = guest_new(7 * MIB, MEMFD);
	l = loads(&g);
	assert_int_equal(l.start, 2 * MIB);
	assert_int_equal(l.end, 6 * MIB);
	guest_free(&g);

	/* not where it cannot be moved */
	b.data[0x234] = 0;
	write_file(b.data, b.len);
	g = guest_new(7 * MIB, MEMFD);
	struct err err = load_fails(&g, ENOMEM);
	SAYS(&err, "12 MiB", "--memory");
	guest_free(&g);
	free(b.data);
	free(packed.data);
}

static void release_is_what_the_file_says(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob b = fake_packed(&elf, UNPACK_LZ4, 2 * MIB, 8 << 20);
	struct kernel *k = NULL;

	(void)state;
	write_file(b.data, b.len);
	assert_int_equal(kernel_open(path, KERNEL_FOR_X86_64, &k, NULL), 0);
	assert_int_equal(kernel_format(k), KERNEL_BZIMAGE);
	assert_string_equal(kernel_release(k), FAKE_BZ_RELEASE);
	kernel_close(k);

	/* a pointer past the real-mode part */
	le16_store(b.data + 0x20e, 0xfff0);
	write_file(b.data, b.len);
	assert_int_equal(kernel_open(path, KERNEL_FOR_X86_64, &k, NULL), 0);
	assert_null(kernel_release(k));
	kernel_close(k);

	write_file(elf.data, elf.len);
	assert_int_equal(kernel_open(path, KERNEL_FOR_X86_64, &k, NULL), 0);
	assert_int_equal(kernel_format(k), KERNEL_ELF);
	assert_null(kernel_release(k));
	kernel_close(k);

	strcpy((char *)elf.data + 5000, "Linux version %s");
	strcpy((char *)elf.data + 6000, "Linux version 6.9.1-tiny (a@b)");
	write_file(elf.data, elf.len);
	assert_int_equal(kernel_open(path, KERNEL_FOR_X86_64, &k, NULL), 0);
	assert_string_equal(kernel_release(k), "6.9.1-tiny");
	assert_string_equal(kernel_release(k), "6.9.1-tiny");
	kernel_close(k);
	free(b.data);
	free(elf.data);
}

/* ---- a real one --------------------------------------------------------------------------- */

static double cpu_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* Linux Documentation/x86/boot.rst */
static bool is_bzimage(const char *kernel)
{
	int fd = open(kernel, O_RDONLY | O_CLOEXEC);
	char magic[4] = "";

	if (fd >= 0 && pread(fd, magic, sizeof(magic), 0x202) < 0)
		magic[0] = '\0';
	if (fd >= 0)
		close(fd);
	return !memcmp(magic, "HdrS", 4);
}

/* The payload by the tool of its format, found by the header's own fields. */
static struct blob tool_unpacks(const char *kernel)
{
	static const char *const tools[] = {[UNPACK_GZIP] = "gzip -dc",
					    [UNPACK_XZ] = "xz -dc",
					    [UNPACK_LZMA] = "lzma -dc",
					    [UNPACK_LZ4] = "lz4 -dc",
					    [UNPACK_ZSTD] = "zstd -dc"};
	int fd = open(kernel, O_RDONLY | O_CLOEXEC);
	struct stat st;
	struct blob file, out;
	char command[128];
	FILE *f;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	file = blob_new((size_t)st.st_size);
	assert_int_equal(read(fd, file.data, file.len), file.len);
	close(fd);

	size_t at = (file.data[0x1f1] + 1u) * 512 + le32_load(file.data + 0x248);
	size_t len = le32_load(file.data + 0x24c);
	enum unpack_format format = unpack_detect(file.data + at, len);

	out = blob_new(le32_load(file.data + at + len - 4));
	if (format != UNPACK_GZIP)
		len -= 4;
	write_file(file.data + at, len);
	free(file.data);
	assert_true(format < ARRAY_LEN(tools) && tools[format]);
	snprintf(command, sizeof(command), "%s <%s", tools[format], path);
	f = popen(command, "r");
	assert_non_null(f);
	if (fread(out.data, 1, out.len, f) != out.len || pclose(f) != 0) {
		print_message("no such tool here: %s\n", tools[format]);
		free(out.data);
		skip();
	}
	return out;
}

static void compare_with_vmlinux(const struct guest *g, const struct blob *vmlinux,
				 const struct kernel_loaded *l)
{
	Elf64_Ehdr eh;
	uint64_t start = UINT64_MAX, end = 0;

	memcpy(&eh, vmlinux->data, sizeof(eh));
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, vmlinux->data + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type != PT_LOAD)
			continue;
		assert_memory_equal(g->host + ph.p_paddr, vmlinux->data + ph.p_offset, ph.p_filesz);
		assert_true(zero(g->host + ph.p_paddr + ph.p_filesz, ph.p_memsz - ph.p_filesz));
		start = MIN(start, ph.p_paddr);
		end = MAX(end, ph.p_paddr + ph.p_memsz);
	}
	assert_int_equal(l->entry, eh.e_entry);
	assert_int_equal(l->start, start);
	assert_int_equal(l->end, align_up(end, 4096));
	assert_true(zero(g->host + MIB, start - MIB));
	assert_true(zero(g->host + l->end, g->size - l->end));
}

static void distribution_kernel_is_unpacked_right(void **state)
{
	const char *file = getenv("LODGE_GUEST_KERNEL");
	struct err err = ERR_INIT;
	struct kernel *k;
	struct kernel_loaded l;

	(void)state;
	if (!file) {
		print_message("LODGE_GUEST_KERNEL is not set\n");
		skip();
	}
	if (!is_bzimage(file)) {
		print_message("%s is none of a PC\n", file);
		skip();
	}

	struct blob vmlinux = tool_unpacks(file);
	struct guest g = guest_new(512 * MIB, MEMFD);
	double t0 = cpu_ms(), t1, t2;

	if (kernel_open(file, KERNEL_FOR_X86_64, &k, &err) < 0)
		fail_msg("%s", err.msg);
	t1 = cpu_ms();
	if (kernel_load(k, g.mem, &l, &err) < 0)
		fail_msg("%s", err.msg);
	t2 = cpu_ms();
	print_message("%s, %zu bytes unpacked: open %.2f ms, load %.2f ms of CPU\n",
		      kernel_release(k), vmlinux.len, t1 - t0, t2 - t1);
	compare_with_vmlinux(&g, &vmlinux, &l);
	kernel_close(k);
	guest_free(&g);
	free(vmlinux.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(elf_goes_to_its_physical_addresses),
	    cmocka_unit_test(elf_virtual_entry_is_translated),
	    cmocka_unit_test(payload_of_each_format_is_unpacked),
	    cmocka_unit_test(unknown_payload_is_left_to_unpack_itself),
	    cmocka_unit_test(release_is_what_the_file_says),
	    cmocka_unit_test(distribution_kernel_is_unpacked_right),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
