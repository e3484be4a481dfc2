/*
 * Kernel images in memory and in files made here; and, where LODGE_GUEST_KERNEL names a
 * distribution's bzImage, that one against what the tools of its format make of it.
 *
 * LODGE_KERNEL_SEEDS=DIR writes the kernels made here into DIR: a corpus for fuzz_kernel.
 */
#include "tests/unit/fake_kernel.h"
#include "vmm/boot/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- guest memory: [0, 640 KiB) and [1 MiB, size), as a file or anonymous ------------------- */

struct guest {
	struct gmem *mem;
	uint8_t *host;
	uint64_t size;
	int fd;
};

#define LOW_END (640 * KIB)

/* A file that refuses to be written is what hugetlbfs is like. */
enum { ANONYMOUS, MEMFD, MEMFD_UNWRITABLE, MEMORY_KINDS };

static struct guest guest_new(uint64_t size, int memfd)
{
	struct guest g = {.size = size, .fd = -1};

	if (memfd) {
		g.fd = memfd_create("guest", MFD_CLOEXEC);
		assert_int_equal(ftruncate(g.fd, (off_t)size), 0);
	}
	g.host = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, g.fd, 0);
	assert_ptr_not_equal(g.host, MAP_FAILED);
	if (memfd == MEMFD_UNWRITABLE) {
		char name[32];

		int writable = g.fd;

		snprintf(name, sizeof(name), "/proc/self/fd/%d", writable);
		g.fd = open(name, O_RDONLY | O_CLOEXEC);
		assert_true(g.fd >= 0);
		close(writable);
	}
	assert_int_equal(gmem_new(&g.mem), 0);

	struct gmem_region low = {0, LOW_END, g.host, g.fd, 0};
	struct gmem_region high = {MIB, size - MIB, g.host + MIB, g.fd, MIB};

	assert_int_equal(gmem_add(g.mem, &low, NULL), 0);
	assert_int_equal(gmem_add(g.mem, &high, NULL), 0);
	return g;
}

static void guest_free(struct guest *g)
{
	gmem_free(g->mem);
	munmap(g->host, g->size);
	if (g->fd >= 0)
		close(g->fd);
}

static bool zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* ---- files -------------------------------------------------------------------------------- */

static char dir[] = "/tmp/test_kernel.XXXXXX";
static char path[64];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/kernel", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void write_file(const uint8_t *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	while (len) {
		ssize_t n = write(fd, data, len);

		assert_true(n > 0);
		data += n;
		len -= (size_t)n;
	}
	close(fd);
}

static void write_byte(size_t at, uint8_t byte)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	close(fd);
}

static void save_seed(const char *name, const struct blob *b)
{
	const char *to = getenv("LODGE_KERNEL_SEEDS");
	char file[512];
	FILE *f;

	if (!to)
		return;
	snprintf(file, sizeof(file), "%s/%s", to, name);
	f = fopen(file, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(b->data, 1, b->len, f), b->len);
	fclose(f);
}

/* ---- what is said ------------------------------------------------------------------------- */

/* One line that names the file, and each of the words. */
static void assert_says(const struct err *err, const char *const *words)
{
	assert_non_null(strstr(err->msg, path));
	assert_null(strchr(err->msg, '\n'));
	for (; *words; words++)
		if (!strstr(err->msg, *words))
			fail_msg("\"%s\" does not say \"%s\"", err->msg, *words);
}

#define SAYS(err, ...) assert_says(err, (const char *const[]){__VA_ARGS__, NULL})

static struct err open_fails(int want)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;

	assert_int_equal(kernel_open(path, &k, &err), -want);
	assert_null(k);
	assert_int_equal(err.code, want);
	return err;
}

static struct err load_fails(struct guest *g, int want)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;
	struct kernel_loaded loaded;

	if (kernel_open(path, &k, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(kernel_load(k, g->mem, &loaded, &err), -want);
	assert_int_equal(err.code, want);
	kernel_close(k);
	return err;
}

static struct kernel_loaded loads(struct guest *g)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;
	struct kernel_loaded loaded;

	if (kernel_open(path, &k, &err) < 0 || kernel_load(k, g->mem, &loaded, &err) < 0)
		fail_msg("%s", err.msg);
	kernel_close(k);
	return loaded;
}

/* ---- a kernel of four segments, the last two moved against their place in the file ---------- */

#define ENTRY (2 * MIB + 0x123)

static const struct fake_segment segments[] = {
    {2 * MIB, 0x180634, 0x180634},
    {4 * MIB, 0x61000, 0x50001},
    {4 * MIB + 0x61000, 0x4000, 0x4000},
    {5 * MIB + 0x123, 0x200000, 0x300},
};
#define NSEGMENTS  ARRAY_LEN(segments)
#define KERNEL_END (align_up(5 * MIB + 0x123 + 0x200000, 4096))

static struct blob fake_vmlinux(void)
{
	return fake_elf(ENTRY, segments, NSEGMENTS);
}

static void assert_segments(const struct guest *g, const struct blob *elf)
{
	uint64_t at = 4096, end = 0;

	for (size_t i = 0; i < NSEGMENTS; i++) {
		const struct fake_segment *s = &segments[i];

		assert_memory_equal(g->host + s->gpa, elf->data + at, s->file);
		assert_true(zero(g->host + end, s->gpa - end));
		assert_true(zero(g->host + s->gpa + s->file, s->mem - s->file));
		at = align_up(at + s->file, 4096);
		end = s->gpa + s->mem;
	}
	assert_true(zero(g->host + end, g->size - end));
}

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
	assert_int_equal(kernel_open(path, &k, NULL), 0);
	assert_int_equal(kernel_format(k), KERNEL_BZIMAGE);
	assert_string_equal(kernel_release(k), FAKE_BZ_RELEASE);
	kernel_close(k);

	/* a pointer past the real-mode part */
	le16_store(b.data + 0x20e, 0xfff0);
	write_file(b.data, b.len);
	assert_int_equal(kernel_open(path, &k, NULL), 0);
	assert_null(kernel_release(k));
	kernel_close(k);

	write_file(elf.data, elf.len);
	assert_int_equal(kernel_open(path, &k, NULL), 0);
	assert_int_equal(kernel_format(k), KERNEL_ELF);
	assert_null(kernel_release(k));
	kernel_close(k);

	strcpy((char *)elf.data + 5000, "Linux version %s");
	strcpy((char *)elf.data + 6000, "Linux version 6.9.1-tiny (a@b)");
	write_file(elf.data, elf.len);
	assert_int_equal(kernel_open(path, &k, NULL), 0);
	assert_string_equal(kernel_release(k), "6.9.1-tiny");
	assert_string_equal(kernel_release(k), "6.9.1-tiny");
	kernel_close(k);
	free(b.data);
	free(elf.data);
}

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

	if (kernel_open(path, &k, &err) < 0) {
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

/* ---- a real one --------------------------------------------------------------------------- */

static double cpu_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
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

	struct blob vmlinux = tool_unpacks(file);
	struct guest g = guest_new(512 * MIB, MEMFD);
	double t0 = cpu_ms(), t1, t2;

	if (kernel_open(file, &k, &err) < 0)
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
	    cmocka_unit_test(distribution_kernel_is_unpacked_right),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
