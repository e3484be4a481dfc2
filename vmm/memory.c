#include "vmm/memory.h"
#include "base/checked.h"
#include "base/log.h"
#include "vmm/arch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What transparent huge pages are aligned to. */
#define HUGE_BYTES (2 * MIB)

/* What memory of each kind of page is made of. */
static const struct page_kind {
	uint64_t bytes;
	unsigned memfd_flags;
	const char *name;
	const char *pool; /* where the host's administrator reserves them */
} page_kinds[] = {
    [MACHINE_PAGES_DEFAULT] = {4 * KIB, 0, "4 KiB", NULL},
    [MACHINE_PAGES_2M] = {2 * MIB, MFD_HUGETLB | MFD_HUGE_2MB, "2 MiB",
			  "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"},
    [MACHINE_PAGES_1G] = {1 * GIB, MFD_HUGETLB | MFD_HUGE_1GB, "1 GiB",
			  "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"},
};

static uint64_t host_memory_bytes(void)
{
	struct sysinfo info;

	if (sysinfo(&info))
		return UINT64_MAX;
	return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

int guest_memory_check(const struct machine_config *config, struct err *err)
{
	const struct page_kind *kind = &page_kinds[config->hugepages];
	uint64_t host = host_memory_bytes();

	if (config->memory_bytes < MACHINE_MEMORY_MIN)
		return err_set(err, EINVAL, "memory of %llu MiB is less than the least, %llu MiB",
			       (unsigned long long)(config->memory_bytes / MIB),
			       (unsigned long long)(MACHINE_MEMORY_MIN / MIB));
	if (!is_aligned(config->memory_bytes, kind->bytes))
		return err_set(err, EINVAL,
			       "memory of %llu KiB is not a whole number of pages of %s",
			       (unsigned long long)(config->memory_bytes / KIB), kind->name);
	if (config->memory_bytes > host)
		return err_set(err, ENOMEM,
			       "memory of %llu MiB is more than this host has with its swap "
			       "(%llu MiB)",
			       (unsigned long long)(config->memory_bytes / MIB),
			       (unsigned long long)(host / MIB));
	return 0;
}

static int memory_failed(const struct machine_config *config, int code, const char *what,
			 struct err *err)
{
	const struct page_kind *kind = &page_kinds[config->hugepages];
	unsigned long long mib = config->memory_bytes / MIB;

	if (kind->pool && (code == ENOMEM || code == ENODEV || code == ENOENT || code == EINVAL))
		return err_set(
		    err, ENOMEM,
		    "the host cannot give %llu MiB in pages of %s: reserve %llu of them in "
		    "%s",
		    mib, kind->name, (unsigned long long)(config->memory_bytes / kind->bytes),
		    kind->pool);
	return err_sys(err, code, "cannot %s %llu MiB of guest memory", what, mib);
}

/* Asks the host for every page now. Kernels before 5.14 want each written to. */
static int populate(const struct guest_memory *memory)
{
	int res;

	do
		res = madvise(memory->host, memory->len_bytes, MADV_POPULATE_WRITE) ? -errno : 0;
	while (res == -EINTR || res == -EAGAIN);
	if (res != -EINVAL)
		return res;
	for (uint64_t at = 0; at < memory->len_bytes; at += 4 * KIB)
		((volatile uint8_t *)memory->host)[at] = 0;
	return 0;
}

static int add_regions(struct guest_memory *memory, struct err *err)
{
	struct arch_ram ram[ARCH_RAM_MAX];
	unsigned n = arch_ram_layout(memory->len_bytes, ram);
	uint64_t offset = 0;
	int res;

	res = gmem_new(&memory->mem);
	if (res)
		return err_sys(err, -res, "cannot describe guest memory");
	for (unsigned i = 0; i < n; i++) {
		const struct gmem_region region = {
		    .gpa = ram[i].gpa,
		    .len_bytes = ram[i].len_bytes,
		    .host = memory->host + offset,
		    .fd = memory->fd,
		    .fd_offset_bytes = offset,
		};
		res = gmem_add(memory->mem, &region, err);
		if (res)
			return res;
		offset += ram[i].len_bytes;
	}
	return 0;
}

/* Reserved huge pages: from their pool, which may be empty; so the mapping reserves, or the guest
 * would die of SIGBUS later. */
static int map_pool(const struct machine_config *config, struct guest_memory *memory,
		    struct err *err)
{
	unsigned flags =
	    MFD_CLOEXEC | MFD_ALLOW_SEALING | page_kinds[config->hugepages].memfd_flags;
	void *host;

	memory->fd = memfd_create(GUEST_MEMORY_NAME, flags);
	if (memory->fd < 0)
		return memory_failed(config, errno, "make", err);
	if (ftruncate(memory->fd, (off_t)memory->len_bytes))
		return memory_failed(config, errno, "make", err);
	if (fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return memory_failed(config, errno, "seal", err);
	host = mmap(NULL, memory->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
	if (host == MAP_FAILED)
		return memory_failed(config, errno, "map", err);
	memory->host = host;
	return 0;
}

/* Ordinary memory, overcommitted on purpose, and aligned so that all of it can be huge pages. */
static int map_anonymous(const struct machine_config *config, struct guest_memory *memory,
			 struct err *err)
{
	size_t len = memory->len_bytes, head;
	uint8_t *at = mmap(NULL, len + HUGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return memory_failed(config, errno, "map", err);
	head = -(uintptr_t)at & (HUGE_BYTES - 1);
	if (head)
		munmap(at, head);
	munmap(at + head + len, HUGE_BYTES - head);
	memory->host = at + head;
	/* Both are advice, refused by kernels that were built without. */
	(void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory->host, len, GUEST_MEMORY_NAME);
	(void)madvise(memory->host, len, MADV_HUGEPAGE);
	return 0;
}

int guest_memory_new(const struct machine_config *config, struct guest_memory *memory,
		     struct err *err)
{
	int res = guest_memory_check(config, err);

	if (res)
		return res;
	memory->len_bytes = config->memory_bytes;
	if (page_kinds[config->hugepages].pool)
		res = map_pool(config, memory, err);
	else
		res = map_anonymous(config, memory, err);
	if (res)
		return res;
	/* A core dump of ours is no place for the guest's secrets, nor a child for its memory. */
	(void)madvise(memory->host, memory->len_bytes, MADV_DONTDUMP);
	(void)madvise(memory->host, memory->len_bytes, MADV_DONTFORK);
	if (config->prealloc) {
		res = populate(memory);
		if (res)
			return memory_failed(config, -res, "populate", err);
	}
	return add_regions(memory, err);
}

int guest_memory_give(const struct guest_memory *memory, const struct kvm *kvm, struct err *err)
{
	const struct gmem_region *region;

	for (unsigned i = 0; (region = gmem_region_at(memory->mem, i)); i++) {
		struct kvm_userspace_memory_region slot = {
		    .slot = i,
		    .guest_phys_addr = region->gpa,
		    .memory_size = region->len_bytes,
		    .userspace_addr = (uintptr_t)region->host,
		};
		if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot))
			return err_sys(err, errno, "KVM refuses %llu MiB of memory at 0x%llx",
				       (unsigned long long)(region->len_bytes / MIB),
				       (unsigned long long)region->gpa);
	}
	return 0;
}

void guest_memory_free(struct guest_memory *memory)
{
	gmem_free(memory->mem);
	if (memory->host)
		munmap(memory->host, memory->len_bytes);
	if (memory->fd >= 0)
		close(memory->fd);
	memory->mem = NULL;
	memory->host = NULL;
	memory->fd = -1;
}
