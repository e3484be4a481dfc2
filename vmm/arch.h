/*
 * What an architecture gives the machine: its RAM map, its interrupt wiring, its processors and the
 * description of its hardware. vmm/x86/ and vmm/arm64/ implement it, the Makefile picks one;
 * nothing else in vmm/ knows a register.
 *
 * Order of calls: arch_config_check(), arch_vm_new(), memory, vCPUs made, arch_vm_vcpus_made(),
 * devices, for each vCPU arch_vcpu_init(), arch_boot_write(), arch_vcpu_boot() for the first.
 */
#ifndef VMM_ARCH_H
#define VMM_ARCH_H

#include "base/err.h"
#include "base/gmem.h"
#include "devices/pci/pci.h"
#include "devices/platform.h"
#include "vmm/boot/kernel.h"
#include "vmm/config.h"
#include "vmm/kvm.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- the host ---- */

/* Capabilities that this architecture needs besides the common ones. */
const struct kvm_need *arch_kvm_needs(size_t *ret_n);

/* What to do where there is no KVM. */
extern const char arch_kvm_cure[];

/* A flavour of KVM, by what shows it under /sys/module. The first that is there is the host's. */
struct arch_flavour {
	const char *module;
	const char *name;
	const char *nested; /* file that says whether guests can be hosts; NULL: never */
	const char *nested_cure;
};

const struct arch_flavour *arch_flavours(size_t *ret_n);

/* Which interrupt controllers KVM has for guests, in words; empty: there is no choice. False: what
 * needs more does not work, and `ret_cure` says what does. */
bool arch_irqchip_probe(const struct kvm *kvm, char *ret_found, char *ret_cure, size_t len);

/* The argument of KVM_CREATE_VM. */
unsigned long arch_vm_type(const struct kvm *kvm);

/* ---- the speed of guest code ---- */

/* The loop that vmm/speed.c times in a machine of its own, at the guest's highest privilege; the
 * instruction behind it comes back as an exit. */
struct arch_speed {
	gpa_t ram;   /* where its 64 KiB begin */
	gpa_t entry; /* where the code goes in it */
	const void *code;
	size_t code_bytes;
	unsigned turn_insns;
	uint32_t exit_reason;  /* KVM_EXIT_... */
	const char *exit_insn; /* what comes back, for a message */
};

extern const struct arch_speed arch_speed;

/* Makes the machine's one vCPU; the descriptor is the caller's. */
int arch_speed_vcpu(int vm_fd, int *ret_vcpu_fd, struct err *err);

/* Puts it to the entry, with so many turns to go. */
int arch_speed_start(int vcpu_fd, uint32_t turns, struct err *err);

/* ---- the machine ---- */

/* The machine whose kernels run here. */
enum kernel_machine arch_kernel_machine(void);

/* Can this architecture make what is asked for? -EINVAL */
int arch_config_check(const struct machine_config *config, struct err *err);

/* How virtio devices are attached where nothing is said about it. */
enum machine_transport arch_transport(const struct machine_config *config);

/* Is it described by a device tree? */
bool arch_by_fdt(const struct machine_config *config);

struct arch_ram {
	gpa_t gpa;
	uint64_t len_bytes;
};

#define ARCH_RAM_MAX 2

/* Splits `bytes` of RAM round the hole for devices; returns the number of pieces. */
unsigned arch_ram_layout(uint64_t bytes, struct arch_ram ret_ram[ARCH_RAM_MAX]);

/* Where PCI lies in a machine with so much RAM. */
void arch_pci_layout(uint64_t ram_bytes, struct pci_host_config *ret_config);

/* Where the n-th virtio-mmio device lies. Interrupts are shared where there are fewer than devices.
 */
void arch_mmio_slot(unsigned n, gpa_t *ret_gpa, unsigned *ret_gsi);

/* Devices that a machine has once, or not at all. */
enum arch_device {
	ARCH_UART,
	ARCH_I8042,
	ARCH_RTC,   /* of a PC */
	ARCH_PL031, /* a real-time clock as well */
	ARCH_PVPANIC,
	ARCH_ACPI_PM,
	ARCH_POWER_KEY,
};

/* Where it is; false: this machine has none. */
bool arch_device_place(const struct machine_config *config, enum arch_device device,
		       struct device_place *ret_place);

/* ---- interrupts ---- */

#define ARCH_ROUTES_MAX 64 /* routing entries of the wired ones */

/* Numbers below are wired, from here up they are messages. */
unsigned arch_wired_gsis(void);

/* The wired interrupts' routes; returns how many. */
unsigned arch_irq_routes(struct kvm_irq_routing_entry ret_routes[ARCH_ROUTES_MAX]);

/* What KVM wants to know of a message besides its address and data. */
void arch_irq_message(const struct msi_msg *msg, struct kvm_irq_routing_entry *ret_route);

/* ---- processors and interrupt controllers ---- */

struct arch_vm;

/* Makes the interrupt controllers, as far as that goes before there are vCPUs, and finds out what
 * all vCPUs have in common: features from the host less the masked ones. `kvm` has its machine. */
int arch_vm_new(const struct kvm *kvm, const struct machine_config *config, struct arch_vm **ret_vm,
		struct err *err);
/* Accepts NULL and a half-built one. */
void arch_vm_free(struct arch_vm *vm);

/* Checks that the guest's processors can address all of it. */
int arch_vm_check_memory(struct arch_vm *vm, uint64_t ram_bytes, struct err *err);

/* All vCPUs exist: finishes the interrupt controllers, before any interrupt is connected. */
int arch_vm_vcpus_made(struct arch_vm *vm, struct err *err);

int arch_vcpu_init(struct arch_vm *vm, int vcpu_fd, unsigned index, struct err *err);

/* Puts the first vCPU to the kernel's entry. */
int arch_vcpu_boot(struct arch_vm *vm, int vcpu_fd, gpa_t entry, struct err *err);

/* The access for which KVM came back fails for the guest with the processor's bus error. -ENOSYS:
 * this architecture's KVM takes all accesses apart. */
int arch_vcpu_bus_error(int vcpu_fd);

/* Where a vCPU is, for a message: "rip 0x..."; an empty string when that is not known. */
void arch_vcpu_where(int vcpu_fd, char *ret_text, size_t len);

/* ---- hardware description and boot data ---- */

/* Where the device tree is in guest memory. */
struct arch_dtb {
	gpa_t gpa;
	uint64_t len_bytes; /* 0: there is none */
};

struct arch_boot {
	const struct machine_config *config;
	struct arch_vm *vm;
	const struct kernel_loaded *kernel;
	const struct pci_host_config *pci; /* NULL: no PCI host */
	const char *cmdline;
	gpa_t initrd;
	uint64_t initrd_bytes; /* 0: none */
	unsigned nmmio;	       /* virtio-mmio devices, arch_mmio_slot(0) and up */
	bool uart, rtc, pvpanic;
};

/* The words of the kernel command line that name the serial port as the console. */
const char *arch_console_words(void);

/* The words that make a kernel reset, also when it has panicked, in a way that ends this machine.
 */
const char *arch_reset_words(const struct machine_config *config);

/* Where an initrd of so many bytes goes. -ENOMEM: there is no room below what the kernel reaches.
 */
int arch_initrd_place(const struct gmem *mem, const struct kernel_loaded *kernel, uint64_t bytes,
		      gpa_t *ret_gpa, struct err *err);

int arch_boot_write(const struct gmem *mem, const struct arch_boot *boot, struct arch_dtb *ret_dtb,
		    struct err *err);

#endif
