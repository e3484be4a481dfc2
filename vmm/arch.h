/*
 * What an architecture gives the machine: its RAM map, its interrupt wiring, its processors and the
 * description of its hardware. vmm/x86/ implements it; nothing else in vmm/ knows a register.
 *
 * Order of calls: arch_vm_init(), arch_cpus_new(), memory, devices, arch_boot_write(), then for
 * each vCPU arch_vcpu_init(), and arch_vcpu_boot() for the first.
 */
#ifndef VMM_ARCH_H
#define VMM_ARCH_H

#include "base/err.h"
#include "base/gmem.h"
#include "devices/pci/pci.h"
#include "vmm/boot/kernel.h"
#include "vmm/config.h"
#include "vmm/kvm.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Capabilities that this architecture needs besides the common ones. */
const struct kvm_need *arch_kvm_needs(size_t *ret_n);

/* ---- the map ---- */

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

/* ---- interrupts ---- */

#define ARCH_WIRED_GSIS 24 /* numbers below are wired, from here up they are messages */
#define ARCH_ROUTES_MAX 64 /* routing entries of the wired ones */

/* Makes the interrupt controllers, before any vCPU. */
int arch_vm_init(const struct kvm *kvm, struct err *err);

/* The wired interrupts' routes; returns how many. */
unsigned arch_irq_routes(struct kvm_irq_routing_entry ret_routes[ARCH_ROUTES_MAX]);

/* ---- processors ---- */

struct arch_cpus;

/* What all vCPUs of the machine have in common: features from the host less the masked ones. */
int arch_cpus_new(const struct kvm *kvm, const struct machine_config *config,
		  struct arch_cpus **ret_cpus, struct err *err);
void arch_cpus_free(struct arch_cpus *cpus);

/* Checks that the guest's processors can address all of it. */
int arch_cpus_check_memory(struct arch_cpus *cpus, uint64_t ram_bytes, struct err *err);

int arch_vcpu_init(struct arch_cpus *cpus, int vcpu_fd, unsigned index, struct err *err);

/* Puts the first vCPU to the kernel's entry. */
int arch_vcpu_boot(int vcpu_fd, gpa_t entry, struct err *err);

/* Where a vCPU is, for a message: "rip 0x..."; an empty string when that is not known. */
void arch_vcpu_where(int vcpu_fd, char *ret_text, size_t len);

/* ---- hardware description and boot data ---- */

struct arch_boot {
	const struct machine_config *config;
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

/* Where an initrd of so many bytes goes. -ENOMEM: there is no room below what the kernel reaches.
 */
int arch_initrd_place(const struct gmem *mem, const struct kernel_loaded *kernel, uint64_t bytes,
		      gpa_t *ret_gpa, struct err *err);

int arch_boot_write(const struct gmem *mem, const struct arch_boot *boot, struct err *err);

#endif
