/*
 * Times the architecture's loop. See vmm/speed.h.
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
#define SPEED_TURNS_WARM  UINT32_C(1000)
#define SPEED_TURNS_FIRST UINT32_C(10000)
#define SPEED_TURNS_MAX	  UINT32_C(100000000)
#define SPEED_ENOUGH_NS	  UINT64_C(20000000)

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

static int speed_open(struct speed *s, const struct kvm *kvm, struct err *err)
{
	struct kvm_userspace_memory_region region = {.guest_phys_addr = arch_speed.ram,
						     .memory_size = SPEED_RAM_BYTES};
	int rc;

	do {
		s->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, arch_vm_type(kvm));
	} while (s->vm_fd < 0 && errno == EINTR);
	if (s->vm_fd < 0)
		return err_sys(err, errno, "KVM cannot make a machine");
	s->ram =
	    mmap(NULL, SPEED_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->ram == MAP_FAILED)
		return err_sys(err, errno, "no memory for the test guest");
	memcpy(s->ram + (arch_speed.entry - arch_speed.ram), arch_speed.code,
	       arch_speed.code_bytes);
	region.userspace_addr = (uintptr_t)s->ram;
	if (ioctl(s->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return err_sys(err, errno, "KVM_SET_USER_MEMORY_REGION");
	rc = arch_speed_vcpu(s->vm_fd, &s->vcpu_fd, err);
	if (rc)
		return rc;
	s->run_bytes = kvm->run_bytes;
	s->run = mmap(NULL, s->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->vcpu_fd, 0);
	if (s->run == MAP_FAILED)
		return err_sys(err, errno, "KVM's vCPU cannot be mapped");
	return 0;
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

/* Runs `turns` turns and says how long they took. */
static int speed_run(struct speed *s, uint32_t turns, uint64_t *ret_ns, struct err *err)
{
	int rc = arch_speed_start(s->vcpu_fd, turns, err);
	uint64_t start_ns;

	if (rc)
		return rc;
	start_ns = speed_now_ns();
	while (ioctl(s->vcpu_fd, KVM_RUN, 0)) {
		if (errno != EINTR && errno != EAGAIN)
			return err_sys(err, errno, "KVM_RUN");
	}
	*ret_ns = speed_now_ns() - start_ns;
	if (s->run->exit_reason != arch_speed.exit_reason)
		return err_set(err, EIO, "the test guest ended with KVM exit %u, not at its %s",
			       s->run->exit_reason, arch_speed.exit_insn);
	return 0;
}

int speed_measure(const struct kvm *kvm, uint64_t *ret_insns_per_s, struct err *err)
{
	struct speed s = {.vm_fd = -1, .vcpu_fd = -1, .ram = MAP_FAILED, .run = MAP_FAILED};
	int rc = speed_open(&s, kvm, err);
	uint64_t ns = 0;

	/* The first run is what faults the machine in, and does not count. Then runs get longer
	 * until what is left beside the loop is nothing: with few turns in emulation, with many in
	 * hardware. */
	if (!rc)
		rc = speed_run(&s, SPEED_TURNS_WARM, &ns, err);
	for (uint32_t turns = SPEED_TURNS_FIRST; !rc && turns <= SPEED_TURNS_MAX; turns *= 10) {
		rc = speed_run(&s, turns, &ns, err);
		if (rc)
			break;
		*ret_insns_per_s =
		    (uint64_t)turns * arch_speed.turn_insns * UINT64_C(1000000000) / MAX(ns, 1);
		if (ns >= SPEED_ENOUGH_NS)
			break;
	}
	speed_close(&s);
	return rc;
}
