/*
 * Kernel images of any bytes: opening, the release, and loading into a small guest. What is loaded
 * must lie where the loader says.
 *
 * A corpus to start from: LODGE_KERNEL_SEEDS=DIR build/tests/unit/test_kernel (and test_kernel_bad)
 */
#include "base/checked.h"
#include "base/gmem.h"
#include "vmm/boot/kernel.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_BYTES (4 * MIB)
#define FILE_BYTES  MIB

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct gmem *mem;
static uint8_t *host;
static int fd = -1;
static char path[64];

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void set_up(void)
{
	host = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(host != MAP_FAILED && gmem_new(&mem) == 0);

	struct gmem_region region = {MIB, GUEST_BYTES - MIB, host + MIB, -1, 0};

	check(gmem_add(mem, &region, NULL) == 0);
	fd = memfd_create("kernel", MFD_CLOEXEC);
	check(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
}

static void check_loaded(const struct kernel_loaded *l)
{
	check(l->start >= MIB && l->start < l->end && l->end <= GUEST_BYTES);
	check(l->entry >= l->start && l->entry < l->end);
	check(l->setup_header_len <= KERNEL_SETUP_HEADER_MAX);
}

static void try(enum kernel_machine machine)
{
	struct err err = ERR_INIT;
	struct kernel *k;
	struct kernel_loaded loaded;

	if (kernel_open(path, machine, &k, &err) < 0) {
		check(err.code && err.msg[0]);
		return;
	}

	const char *release = kernel_release(k);

	check(!release || strlen(release) < 128);
	if (kernel_load(k, mem, &loaded, &err) == 0)
		check_loaded(&loaded);
	else
		check(err.code && err.msg[0]);
	kernel_close(k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (fd < 0)
		set_up();
	if (size > FILE_BYTES)
		return -1;
	check(ftruncate(fd, (off_t)size) == 0);
	check(pwrite(fd, data, size, 0) == (ssize_t)size);
	try(KERNEL_FOR_X86_64);
	try(KERNEL_FOR_ARM64);
	return 0;
}
