/* Kernel images: opening, telling what a file is, and dispatch to bzimage.c and elf.c. */
#include "vmm/boot/kernel.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/boot/kernel_priv.h"
#include "vmm/boot/place.h"
#include "vmm/boot/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Where a vmlinux keeps its version: in .rodata, which follows the text. */
#define BANNER	      "Linux version "
#define BANNER_WITHIN (256 * MIB)
#define RELEASE_MAX   128

/* A file that is shorter cannot show what it is: the signature of a bzImage ends here. */
#define HEADER_SEEN_BYTES 0x206

/* What every x86-64 kernel's own header says (INITRD_ADDR_MAX); a vmlinux has lost it. */
#define ELF_INITRD_MAX 0x7fffffff

/* Found when it is first asked for: the search costs more than all the rest of opening. */
struct release {
	bool searched;
	char text[RELEASE_MAX];
};

/*
 * Threads: one at a time. The file is mapped, not read: of a kernel that is packed only the packed
 * bytes are ever touched, and nothing is copied. Who shortens the file meanwhile ends this process
 * (SIGBUS), as with any program whose file is shortened while it runs.
 */
struct kernel {
	char *path;
	void *map;
	const uint8_t *file; /* the same */
	uint64_t file_bytes;
	enum kernel_format format;
	struct elf_image elf;
	struct bzimage bzimage;
	struct release *release;
};

static int open_file(struct kernel *k, struct err *err)
{
	/* without O_NONBLOCK a FIFO would hold us up */
	autofd int fd = open(k->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	void *map;

	if (fd < 0 && errno == ENOENT)
		return err_set(err, ENOENT, "no such file; give a bzImage or an ELF vmlinux");
	if (fd < 0 && errno == EACCES)
		return err_set(err, EACCES, "no permission to read it; see its mode and its owner");
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot be opened");
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "is a directory; give a bzImage or an ELF vmlinux");
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "is not a regular file; copy it into one");
	if (!st.st_size)
		return err_set(err, ENOEXEC, "is empty; copy or build it again");
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "cannot be mapped");
	k->map = map;
	k->file = map;
	k->file_bytes = (uint64_t)st.st_size;
	return 0;
}

/* What people give instead of a kernel, by its first bytes. */
static int not_a_kernel(const struct kernel *k, struct err *err)
{
	const uint8_t *f = k->file;
	uint64_t len = k->file_bytes;
	enum unpack_format format = unpack_detect(f, len);

	if (len >= 64 && !memcmp(f + 56, "ARM\x64", 4))
		return err_set(err, ENOEXEC,
			       "is for 64-bit ARM (aarch64); this machine runs x86-64 kernels");
	if (len >= 64 && (!memcmp(f + 56, "RSC\x05", 4) || !memcmp(f + 48, "RISCV", 5)))
		return err_set(err, ENOEXEC, "is for RISC-V; this machine runs x86-64 kernels");
	if (len >= 8 && !memcmp(f, "MZ", 2) && !memcmp(f + 4, "zimg", 4))
		return err_set(
		    err, ENOEXEC,
		    "is an EFI zboot image, which no x86-64 kernel is; give a bzImage or an "
		    "ELF vmlinux for x86-64");
	if (format != UNPACK_UNKNOWN)
		return err_set(
		    err, ENOEXEC,
		    "is a file packed with %s, not a kernel; unpack it, or give the bzImage",
		    unpack_name(format));
	if (len >= 6 && (!memcmp(f, "070701", 6) || !memcmp(f, "070702", 6)))
		return err_set(err, ENOEXEC,
			       "is a cpio archive, not a kernel; give it as --initrd");
	if (len < HEADER_SEEN_BYTES)
		return err_set(err, ENOEXEC,
			       "is not a kernel, or truncated: it has %llu bytes and nothing that "
			       "looks like a bzImage or ELF",
			       (unsigned long long)len);
	return err_set(err, ENOEXEC, "is not a kernel: neither bzImage nor ELF");
}

static int identify(struct kernel *k, struct err *err)
{
	if (elf_is(k->file, k->file_bytes)) {
		k->format = KERNEL_ELF;
		return elf_parse(k->file, k->file_bytes, k->file_bytes, &k->elf, err);
	}
	if (bzimage_is(k->file, k->file_bytes)) {
		k->format = KERNEL_BZIMAGE;
		return bzimage_parse(k->file, k->file_bytes, &k->bzimage, err);
	}
	return not_a_kernel(k, err);
}

int kernel_open(const char *path, struct kernel **ret_kernel, struct err *err)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return err_set(err, ENOMEM, "no memory for a kernel");
	k->path = strdup(path);
	k->release = calloc(1, sizeof(*k->release));
	if (!k->path || !k->release)
		r = err_set(err, ENOMEM, "no memory");
	else
		r = open_file(k, err);
	if (r == 0)
		r = identify(k, err);
	if (r < 0) {
		err_prefix(err, "kernel %s", path);
		kernel_close(k);
		return r;
	}
	*ret_kernel = k;
	return 0;
}

void kernel_close(struct kernel *k)
{
	if (!k)
		return;
	if (k->map)
		munmap(k->map, k->file_bytes);
	free(k->release);
	free(k->path);
	free(k);
}

enum kernel_format kernel_format(const struct kernel *k)
{
	return k->format;
}

static void search_banner(const struct kernel *k)
{
	const uint8_t *p = k->file;
	const uint8_t *end = p + MIN(k->file_bytes, BANNER_WITHIN);
	const size_t len = strlen(BANNER);

	while ((p = memmem(p, (size_t)(end - p), BANNER, len))) {
		size_t n = 0;

		p += len;
		if (p == end || *p < '0' || *p > '9')
			continue; /* a format string that only mentions it */
		while (p + n < end && n < RELEASE_MAX - 1 && p[n] > ' ' && p[n] < 0x7f)
			n++;
		memcpy(k->release->text, p, n);
		return;
	}
}

const char *kernel_release(const struct kernel *k)
{
	if (!k->release->searched) {
		k->release->searched = true;
		if (k->format == KERNEL_BZIMAGE)
			memcpy(k->release->text, k->bzimage.release, sizeof(k->bzimage.release));
		else
			search_banner(k);
	}
	return k->release->text[0] ? k->release->text : NULL;
}

int kernel_fits(const struct gmem *mem, gpa_t start, gpa_t end, struct err *err)
{
	uint64_t total = gmem_total_bytes(mem);
	unsigned long long need_mib = end / MIB + (end % MIB != 0);

	if (gmem_ro(mem, start, end - start))
		return 0;
	if (end > total)
		return err_set(
		    err, ENOMEM,
		    "needs at least %llu MiB of memory and the guest has %llu MiB; give it "
		    "more (--memory)",
		    need_mib, (unsigned long long)(total / MIB));
	return err_set(err, ENOMEM,
		       "wants to be loaded at 0x%llx to 0x%llx, where the guest has no memory",
		       (unsigned long long)start, (unsigned long long)end);
}

static int elf_load(const struct kernel *k, const struct gmem *mem,
		    struct kernel_loaded *ret_loaded, struct err *err)
{
	int r = elf_fits(&k->elf, mem, err);

	if (r < 0)
		return r;
	r = elf_place(&k->elf, mem, 0, k->file, k->file_bytes);
	if (r < 0)
		return err_sys(err, -r, "cannot be copied into guest memory");
	*ret_loaded = (struct kernel_loaded){
	    .entry = k->elf.entry,
	    .start = k->elf.start,
	    .end = k->elf.end,
	    .initrd_max = ELF_INITRD_MAX,
	};
	return 0;
}

int kernel_load(struct kernel *k, const struct gmem *mem, struct kernel_loaded *ret_loaded,
		struct err *err)
{
	int r = k->format == KERNEL_ELF ? elf_load(k, mem, ret_loaded, err)
					: bzimage_load(&k->bzimage, k->file, mem, ret_loaded, err);

	if (r < 0)
		err_prefix(err, "kernel %s", k->path);
	return r;
}
