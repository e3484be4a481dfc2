/* Boot data: the device tree, and the place of the initrd (Linux Documentation/arm64/booting.rst).
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/arch.h"
#include "vmm/arm64/fdt.h"
#include "vmm/arm64/layout.h"
#include "vmm/arm64/vm.h"
#include "vmm/fdt/nodes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE UINT64_C(4096)

/* booting.rst: kernel and initrd lie within 32 GiB; nobody minds half of that. */
#define INITRD_WINDOW (16 * GIB)

/*
 * Behind the kernel, mostly in a block of memory that it has begun. Not across a boundary of 2 MiB:
 * kernels before 4.2 map it as one block.
 */
static gpa_t dtb_place(const struct kernel_loaded *kernel)
{
	const gpa_t at = align_up(kernel->end, PAGE);
	const gpa_t next = align_up(at + 1, ARM64_DTB_BLOCK);

	return next - at >= FDT_BYTES_MAX ? at : next;
}

int arch_initrd_place(const struct gmem *mem, const struct kernel_loaded *kernel, uint64_t bytes,
		      gpa_t *ret_gpa, struct err *err)
{
	const struct gmem_region *ram = gmem_region_at(mem, 0);
	gpa_t end = align_down(ram->gpa + MIN(ram->len_bytes, INITRD_WINDOW), PAGE);
	uint64_t kib = bytes / KIB + 1;
	gpa_t lowest = dtb_place(kernel) + FDT_BYTES_MAX;

	if (lowest > end || bytes > end - lowest)
		return err_set(
		    err, ENOMEM,
		    "the initramfs of %llu KiB does not fit above the kernel, which takes %llu KiB "
		    "of %llu: give the machine more memory",
		    (unsigned long long)kib, (unsigned long long)((lowest - ram->gpa) / KIB),
		    (unsigned long long)(ram->len_bytes / KIB));
	*ret_gpa = align_down(end - bytes, PAGE);
	return 0;
}

static int write_fdt(const struct gmem *mem, const struct arch_boot *boot, struct arch_dtb *dtb)
{
	autofree uint8_t *buf = malloc(FDT_BYTES_MAX);
	size_t len = 0;
	int res;

	if (!buf)
		return -ENOMEM;
	res = arm64_fdt_build(boot, gmem_total_bytes(mem), buf, FDT_BYTES_MAX, &len);
	dtb->gpa = dtb_place(boot->kernel);
	dtb->len_bytes = len;
	return res ? res : gmem_write(mem, dtb->gpa, buf, len);
}

int arch_boot_write(const struct gmem *mem, const struct arch_boot *boot, struct arch_dtb *ret_dtb,
		    struct err *err)
{
	struct arch_dtb dtb;
	int res = write_fdt(mem, boot, &dtb);

	if (res == -EFAULT)
		return err_set(err, ENOMEM,
			       "there is no room for the device tree above the kernel: give the "
			       "machine more memory");
	if (res)
		return err_sys(err, -res, "cannot write the device tree");
	boot->vm->dtb = dtb.gpa;
	*ret_dtb = dtb;
	return 0;
}
