/*
 * Processors of a 64-bit Arm machine, through KVM.
 *
 * Linux Documentation/virt/kvm/api.rst (KVM_ARM_VCPU_INIT, KVM_ARM_VCPU_FINALIZE),
 * devices/vcpu.rst (PMU), Documentation/arm64/booting.rst for the state at the kernel's entry; Arm
 * Power State Coordination Interface (ARM DEN 0022): KVM serves it, CPUs but the first wait for
 * CPU_ON.
 */
#include "base/checked.h"
#include "vmm/arm64/layout.h"
#include "vmm/arm64/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define PRIVATE_PPIS 16 /* numbers of PPIs begin there */

#define CORE_REG(name) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(name))

const char arch_kvm_cure[] =
    "this kernel was not started at EL2, or is built without KVM: firmware, or the hypervisor "
    "that this system runs in, has to start it there; `lodge disk` works without";

static const struct kvm_need needs[] = {
    {KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG"},
    {KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2"},
    {KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL"},
};

const struct kvm_need *arch_kvm_needs(size_t *ret_n)
{
	*ret_n = ARRAY_LEN(needs);
	return needs;
}

const struct arch_flavour *arch_flavours(size_t *ret_n)
{
	static const struct arch_flavour flavours[] = {{"kvm", "64-bit Arm at EL2", NULL, NULL}};

	*ret_n = ARRAY_LEN(flavours);
	return flavours;
}

static unsigned ipa_bits(const struct kvm *kvm)
{
	int most = kvm_cap(kvm, KVM_CAP_ARM_VM_IPA_SIZE);

	return most > 0 ? MIN((unsigned)most, (unsigned)ARM64_IPA_BITS) : ARM64_IPA_BITS;
}

unsigned long arch_vm_type(const struct kvm *kvm)
{
	unsigned bits = ipa_bits(kvm);

	return bits == ARM64_IPA_BITS ? 0 : KVM_VM_TYPE_ARM_IPA_SIZE(bits);
}

/* Has KVM ask what to do about accesses that it cannot take apart (Linux 5.5); where it does not,
 * they end the machine. */
static void bus_errors(const struct kvm *kvm)
{
	struct kvm_enable_cap ask = {.cap = KVM_CAP_ARM_NISV_TO_USER};

	if (kvm_cap(kvm, KVM_CAP_ARM_INJECT_EXT_DABT))
		(void)ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &ask);
}

int arch_vm_new(const struct kvm *kvm, const struct machine_config *config, struct arch_vm **ret_vm,
		struct err *err)
{
	struct kvm_vcpu_init init;
	struct arch_vm *vm;
	int res;

	if (ioctl(kvm->vm_fd, KVM_ARM_PREFERRED_TARGET, &init))
		return err_sys(err, errno, "KVM does not know this host's processors");
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_sys(err, ENOMEM, "cannot describe the processors");
	vm->kvm = kvm;
	vm->ncpus = config->cpus;
	vm->target = init.target;
	vm->pmu = kvm_cap(kvm, KVM_CAP_ARM_PMU_V3);
	vm->sve = kvm_cap(kvm, KVM_CAP_ARM_SVE);
	vm->pauth =
	    kvm_cap(kvm, KVM_CAP_ARM_PTRAUTH_ADDRESS) && kvm_cap(kvm, KVM_CAP_ARM_PTRAUTH_GENERIC);
	bus_errors(kvm);
	/* The GIC first: where it is what limits the CPUs, it says so. */
	res = arm64_gic_new(kvm, config, &vm->gic, err);
	if (!res && config->cpus > kvm_vcpus_max(kvm)) {
		res = err_set(err, EINVAL, "%u CPUs are more than KVM gives one machine (%u)",
			      config->cpus, kvm_vcpus_max(kvm));
		arm64_gic_free(&vm->gic);
	}
	if (res) {
		free(vm);
		return res;
	}
	*ret_vm = vm;
	return 0;
}

void arch_vm_free(struct arch_vm *vm)
{
	if (!vm)
		return;
	arm64_gic_free(&vm->gic);
	free(vm);
}

int arch_vm_check_memory(struct arch_vm *vm, uint64_t ram_bytes, struct err *err)
{
	unsigned bits = ipa_bits(vm->kvm);
	struct pci_host_config pci;

	arch_pci_layout(ram_bytes, &pci);
	if (pci.mem64_gpa + pci.mem64_len > UINT64_C(1) << bits)
		return err_set(err, ENOMEM,
			       "memory of %llu MiB is more than the guest's processors reach (%u "
			       "address bits)",
			       (unsigned long long)(ram_bytes / MIB), bits);
	return 0;
}

int arch_vm_vcpus_made(struct arch_vm *vm, struct err *err)
{
	return arm64_gic_start(&vm->gic, err);
}

static int start_pmu(int vcpu_fd, unsigned index, struct err *err)
{
	int irq = PRIVATE_PPIS + ARM64_PPI_PMU;
	struct kvm_device_attr set_irq = {.group = KVM_ARM_VCPU_PMU_V3_CTRL,
					  .attr = KVM_ARM_VCPU_PMU_V3_IRQ,
					  .addr = (uintptr_t)&irq};
	struct kvm_device_attr init = {.group = KVM_ARM_VCPU_PMU_V3_CTRL,
				       .attr = KVM_ARM_VCPU_PMU_V3_INIT};

	if (ioctl(vcpu_fd, KVM_SET_DEVICE_ATTR, &set_irq) ||
	    ioctl(vcpu_fd, KVM_SET_DEVICE_ATTR, &init))
		return err_sys(err, errno, "KVM cannot make the performance counters of vCPU %u",
			       index);
	return 0;
}

static void feature(struct kvm_vcpu_init *init, unsigned bit)
{
	init->features[bit / 32] |= 1u << bit % 32;
}

int arch_vcpu_init(struct arch_vm *vm, int vcpu_fd, unsigned index, struct err *err)
{
	struct kvm_vcpu_init init = {.target = vm->target};
	int what = KVM_ARM_VCPU_SVE;

	feature(&init, KVM_ARM_VCPU_PSCI_0_2);
	if (index)
		feature(&init, KVM_ARM_VCPU_POWER_OFF);
	if (vm->pmu)
		feature(&init, KVM_ARM_VCPU_PMU_V3);
	if (vm->sve)
		feature(&init, KVM_ARM_VCPU_SVE);
	if (vm->pauth) {
		feature(&init, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
		feature(&init, KVM_ARM_VCPU_PTRAUTH_GENERIC);
	}
	if (ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init))
		return err_sys(err, errno, "KVM cannot set vCPU %u up", index);
	if (vm->sve && ioctl(vcpu_fd, KVM_ARM_VCPU_FINALIZE, &what))
		return err_sys(err, errno, "KVM cannot finish the vectors of vCPU %u", index);
	return vm->pmu ? start_pmu(vcpu_fd, index, err) : 0;
}

static int set_reg(int vcpu_fd, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg);
}

/* After KVM_ARM_VCPU_INIT: EL1, interrupts masked, caches and MMU off, x1 to x3 zero. */
int arch_vcpu_boot(struct arch_vm *vm, int vcpu_fd, gpa_t entry, struct err *err)
{
	if (set_reg(vcpu_fd, CORE_REG(regs.regs[0]), vm->dtb) ||
	    set_reg(vcpu_fd, CORE_REG(regs.pc), entry))
		return err_sys(err, errno, "KVM refuses the first vCPU's registers at the entry");
	return 0;
}

/* An external abort: SIGBUS for a program, for the guest's kernel an oops that names the
 * instruction. */
int arch_vcpu_bus_error(int vcpu_fd)
{
	struct kvm_vcpu_events events = {.exception.ext_dabt_pending = 1};

	return ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &events) ? -errno : 0;
}

void arch_vcpu_where(int vcpu_fd, char *ret_text, size_t len)
{
	uint64_t pc = 0;
	struct kvm_one_reg reg = {.id = CORE_REG(regs.pc), .addr = (uintptr_t)&pc};

	ret_text[0] = '\0';
	if (!ioctl(vcpu_fd, KVM_GET_ONE_REG, &reg))
		snprintf(ret_text, len, "pc 0x%llx", (unsigned long long)pc);
}
