/*
 * The loop that is timed: real mode, two instructions a turn, then HLT, which with no interrupt
 * controller in the kernel comes back as an exit. Without hardware support KVM emulates every one
 * of them.
 */
#include "vmm/arch.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define SPEED_CODE 0x1000
#define SPEED_TSS  0xfffbd000 /* three pages for KVM on Intel, away from RAM */

static const uint8_t speed_code[] = {
    0x66, 0x49, /* dec ecx */
    0x75, 0xfc, /* jnz to the start */
    0xf4,	/* hlt */
};

const struct arch_speed arch_speed = {
    .ram = 0,
    .entry = SPEED_CODE,
    .code = speed_code,
    .code_bytes = sizeof(speed_code),
    .turn_insns = 2,
    .exit_reason = KVM_EXIT_HLT,
    .exit_insn = "HLT",
};

int arch_speed_vcpu(int vm_fd, int *ret_vcpu_fd, struct err *err)
{
	int fd;

	if (ioctl(vm_fd, KVM_SET_TSS_ADDR, SPEED_TSS))
		return err_sys(err, errno, "KVM_SET_TSS_ADDR");
	fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (fd < 0)
		return err_sys(err, errno, "KVM cannot make a vCPU");
	*ret_vcpu_fd = fd;
	return 0;
}

int arch_speed_start(int vcpu_fd, uint32_t turns, struct err *err)
{
	struct kvm_regs regs = {.rip = SPEED_CODE, .rcx = turns, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
		return err_sys(err, errno, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu_fd, KVM_SET_REGS, &regs))
		return err_sys(err, errno, "KVM_SET_SREGS");
	return 0;
}
