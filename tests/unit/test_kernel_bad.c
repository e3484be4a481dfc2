/* Kernels that do not load, and what is said about them; and any byte wrong, which never does harm.
 */
#include "tests/unit/kernel_fixture.h"

#include <errno.h>

/* ---- bad input ---------------------------------------------------------------------------- */

static void what_is_no_file_is_named(void **state)
{
	struct err err;
	char was[sizeof(path)];

	(void)state;
	unlink(path);
	err = open_fails(ENOENT);
	SAYS(&err, "no such file", "bzImage");

	strcpy(was, path);
	strcpy(path, dir);
	err = open_fails(EISDIR);
	SAYS(&err, "is a directory");
	strcpy(path, was);

	assert_int_equal(mkfifo(path, 0600), 0);
	err = open_fails(EINVAL);
	SAYS(&err, "not a regular file");
	unlink(path);

	write_file(NULL, 0);
	err = open_fails(ENOEXEC);
	SAYS(&err, "is empty");
}

static void unreadable_file_is_named(void **state)
{
	struct err err;
	uid_t me = geteuid();

	(void)state;
	write_file((const uint8_t *)"x", 1);
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(chmod(dir, 0755), 0);
	if (me == 0 && seteuid(65534) < 0)
		skip();
	err = open_fails(EACCES);
	if (me == 0)
		assert_int_equal(seteuid(0), 0);
	SAYS(&err, "no permission");
	unlink(path);
}

static void elf_of_other_machines_is_named(void **state)
{
	static const struct {
		unsigned char elfclass, data;
		uint16_t machine;
		const char *name;
	} others[] = {
	    {ELFCLASS64, ELFDATA2LSB, EM_AARCH64, "aarch64"},
	    {ELFCLASS32, ELFDATA2LSB, EM_386, "i386"},
	    {ELFCLASS64, ELFDATA2LSB, EM_RISCV, "RISC-V"},
	    {ELFCLASS64, ELFDATA2MSB, EM_S390, "s390"},
	    {ELFCLASS64, ELFDATA2LSB, 0x7777, "30583"},
	    {ELFCLASS32, ELFDATA2LSB, EM_X86_64, "not a 64-bit"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		struct blob elf = fake_vmlinux();
		struct err err;

		elf.data[EI_CLASS] = others[i].elfclass;
		elf.data[EI_DATA] = others[i].data;
		if (others[i].data == ELFDATA2MSB)
			be16_store(elf.data + 18, others[i].machine);
		else
			le16_store(elf.data + 18, others[i].machine);
		write_file(elf.data, elf.len);
		err = open_fails(ENOEXEC);
		SAYS(&err, others[i].name, "x86-64");
		free(elf.data);
	}
}

static void other_files_are_named(void **state)
{
	static const struct {
		size_t at;
		const char *magic, *says;
	} files[] = {
	    {0, "\x1f\x8b\x08\x01", "packed with gzip"},
	    {0, "070701", "--initrd"},
	    {56, "ARM\x64", "aarch64"},
	    {56, "RSC\x05", "RISC-V"},
	    {0, "#!/bin/sh\n", "is not a kernel"},
	};
	struct blob b;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		b = blob_new(4096);
		memcpy(b.data + files[i].at, files[i].magic, strlen(files[i].magic));
		write_file(b.data, b.len);
		err = open_fails(ENOEXEC);
		SAYS(&err, files[i].says);
		free(b.data);
	}
	write_file((const uint8_t *)"MZ", 2);
	err = open_fails(ENOEXEC);
	SAYS(&err, "truncated", "2 bytes");

	b = fake_vmlinux();
	le16_store(b.data + 16, ET_REL);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "kernel module");
	free(b.data);
}

static void old_and_32_bit_bzimages_are_named(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob b = fake_packed(&elf, UNPACK_GZIP, 2 * MIB, 8 << 20);
	struct err err;

	(void)state;
	le16_store(b.data + 0x236, 0);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "i386", "x86-64");
	le16_store(b.data + 0x236, 1);

	le16_store(b.data + 0x206, 0x0207);
	write_file(b.data, b.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "2.07", "2.08");
	free(b.data);
	free(elf.data);
}

static void truncated_files_say_so(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob b = fake_packed(&elf, UNPACK_LZ4, 2 * MIB, 8 << 20);

	(void)state;
	/* down to where a file shows what it is, and on */
	write_file(b.data, b.len);
	for (size_t len = b.len - 1; len; len -= len < 3000 ? 1 : 997) {
		assert_int_equal(truncate(path, (off_t)len), 0);
		if (len >= 0x206) {
			struct err err = open_fails(EBADMSG);
			SAYS(&err, "truncated");
		} else {
			open_fails(ENOEXEC);
		}
	}
	write_file(elf.data, elf.len);
	for (size_t len = elf.len - 1; len >= 4; len -= len < 5000 ? 1 : 997) {
		assert_int_equal(truncate(path, (off_t)len), 0);
		struct err err = open_fails(EBADMSG);
		SAYS(&err, "truncated");
	}
	free(b.data);
	free(elf.data);
}

static void too_little_memory_says_how_much(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob b = fake_packed(&elf, UNPACK_ZSTD, 2 * MIB, 8 << 20);
	struct guest g = guest_new(4 * MIB, MEMFD);
	struct err err;

	(void)state;
	write_file(elf.data, elf.len);
	err = load_fails(&g, ENOMEM);
	SAYS(&err, "8 MiB", "3 MiB", "--memory");
	write_file(b.data, b.len);
	err = load_fails(&g, ENOMEM);
	SAYS(&err, "8 MiB", "3 MiB", "--memory");
	/* refused before anything was written */
	assert_true(zero(g.host, g.size));
	guest_free(&g);
	free(b.data);
	free(elf.data);
}

static void segments_below_1_mib_or_overlapping_are_refused(void **state)
{
	struct fake_segment bad[2] = {{0x90000, 100, 100}, {2 * MIB, 4096, 4096}};
	struct blob elf = fake_elf(2 * MIB, bad, 2);
	struct err err;

	(void)state;
	write_file(elf.data, elf.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "0x90000", "1 MiB");
	free(elf.data);

	bad[0].gpa = 2 * MIB + 4000;
	elf = fake_elf(2 * MIB, bad, 2);
	write_file(elf.data, elf.len);
	err = open_fails(ENOEXEC);
	SAYS(&err, "overlap", "0x200fa0", "0x200000");
	free(elf.data);
}

static void damaged_payload_says_so(void **state)
{
	struct blob elf = fake_vmlinux();
	struct blob b = fake_packed(&elf, UNPACK_XZ, 2 * MIB, 8 << 20);
	struct guest g = guest_new(16 * MIB, MEMFD);
	struct err err;

	(void)state;
	b.data[b.len / 2] ^= 1;
	write_file(b.data, b.len);
	err = load_fails(&g, EBADMSG);
	SAYS(&err, "xz payload is damaged");
	free(b.data);

	/* something else than a kernel in it */
	memset(elf.data, 'x', 64);
	b = fake_packed(&elf, UNPACK_XZ, 2 * MIB, 8 << 20);
	write_file(b.data, b.len);
	err = load_fails(&g, ENOEXEC);
	SAYS(&err, "not an ELF kernel");
	guest_free(&g);
	free(b.data);
	free(elf.data);
}

/* What comes out has the size at the end of the payload, and init_size bounds it. */
static void payload_of_another_size_than_said_is_refused(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ, UNPACK_LZMA,
						     UNPACK_LZ4, UNPACK_ZSTD};
	struct blob elf = fake_vmlinux();
	struct guest g = guest_new(16 * MIB, MEMFD);
	struct err err;

	(void)state;
	/* the last segment takes nothing of the file, so that the file may end earlier */
	le64_store(elf.data + sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr) +
		       offsetof(Elf64_Phdr, p_filesz),
		   0);
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		struct blob packed = pack(formats[i], elf.data, elf.len);
		struct blob b;
		size_t at = FAKE_BZ_CODE + FAKE_BZ_PAYLOAD + packed.len -
			    (formats[i] == UNPACK_GZIP ? 4 : 0);

		b = fake_bzimage(&packed, formats[i], elf.len, 2 * MIB, 1 << 20);
		write_file(b.data, b.len);
		err = load_fails(&g, ENOEXEC);
		SAYS(&err, "damaged", unpack_name(formats[i]));

		le32_store(b.data + 0x260, 8 << 20);
		le32_store(b.data + at, (uint32_t)elf.len - 1);
		write_file(b.data, b.len);
		err = load_fails(&g, EBADMSG);
		SAYS(&err, "damaged");

		/* nor may it be less */
		le32_store(b.data + at, (uint32_t)elf.len + 1);
		write_file(b.data, b.len);
		err = load_fails(&g, EBADMSG);
		SAYS(&err, "damaged");
		free(b.data);
		free(packed.data);
	}
	guest_free(&g);
	free(elf.data);
}

/* Every header byte wrong in turn: an error, or a kernel that stays within [start, end). */
static void load_anything(struct guest *g)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;
	struct kernel_loaded l;

	if (kernel_open(path, KERNEL_FOR_X86_64, &k, &err) < 0) {
		SAYS(&err, "kernel");
		return;
	}
	kernel_release(k);
	if (kernel_load(k, g->mem, &l, &err) < 0) {
		SAYS(&err, "kernel");
	} else {
		assert_true(l.start >= MIB && l.start < l.end && l.end <= g->size);
		assert_true(l.entry >= l.start && l.entry < l.end);
		assert_true(zero(g->host, l.start));
		assert_true(zero(g->host + l.end, g->size - l.end));
	}
	kernel_close(k);
	memset(g->host, 0, g->size);
}

static void damage_each_byte(struct blob *b, size_t from, size_t to)
{
	struct guest g = guest_new(2 * MIB, ANONYMOUS);

	write_file(b->data, b->len);
	for (size_t i = from; i < to; i++)
		for (unsigned k = 0; k < 4; k++) {
			uint8_t was = b->data[i];

			b->data[i] = k == 0 ? 0 : k == 1 ? 0xff : k == 2 ? was ^ 0x80 : was + 1;
			write_byte(i, b->data[i]);
			load_anything(&g);
			b->data[i] = was;
			write_byte(i, was);
		}
	guest_free(&g);
}

static const struct fake_segment small[] = {{MIB, 9000, 5000}, {MIB + MIB / 2, 4096, 77}};

static void any_header_byte_of_an_elf_may_be_wrong(void **state)
{
	struct blob elf = fake_elf(MIB, small, ARRAY_LEN(small));

	(void)state;
	save_seed("elf-small", &elf);
	damage_each_byte(&elf, 0, 64 + 2 * 56);
	free(elf.data);
}

static void any_byte_of_a_bzimage_may_be_wrong(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ,   UNPACK_LZMA,
						     UNPACK_LZ4,  UNPACK_ZSTD, UNPACK_NONE};
	struct blob elf = fake_elf(MIB, small, ARRAY_LEN(small));

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		struct blob b = fake_packed(&elf, formats[i], MIB, 1 << 20);
		char name[32];

		snprintf(name, sizeof(name), "small-%s", unpack_name(formats[i]));
		save_seed(name, &b);
		damage_each_byte(&b, 0x1f1, 0x26c);
		damage_each_byte(&b, FAKE_BZ_CODE + FAKE_BZ_PAYLOAD,
				 MIN(FAKE_BZ_CODE + FAKE_BZ_PAYLOAD + 400, b.len));
		free(b.data);
	}
	free(elf.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_no_file_is_named),
	    cmocka_unit_test(unreadable_file_is_named),
	    cmocka_unit_test(elf_of_other_machines_is_named),
	    cmocka_unit_test(other_files_are_named),
	    cmocka_unit_test(old_and_32_bit_bzimages_are_named),
	    cmocka_unit_test(truncated_files_say_so),
	    cmocka_unit_test(too_little_memory_says_how_much),
	    cmocka_unit_test(segments_below_1_mib_or_overlapping_are_refused),
	    cmocka_unit_test(damaged_payload_says_so),
	    cmocka_unit_test(payload_of_another_size_than_said_is_refused),
	    cmocka_unit_test(any_header_byte_of_an_elf_may_be_wrong),
	    cmocka_unit_test(any_byte_of_a_bzimage_may_be_wrong),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
