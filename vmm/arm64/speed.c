/*
 * The loop that is timed: at EL1 with the MMU off, two instructions a turn, then a store where no
 * memory is, which comes back as an exit.
 */
#include "base/cleanup.h"
#include "vmm/arch.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <sys/ioctl.h>

#define SPEED_RAM     UINT64_C(0x40000000)
#define SPEED_NOWHERE UINT64_C(0x10000000)

#define CORE_REG(name) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(name))

/* KVM goes past the store when the machine runs on: past the first instruction then. */
static const uint32_t speed_code[] = {
    0xd503201f, /* nop */
    0xf1000400, /* subs x0, x0, #1 */
    0x54ffffe1, /* b.ne, one back */
    0xb9000020, /* str w0, [x1] */
};

const struct arch_speed arch_speed = {
    .ram = SPEED_RAM,
    .entry = SPEED_RAM,
    .code = speed_code,
    .code_bytes = sizeof(speed_code),
    .turn_insns = 2,
    .exit_reason = KVM_EXIT_MMIO,
    .exit_insn = "store",
};

int arch_speed_vcpu(int vm_fd, int *ret_vcpu_fd, struct err *err)
{
	struct kvm_vcpu_init init;
	autofd int fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);

	if (fd < 0)
		return err_sys(err, errno, "KVM cannot make a vCPU");
	if (ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init) || ioctl(fd, KVM_ARM_VCPU_INIT, &init))
		return err_sys(err, errno, "KVM cannot set a vCPU up");
	*ret_vcpu_fd = steal_fd(&fd);
	return 0;
}

static int set_reg(int vcpu_fd, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg);
}

int arch_speed_start(int vcpu_fd, uint32_t turns, struct err *err)
{
	if (set_reg(vcpu_fd, CORE_REG(regs.regs[0]), turns) ||
	    set_reg(vcpu_fd, CORE_REG(regs.regs[1]), SPEED_NOWHERE) ||
	    set_reg(vcpu_fd, CORE_REG(regs.pc), SPEED_RAM))
		return err_sys(err, errno, "KVM_SET_ONE_REG");
	return 0;
}
