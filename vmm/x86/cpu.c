/*
 * Interrupt controllers and processors of an x86 machine, through KVM.
 *
 * Intel SDM volume 3 §11.11 (MTRR), §10.5 (local vector table); Linux
 * Documentation/x86/boot.rst "64-bit boot protocol" for the state at the kernel's entry.
 */
#include "base/checked.h"
#include "vmm/arch.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/layout.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_MISC_ENABLE	      0x1a0
#define MISC_ENABLE_FAST_STRS (1u << 0)
#define MSR_MTRR_DEF_TYPE     0x2ff
#define MTRR_ENABLED	      (1u << 11)
#define MTRR_WRITE_BACK	      6

#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define LVT_EXTINT     (7u << 8)
#define LVT_NMI	       (4u << 8)

#define CR0_PE	 (1u << 0)
#define CR0_MP	 (1u << 1)
#define CR0_ET	 (1u << 4)
#define CR0_NE	 (1u << 5)
#define CR0_WP	 (1u << 16)
#define CR0_PG	 (1u << 31)
#define CR4_PAE	 (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

#define RFLAGS_RESERVED (1u << 1)

const char arch_kvm_cure[] = "load the kernel module kvm_intel or kvm_amd, and switch "
			     "virtualisation on in the firmware";

static const struct kvm_need needs[] = {
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
};

const struct kvm_need *arch_kvm_needs(size_t *ret_n)
{
	*ret_n = ARRAY_LEN(needs);
	return needs;
}

const struct arch_flavour *arch_flavours(size_t *ret_n)
{
	static const struct arch_flavour flavours[] = {
	    {"kvm_intel", "Intel VMX", "/sys/module/kvm_intel/parameters/nested",
	     "modprobe -r kvm_intel && modprobe kvm_intel nested=1"},
	    {"kvm_amd", "AMD SVM", "/sys/module/kvm_amd/parameters/nested",
	     "modprobe -r kvm_amd && modprobe kvm_amd nested=1"},
	    {"kvm_pvm", "PVM, without hardware virtualisation", NULL, NULL},
	};

	*ret_n = ARRAY_LEN(flavours);
	return flavours;
}

bool arch_irqchip_probe(const struct kvm *kvm, char *ret_found, char *ret_cure, size_t len)
{
	(void)kvm;
	(void)len;
	*ret_found = *ret_cure = '\0';
	return true;
}

unsigned long arch_vm_type(const struct kvm *kvm)
{
	(void)kvm;
	return 0;
}

/* ---- interrupt controllers ---- */

static int make_irqchips(const struct kvm *kvm, struct err *err)
{
	uint64_t identity = X86_IDENTITY_MAP;
	/* Kernels without ACPI's reduced hardware measure their clocks with it. */
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	if (ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity))
		return err_sys(err, errno, "KVM refuses the identity map at 0x%llx",
			       (unsigned long long)identity);
	if (ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)X86_TSS))
		return err_sys(err, errno, "KVM refuses the task segment at 0x%llx",
			       (unsigned long long)X86_TSS);
	if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0))
		return err_sys(err, errno, "KVM cannot make the interrupt controllers");
	if (ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit))
		return err_sys(err, errno, "KVM cannot make the interval timer");
	return 0;
}

unsigned arch_wired_gsis(void)
{
	return X86_IOAPIC_PINS;
}

void arch_irq_message(const struct msi_msg *msg, struct kvm_irq_routing_entry *ret_route)
{
	(void)msg;
	(void)ret_route;
}

static struct kvm_irq_routing_entry chip_route(unsigned gsi, unsigned chip, unsigned pin)
{
	return (struct kvm_irq_routing_entry){
	    .gsi = gsi,
	    .type = KVM_IRQ_ROUTING_IRQCHIP,
	    .u.irqchip = {.irqchip = chip, .pin = pin},
	};
}

unsigned arch_irq_routes(struct kvm_irq_routing_entry ret_routes[ARCH_ROUTES_MAX])
{
	unsigned n = 0;

	/* As KVM starts with: the first 16 reach both the PICs and the IOAPIC, pin = GSI. */
	for (unsigned gsi = 0; gsi < X86_IOAPIC_PINS; gsi++) {
		if (gsi < 16)
			ret_routes[n++] = chip_route(
			    gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8);
		ret_routes[n++] = chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi);
	}
	return n;
}

/* ---- processors ---- */

struct arch_vm {
	unsigned n;
	struct cpuid_table cpuid;
	/* the table as KVM takes and gives it */
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
	} list;
};

static int supported_cpuid(const struct kvm *kvm, struct arch_vm *vm, struct err *err)
{
	struct cpuid_table *table = &vm->cpuid;

	vm->list.head.nent = CPUID_ENTRIES_MAX;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, &vm->list))
		return err_sys(err, errno, "KVM does not say which CPUID it supports");
	table->n = MIN(vm->list.head.nent, CPUID_ENTRIES_MAX);
	memcpy(table->entries, vm->list.entries, table->n * sizeof(table->entries[0]));
	return 0;
}

static int describe(struct arch_vm *vm, const struct kvm *kvm, const struct machine_config *config,
		    struct err *err)
{
	struct cpuid_host host = {
	    .tsc_deadline = kvm_cap(kvm, KVM_CAP_TSC_DEADLINE_TIMER),
	};
	int res = supported_cpuid(kvm, vm, err), khz;

	if (res)
		return res;
	/* Of the VM: older kernels answer for a vCPU only, and the leaf is then left out. */
	khz = ioctl(kvm->vm_fd, KVM_GET_TSC_KHZ, 0);
	host.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	return cpuid_prepare(&vm->cpuid, &host, config, err);
}

int arch_vm_new(const struct kvm *kvm, const struct machine_config *config, struct arch_vm **ret_vm,
		struct err *err)
{
	struct arch_vm *vm;
	int res = make_irqchips(kvm, err);

	if (res)
		return res;

	if (config->cpus > kvm_vcpus_max(kvm))
		return err_set(err, EINVAL, "%u CPUs are more than KVM gives one machine (%u)",
			       config->cpus, kvm_vcpus_max(kvm));
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_sys(err, ENOMEM, "cannot describe the processors");
	vm->n = config->cpus;
	res = describe(vm, kvm, config, err);
	if (res) {
		arch_vm_free(vm);
		return res;
	}
	*ret_vm = vm;
	return 0;
}

void arch_vm_free(struct arch_vm *vm)
{
	free(vm);
}

int arch_vm_vcpus_made(struct arch_vm *vm, struct err *err)
{
	(void)vm;
	(void)err;
	return 0;
}

int arch_vm_check_memory(struct arch_vm *vm, uint64_t ram_bytes, struct err *err)
{
	unsigned bits = cpuid_phys_bits(&vm->cpuid);
	struct pci_host_config pci;

	arch_pci_layout(ram_bytes, &pci);
	if (bits < 64 && pci.mem64_gpa + pci.mem64_len > UINT64_C(1) << bits)
		return err_set(err, ENOMEM,
			       "memory of %llu MiB is more than the guest's processors reach (%u "
			       "address bits)",
			       (unsigned long long)(ram_bytes / MIB), bits);
	return 0;
}

static int set_cpuid(struct arch_vm *vm, int vcpu_fd, unsigned index, struct err *err)
{
	struct cpuid_table *table = &vm->cpuid;

	cpuid_for_vcpu(table, index, vm->n);
	vm->list.head.nent = table->n;
	memcpy(vm->list.entries, table->entries, table->n * sizeof(table->entries[0]));
	if (ioctl(vcpu_fd, KVM_SET_CPUID2, &vm->list))
		return err_sys(err, errno, "KVM refuses the CPUID of vCPU %u", index);
	return 0;
}

static int set_msrs(int vcpu_fd, unsigned index, struct err *err)
{
	static const struct kvm_msr_entry wanted[] = {
	    {.index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRS},
	    {.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED | MTRR_WRITE_BACK},
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[ARRAY_LEN(wanted)];
	} msrs = {.head.nmsrs = ARRAY_LEN(wanted)};
	int n;

	memcpy(msrs.entries, wanted, sizeof(wanted));
	n = ioctl(vcpu_fd, KVM_SET_MSRS, &msrs);
	if (n < 0)
		return err_sys(err, errno, "KVM cannot set the registers of vCPU %u", index);
	if ((size_t)n < ARRAY_LEN(wanted))
		return err_set(err, EIO, "KVM refuses MSR 0x%x of vCPU %u", wanted[n].index, index);
	return 0;
}

static int set_lapic(int vcpu_fd, unsigned index, struct err *err)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic))
		return err_sys(err, errno, "KVM cannot read the local APIC of vCPU %u", index);
	le32_store(lapic.regs + APIC_LVT_LINT0, LVT_EXTINT);
	le32_store(lapic.regs + APIC_LVT_LINT1, LVT_NMI);
	if (ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic))
		return err_sys(err, errno, "KVM cannot set the local APIC of vCPU %u", index);
	return 0;
}

int arch_vcpu_init(struct arch_vm *vm, int vcpu_fd, unsigned index, struct err *err)
{
	int res = set_cpuid(vm, vcpu_fd, index, err);

	if (!res)
		res = set_msrs(vcpu_fd, index, err);
	/* The others wait for the first one's INIT, which sets their APICs. */
	if (!res && !index)
		res = set_lapic(vcpu_fd, index, err);
	return res;
}

static struct kvm_segment flat_segment(uint16_t selector, bool code)
{
	return (struct kvm_segment){
	    .limit = 0xffffffff,
	    .selector = selector,
	    .type = code ? 0xb : 0x3, /* accessed; execute and read, or read and write */
	    .present = 1,
	    .db = !code,
	    .s = 1,
	    .l = code,
	    .g = 1,
	};
}

int arch_vcpu_boot(struct arch_vm *vm, int vcpu_fd, gpa_t entry, struct err *err)
{
	struct kvm_segment code = flat_segment(X86_BOOT_CS, true);
	struct kvm_segment data = flat_segment(X86_BOOT_DS, false);
	struct kvm_regs regs = {
	    .rip = entry,
	    .rsi = X86_ZERO_PAGE,
	    /* Linux sets its own at once; a payload may lean on it for its first instructions. */
	    .rsp = X86_BOOT_STACK,
	    .rflags = RFLAGS_RESERVED,
	};
	struct kvm_sregs sregs;

	(void)vm;
	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		return err_sys(err, errno, "KVM cannot read the registers of the first vCPU");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
	sregs.gdt = (struct kvm_dtable){.base = X86_GDT, .limit = X86_GDT_BYTES - 1};
	sregs.idt = (struct kvm_dtable){0};
	sregs.cr3 = X86_PAGE_TABLES;
	sregs.cr4 = CR4_PAE;
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs.efer = EFER_LME | EFER_LMA;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu_fd, KVM_SET_REGS, &regs))
		return err_sys(err, errno, "KVM refuses the first vCPU's registers at the entry");
	return 0;
}

int arch_vcpu_bus_error(int vcpu_fd)
{
	(void)vcpu_fd;
	return -ENOSYS;
}

void arch_vcpu_where(int vcpu_fd, char *ret_text, size_t len)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	ret_text[0] = '\0';
	if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) || ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		return;
	/* KVM on AMD resets the processor before it reports a triple fault: then nothing is known.
	 */
	if (regs.rip == 0xfff0 && !(sregs.cr0 & CR0_PE))
		return;
	snprintf(ret_text, len, "rip 0x%llx", (unsigned long long)regs.rip);
}
