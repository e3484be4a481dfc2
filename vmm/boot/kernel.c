/* Kernel images: opening, telling what a file is, and dispatch to bzimage.c, elf.c and image.c. */
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
#define BANNER_BYTES  (16 + RELEASE_MAX)

/* A file that is shorter cannot show what it is: the signature of a bzImage ends here. */
#define HEADER_SEEN_BYTES 0x206

/* What every x86-64 kernel's own header says (INITRD_ADDR_MAX); a vmlinux has lost it. */
#define ELF_INITRD_MAX 0x7fffffff

/* Messages for each machine. */
static const struct kernel_kind {
	const char *name;   /* of the machine */
	const char *wanted; /* what to give */
	const char *format, *looks, *not ;
} kinds[] = {
    [KERNEL_FOR_X86_64] = {"x86-64", "a bzImage or an ELF vmlinux", "bzImage", "a bzImage or ELF",
			   "neither bzImage nor ELF"},
    [KERNEL_FOR_ARM64] = {"64-bit ARM (aarch64)", "an Image or an Image.gz", "Image", "an Image",
			  "neither an Image nor a packed one"},
};

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
	const struct kernel_kind *kind;
	char *path;
	int fd;
	void *map;
	const uint8_t *file; /* the same */
	uint64_t file_bytes;
	enum kernel_machine machine;
	enum kernel_format format;
	struct elf_image elf;
	struct bzimage bzimage;
	struct arm64_image image;
	struct release *release;
};

static int open_file(struct kernel *k, struct err *err)
{
	/* without O_NONBLOCK a FIFO would hold us up */
	int fd = open(k->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	void *map;

	k->fd = fd;
	if (fd < 0 && errno == ENOENT)
		return err_set(err, ENOENT, "no such file; give %s", k->kind->wanted);
	if (fd < 0 && errno == EACCES)
		return err_set(err, EACCES, "no permission to read it; see its mode and its owner");
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot be opened");
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "is a directory; give %s", k->kind->wanted);
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

/* A kernel of another machine, by what its header says. NULL: none that is known. */
static const char *other_machine(const struct kernel *k)
{
	const uint8_t *f = k->file;
	uint64_t len = k->file_bytes;

	if (k->machine != KERNEL_FOR_ARM64 && len >= 64 && !memcmp(f + 56, "ARM\x64", 4))
		return "64-bit ARM (aarch64)";
	if (k->machine != KERNEL_FOR_X86_64 && bzimage_is(f, len))
		return "x86 (it is a bzImage)";
	if (len >= 64 && (!memcmp(f + 56, "RSC\x05", 4) || !memcmp(f + 48, "RISCV", 5)))
		return "RISC-V";
	return NULL;
}

/* What people give instead of a kernel, by its first bytes. */
static int not_a_kernel(const struct kernel *k, struct err *err)
{
	const uint8_t *f = k->file;
	uint64_t len = k->file_bytes;
	enum unpack_format format = unpack_detect(f, len);
	const char *other = other_machine(k);

	if (other)
		return err_set(err, ENOEXEC, "is for %s; this machine runs %s kernels", other,
			       k->kind->name);
	if (len >= 8 && !memcmp(f, "MZ", 2) && !memcmp(f + 4, "zimg", 4))
		return err_set(
		    err, ENOEXEC,
		    "is an EFI zboot image, which no x86-64 kernel is; give a bzImage or an "
		    "ELF vmlinux for x86-64");
	if (format != UNPACK_UNKNOWN)
		return err_set(err, ENOEXEC,
			       "is a file packed with %s, not a kernel; unpack it, or give the %s",
			       unpack_name(format), k->kind->format);
	if (len >= 6 && (!memcmp(f, "070701", 6) || !memcmp(f, "070702", 6)))
		return err_set(err, ENOEXEC,
			       "is a cpio archive, not a kernel; give it as --initrd");
	if (len < HEADER_SEEN_BYTES)
		return err_set(err, ENOEXEC,
			       "is not a kernel, or truncated: it has %llu bytes and nothing that "
			       "looks like %s",
			       (unsigned long long)len, k->kind->looks);
	return err_set(err, ENOEXEC, "is not a kernel: %s", k->kind->not );
}

static int identify_x86(struct kernel *k, struct err *err)
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

static int identify_arm64(struct kernel *k, struct err *err)
{
	const char *other;

	if (image_is(k->file, k->file_bytes)) {
		k->format = KERNEL_IMAGE;
		return image_parse(k->file, k->file_bytes, &k->image, err);
	}
	if (!elf_is(k->file, k->file_bytes))
		return not_a_kernel(k, err);
	other = elf_machine(k->file, k->file_bytes);
	if (other && strcmp(other, k->kind->name) != 0)
		return err_set(err, ENOEXEC, "is for %s; this machine runs %s kernels", other,
			       k->kind->name);
	return err_set(
	    err, ENOEXEC,
	    "is an ELF file, which says nothing of how it is booted; give the Image that "
	    "is built with it (arch/arm64/boot/Image)");
}

int kernel_open(const char *path, enum kernel_machine machine, struct kernel **ret_kernel,
		struct err *err)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return err_set(err, ENOMEM, "no memory for a kernel");
	k->fd = -1;
	k->machine = machine;
	k->kind = &kinds[machine];
	k->path = strdup(path);
	k->release = calloc(1, sizeof(*k->release));
	if (!k->path || !k->release)
		r = err_set(err, ENOMEM, "no memory");
	else
		r = open_file(k, err);
	if (r == 0)
		r = machine == KERNEL_FOR_ARM64 ? identify_arm64(k, err) : identify_x86(k, err);
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
	cleanup_fd(&k->fd);
	free(k->release);
	free(k->path);
	free(k);
}

enum kernel_format kernel_format(const struct kernel *k)
{
	return k->format;
}

/* The word after BANNER in [from, from + len_bytes). With `more` behind that, only one that ends
 * before. */
static bool search_banner(const struct kernel *k, const uint8_t *from, uint64_t len_bytes,
			  bool more)
{
	const uint8_t *p = from, *end = from + len_bytes;
	const size_t len = strlen(BANNER);

	while ((p = memmem(p, (size_t)(end - p), BANNER, len))) {
		size_t n = 0;

		p += len;
		if (p == end || *p < '0' || *p > '9')
			continue; /* a format string that only mentions it */
		while (p + n < end && n < RELEASE_MAX - 1 && p[n] > ' ' && p[n] < 0x7f)
			n++;
		if (more && p + n == end)
			return false;
		memcpy(k->release->text, p, n);
		return true;
	}
	return false;
}

/* Of a packed Image: piece by piece, with the end of the last one before each. */
struct banner_sink {
	struct unpack_sink sink;
	const struct kernel *kernel;
	uint64_t left;
	size_t kept;
	uint8_t joint[2 * BANNER_BYTES];
};

static int banner_write(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes)
{
	struct banner_sink *b = (struct banner_sink *)sink;
	size_t head = MIN(len_bytes, BANNER_BYTES);

	memcpy(b->joint + b->kept, data, head);
	if (b->kept && search_banner(b->kernel, b->joint, b->kept + head, true))
		return -ECANCELED;
	/* what begins in the last bytes comes again with the next piece */
	if (search_banner(b->kernel, data, len_bytes, true))
		return -ECANCELED;
	b->kept = head;
	memcpy(b->joint, data + len_bytes - head, head);
	b->left -= MIN(b->left, len_bytes);
	return b->left ? 0 : -ECANCELED;
}

static void search_release(const struct kernel *k)
{
	struct banner_sink b = {.sink.write = banner_write, .kernel = k, .left = BANNER_WITHIN};

	if (k->format == KERNEL_BZIMAGE)
		memcpy(k->release->text, k->bzimage.release, sizeof(k->bzimage.release));
	else if (k->format == KERNEL_IMAGE && k->image.format != UNPACK_NONE)
		image_show(&k->image, k->file, &b.sink);
	else
		search_banner(k, k->file, MIN(k->file_bytes, BANNER_WITHIN), false);
}

const char *kernel_release(const struct kernel *k)
{
	if (!k->release->searched) {
		k->release->searched = true;
		search_release(k);
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
	int r;

	switch (k->format) {
	case KERNEL_ELF:
		r = elf_load(k, mem, ret_loaded, err);
		break;
	case KERNEL_IMAGE:
		r = image_load(&k->image, k->file, k->fd, mem, ret_loaded, err);
		break;
	default:
		r = bzimage_load(&k->bzimage, k->file, mem, ret_loaded, err);
		break;
	}
	if (r < 0)
		err_prefix(err, "kernel %s", k->path);
	return r;
}
