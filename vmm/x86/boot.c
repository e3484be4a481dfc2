/*
 * Boot data: zero page, command line, GDT, page tables and the place of the initrd.
 *
 * Linux Documentation/x86/boot.rst (64-bit boot protocol, setup header 2.15) and zero-page.rst.
 */
#include "vmm/x86/boot.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/legacy/legacy.h"
#include "vmm/arch.h"
#include "vmm/fdt/nodes.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/e820.h"
#include "vmm/x86/fdt.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PAGE	   UINT64_C(4096)
#define TABLE_ENTS 512

#define PTE_PRESENT  (1u << 0)
#define PTE_WRITE    (1u << 1)
#define PTE_ACCESSED (1u << 5)
#define PTE_DIRTY    (1u << 6)
#define PTE_LARGE    (1u << 7)

/* setup_data, zero-page.rst: read by Linux 6.1 and later, passed over by older ones */
#define SETUP_DATA_RNG_SEED 9
#define SETUP_DATA_DTB	    2
#define RNG_SEED_BYTES	    32

#define LOADER_UNDEFINED 0xff /* type_of_loader: no id assigned */
#define INITRD_MAX_OLD	 UINT64_C(0x37ffffff)

static int write_gdt(const struct gmem *mem)
{
	struct le64 gdt[X86_GDT_BYTES / 8] = {
	    [X86_BOOT_CS / 8] = le64_put(UINT64_C(0x00af9b000000ffff)),
	    [X86_BOOT_DS / 8] = le64_put(UINT64_C(0x00cf93000000ffff)),
	};

	return gmem_write(mem, X86_GDT, gdt, sizeof(gdt));
}

/* Maps the low 4 GiB to themselves with pages of 2 MiB. */
static int write_page_tables(const struct gmem *mem)
{
	const uint64_t link = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED;
	const uint64_t leaf = link | PTE_DIRTY | PTE_LARGE;
	struct le64 *tables = gmem_rw(mem, X86_PAGE_TABLES, 6 * PAGE);
	gpa_t pdpt = X86_PAGE_TABLES + PAGE, pd = pdpt + PAGE;

	if (!tables)
		return -EFAULT;
	tables[0] = le64_put(pdpt | link);
	for (unsigned i = 0; i < 4; i++)
		tables[TABLE_ENTS + i] = le64_put((pd + i * PAGE) | link);
	for (unsigned i = 0; i < 4 * TABLE_ENTS; i++)
		tables[2 * TABLE_ENTS + i] = le64_put((uint64_t)i * 2 * MIB | leaf);
	return 0;
}

/* A kernel whose other ways to reset have failed goes back to real mode and jumps to the firmware:
 * there it finds an instruction that resets. */
static int write_reset_vector(const struct gmem *mem)
{
	static const uint8_t code[] = {
	    0xba,
	    ACPI_PM_RESET & 0xff,
	    ACPI_PM_RESET >> 8, /* mov $port, %dx */
	    0xb0,
	    ACPI_PM_RESET_VALUE, /* mov $value, %al */
	    0xee,		 /* out %al, %dx */
	    0xf4,
	    0xeb,
	    0xfd, /* hlt, and again */
	};

	return gmem_write(mem, X86_RESET_VECTOR, code, sizeof(code));
}

struct setup_data_head {
	struct le64 next; /* 0: none */
	struct le32 type, len;
};

static int write_seed(const struct gmem *mem, gpa_t next)
{
	struct {
		struct setup_data_head head;
		uint8_t seed[RNG_SEED_BYTES];
	} data = {.head = {.next = le64_put(next),
			   .type = le32_put(SETUP_DATA_RNG_SEED),
			   .len = le32_put(RNG_SEED_BYTES)}};

	if (getrandom(data.seed, sizeof(data.seed), 0) != sizeof(data.seed))
		return -EIO;
	return gmem_write(mem, X86_SETUP_DATA, &data, sizeof(data));
}

/* The kernel knows a device tree as setup data; the seed comes first. */
static int write_fdt(const struct gmem *mem, const struct arch_boot *boot, struct arch_dtb *dtb)
{
	struct setup_data_head head = {.type = le32_put(SETUP_DATA_DTB)};
	autofree uint8_t *buf = malloc(FDT_BYTES_MAX);
	size_t len;
	int res;

	_Static_assert(sizeof(head) + FDT_BYTES_MAX <= X86_ACPI_END - X86_ACPI, "the map");
	if (!buf)
		return -ENOMEM;
	res = x86_fdt_build(boot, gmem_total_bytes(mem), buf, FDT_BYTES_MAX, &len);
	if (res)
		return res;
	head.len = le32_put((uint32_t)len);
	dtb->gpa = X86_FDT + sizeof(head);
	dtb->len_bytes = len;
	res = gmem_write(mem, X86_FDT, &head, sizeof(head));
	return res ? res : gmem_write(mem, dtb->gpa, buf, len);
}

static void fill_header(struct boot_params *zero, const struct arch_boot *boot)
{
	const struct kernel_loaded *kernel = boot->kernel;
	struct setup_header *hdr = &zero->hdr;

	_Static_assert(offsetof(struct boot_params, hdr) == 0x1f1, "zero-page.rst");
	_Static_assert(offsetof(struct boot_params, e820_table) == 0x2d0, "zero-page.rst");
	if (kernel->setup_header_len) {
		memcpy((uint8_t *)zero + offsetof(struct boot_params, hdr), kernel->setup_header,
		       MIN(kernel->setup_header_len, KERNEL_SETUP_HEADER_MAX));
	} else {
		/* What a kernel that is entered behind its own boot code reads of it. */
		hdr->boot_flag = 0xaa55;
		hdr->header = 0x53726448; /* "HdrS" */
		hdr->version = 0x20f;
		hdr->loadflags = 1; /* loaded high */
		hdr->kernel_alignment = 0x1000000;
	}
	hdr->type_of_loader = LOADER_UNDEFINED;
	hdr->cmd_line_ptr = X86_CMDLINE;
	hdr->setup_data = X86_SETUP_DATA;
	hdr->ramdisk_image = (uint32_t)boot->initrd;
	zero->ext_ramdisk_image = (uint32_t)(boot->initrd >> 32);
	hdr->ramdisk_size = (uint32_t)boot->initrd_bytes;
	zero->ext_ramdisk_size = (uint32_t)(boot->initrd_bytes >> 32);
	zero->acpi_rsdp_addr = arch_by_fdt(boot->config) ? 0 : X86_ACPI;
}

static int write_zero_page(const struct gmem *mem, const struct arch_boot *boot)
{
	struct e820_range map[E820_MAX];
	struct boot_params *zero = gmem_rw(mem, X86_ZERO_PAGE, sizeof(*zero));

	if (!zero)
		return -EFAULT;
	memset(zero, 0, sizeof(*zero));
	fill_header(zero, boot);
	zero->e820_entries = (uint8_t)e820_build(gmem_total_bytes(mem), boot->pci != NULL, map);
	for (unsigned i = 0; i < zero->e820_entries; i++)
		zero->e820_table[i] = (struct boot_e820_entry){
		    .addr = map[i].base, .size = map[i].len, .type = map[i].type};
	return 0;
}

static int write_cmdline(const struct gmem *mem, const struct arch_boot *boot, struct err *err)
{
	size_t len = strlen(boot->cmdline), max = MACHINE_CMDLINE_MAX;

	if (boot->kernel->setup_header_len) {
		uint32_t size = le32_load(boot->kernel->setup_header +
					  offsetof(struct setup_header, cmdline_size));

		if (size)
			max = MIN(max, size);
	}
	if (len > max)
		return err_set(err, E2BIG,
			       "the kernel command line has %zu bytes, this kernel takes %zu", len,
			       max);
	return gmem_write(mem, X86_CMDLINE, boot->cmdline, len + 1);
}

const char *arch_console_words(void)
{
	return "console=ttyS0";
}

/* By ACPI: on reduced hardware Linux otherwise asks an EFI that is not there. Without ACPI by the
 * keyboard controller. */
const char *arch_reset_words(const struct machine_config *config)
{
	return arch_by_fdt(config) ? "reboot=k" : "reboot=acpi";
}

int arch_initrd_place(const struct gmem *mem, const struct kernel_loaded *kernel, uint64_t bytes,
		      gpa_t *ret_gpa, struct err *err)
{
	const struct gmem_region *low = gmem_region_at(mem, 0);
	uint64_t end = low->gpa + low->len_bytes;
	uint64_t kib = bytes / KIB + 1;
	uint64_t reach = kernel->initrd_max ? kernel->initrd_max : INITRD_MAX_OLD;

	if (reach < end)
		end = reach + 1;
	end = align_down(end, PAGE);
	if (bytes >= end || align_down(end - bytes, PAGE) < align_up(kernel->end, PAGE))
		return err_set(
		    err, ENOMEM,
		    "the initramfs of %llu KiB does not fit above the kernel, which ends "
		    "at %llu KiB: give the machine more memory",
		    (unsigned long long)kib, (unsigned long long)(kernel->end / KIB));
	*ret_gpa = align_down(end - bytes, PAGE);
	return 0;
}

int arch_boot_write(const struct gmem *mem, const struct arch_boot *boot, struct arch_dtb *ret_dtb,
		    struct err *err)
{
	struct arch_dtb dtb = {0};
	int res = write_cmdline(mem, boot, err);

	if (!res && arch_by_fdt(boot->config))
		res = write_fdt(mem, boot, &dtb);
	else if (!res)
		res = acpi_write(mem, boot, err);
	if (!res)
		res = write_reset_vector(mem);
	if (!res)
		res = write_gdt(mem);
	if (!res)
		res = write_page_tables(mem);
	if (!res)
		res = write_seed(mem, arch_by_fdt(boot->config) ? X86_FDT : 0);
	if (!res)
		res = write_zero_page(mem, boot);
	if (!res)
		*ret_dtb = dtb;
	return res ? err_sys(err, -res, "cannot write the boot data") : 0;
}
