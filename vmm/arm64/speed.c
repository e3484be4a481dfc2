/*
 * The loop that is timed: at EL1 with the MMU off, two instructions a turn, then a store where no
 * memory is, which comes back as an exit.
 */
#include "vmm/speed.h"

#include "base/checked.h"
#include "vmm/arch.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SPEED_RAM_BYTES	  (64 * KIB)
#define SPEED_RAM	  UINT64_C(0x40000000)
#define SPEED_NOWHERE	  UINT64_C(0x10000000)
#define SPEED_TURN_INSNS  2
#define SPEED_TURNS_FIRST UINT64_C(10000)
#define SPEED_TURNS_MAX	  UINT64_C(100000000)
#define SPEED_ENOUGH_NS	  UINT64_C(20000000)

#define CORE_REG(name) \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(name))

/* KVM goes past the store when the machine runs on: past the first instruction then. */
static const uint32_t speed_code[] = {
    0xd503201f, /* nop */
    0xf1000400, /* subs x0, x0, #1 */
    0x54ffffe1, /* b.ne, one back */
    0xb9000020, /* str w0, [x1] */
};

struct speed {
	int vm_fd, vcpu_fd;
	uint8_t *ram;
	struct kvm_run *run;
	size_t run_bytes;
};

static uint64_t speed_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static int speed_vcpu(struct speed *s, const struct kvm *kvm, struct err *err)
{
	struct kvm_vcpu_init init;

	s->vcpu_fd = ioctl(s->vm_fd, KVM_CREATE_VCPU, 0);
	if (s->vcpu_fd < 0)
		return err_sys(err, errno, "KVM cannot make a vCPU");
	if (ioctl(s->vm_fd, KVM_ARM_PREFERRED_TARGET, &init) ||
	    ioctl(s->vcpu_fd, KVM_ARM_VCPU_INIT, &init))
		return err_sys(err, errno, "KVM cannot set a vCPU up");
	s->run_bytes = kvm->run_bytes;
	s->run = mmap(NULL, s->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->vcpu_fd, 0);
	if (s->run == MAP_FAILED)
		return err_sys(err, errno, "KVM's vCPU cannot be mapped");
	return 0;
}

static int speed_open(struct speed *s, const struct kvm *kvm, struct err *err)
{
	struct kvm_userspace_memory_region region = {.guest_phys_addr = SPEED_RAM,
						     .memory_size = SPEED_RAM_BYTES};

	do {
		s->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, arch_vm_type(kvm));
	} while (s->vm_fd < 0 && errno == EINTR);
	if (s->vm_fd < 0)
		return err_sys(err, errno, "KVM cannot make a machine");
	s->ram =
	    mmap(NULL, SPEED_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->ram == MAP_FAILED)
		return err_sys(err, errno, "no memory for the test guest");
	memcpy(s->ram, speed_code, sizeof(speed_code));
	region.userspace_addr = (uintptr_t)s->ram;
	if (ioctl(s->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return err_sys(err, errno, "KVM_SET_USER_MEMORY_REGION");
	return speed_vcpu(s, kvm, err);
}

static void speed_close(struct speed *s)
{
	if (s->run != MAP_FAILED)
		munmap(s->run, s->run_bytes);
	if (s->vcpu_fd >= 0)
		close(s->vcpu_fd);
	if (s->vm_fd >= 0)
		close(s->vm_fd);
	if (s->ram != MAP_FAILED)
		munmap(s->ram, SPEED_RAM_BYTES);
}

static int set_reg(const struct speed *s, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	return ioctl(s->vcpu_fd, KVM_SET_ONE_REG, &reg);
}

/* Runs `turns` turns and says how long they took. */
static int speed_run(struct speed *s, uint64_t turns, uint64_t *ret_ns, struct err *err)
{
	uint64_t start_ns;

	if (set_reg(s, CORE_REG(regs.regs[0]), turns) ||
	    set_reg(s, CORE_REG(regs.regs[1]), SPEED_NOWHERE) ||
	    set_reg(s, CORE_REG(regs.pc), SPEED_RAM))
		return err_sys(err, errno, "KVM_SET_ONE_REG");
	start_ns = speed_now_ns();
	while (ioctl(s->vcpu_fd, KVM_RUN, 0)) {
		if (errno != EINTR && errno != EAGAIN)
			return err_sys(err, errno, "KVM_RUN");
	}
	*ret_ns = speed_now_ns() - start_ns;
	if (s->run->exit_reason != KVM_EXIT_MMIO)
		return err_set(err, EIO, "the test guest ended with KVM exit %u, not at its store",
			       s->run->exit_reason);
	return 0;
}

int speed_measure(const struct kvm *kvm, uint64_t *ret_insns_per_s, struct err *err)
{
	struct speed s = {.vm_fd = -1, .vcpu_fd = -1, .ram = MAP_FAILED, .run = MAP_FAILED};
	int rc = speed_open(&s, kvm, err);
	uint64_t ns = 0;

	/* A first run also pays for faulting in the machine: runs get longer until that is nothing
	 * beside the loop. Emulation gets there with few turns, hardware with many. */
	for (uint64_t turns = SPEED_TURNS_FIRST; !rc && turns <= SPEED_TURNS_MAX; turns *= 10) {
		rc = speed_run(&s, turns, &ns, err);
		if (rc)
			break;
		*ret_insns_per_s = turns * SPEED_TURN_INSNS * UINT64_C(1000000000) / MAX(ns, 1);
		if (ns >= SPEED_ENOUGH_NS && turns > SPEED_TURNS_FIRST)
			break;
	}
	speed_close(&s);
	return rc;
}
