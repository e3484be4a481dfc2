/*
 * What the tests of the kernel loader stand on: guest memory of each kind, a kernel's file, what
 * errors say, and a kernel of four segments. One test program includes it.
 *
 * LODGE_KERNEL_SEEDS=DIR writes the kernels made here into DIR: a corpus for fuzz_kernel.
 */
#ifndef TESTS_UNIT_KERNEL_FIXTURE_H
#define TESTS_UNIT_KERNEL_FIXTURE_H

#include "tests/unit/fake_kernel.h"
#include "vmm/boot/kernel.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
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

static inline struct guest guest_new(uint64_t size, int memfd)
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

static inline void guest_free(struct guest *g)
{
	gmem_free(g->mem);
	munmap(g->host, g->size);
	if (g->fd >= 0)
		close(g->fd);
}

static inline bool zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* ---- files -------------------------------------------------------------------------------- */

static char dir[] = "/tmp/test_kernel.XXXXXX";
static char path[64];

static inline int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/kernel", dir);
	return 0;
}

static inline int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static inline void write_file(const uint8_t *data, size_t len)
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

static inline void write_byte(size_t at, uint8_t byte)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	close(fd);
}

static inline void save_seed(const char *name, const struct blob *b)
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

/* What the kernels are opened for. */
static enum kernel_machine machine = KERNEL_FOR_X86_64;

/* ---- what is said ------------------------------------------------------------------------- */

/* One line that names the file, and each of the words. */
static inline void assert_says(const struct err *err, const char *const *words)
{
	assert_non_null(strstr(err->msg, path));
	assert_null(strchr(err->msg, '\n'));
	for (; *words; words++)
		if (!strstr(err->msg, *words))
			fail_msg("\"%s\" does not say \"%s\"", err->msg, *words);
}

#define SAYS(err, ...) assert_says(err, (const char *const[]){__VA_ARGS__, NULL})

static inline struct err open_fails(int want)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;

	assert_int_equal(kernel_open(path, machine, &k, &err), -want);
	assert_null(k);
	assert_int_equal(err.code, want);
	return err;
}

static inline struct err load_fails(struct guest *g, int want)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;
	struct kernel_loaded loaded;

	if (kernel_open(path, machine, &k, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(kernel_load(k, g->mem, &loaded, &err), -want);
	assert_int_equal(err.code, want);
	kernel_close(k);
	return err;
}

static inline struct kernel_loaded loads(struct guest *g)
{
	struct err err = ERR_INIT;
	struct kernel *k = NULL;
	struct kernel_loaded loaded;

	if (kernel_open(path, machine, &k, &err) < 0 || kernel_load(k, g->mem, &loaded, &err) < 0)
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

static inline struct blob fake_vmlinux(void)
{
	return fake_elf(ENTRY, segments, NSEGMENTS);
}

static inline void assert_segments(const struct guest *g, const struct blob *elf)
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

#endif
