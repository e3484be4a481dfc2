#include "vmm/kvm.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/arch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define NEED(cap)         \
	{                 \
		cap, #cap \
	}

static const struct kvm_need needs[] = {
    NEED(KVM_CAP_USER_MEMORY), NEED(KVM_CAP_IRQCHIP),	     NEED(KVM_CAP_IRQ_ROUTING),
    NEED(KVM_CAP_IRQFD),       NEED(KVM_CAP_IOEVENTFD),	     NEED(KVM_CAP_IOEVENTFD_ANY_LENGTH),
    NEED(KVM_CAP_MP_STATE),    NEED(KVM_CAP_IMMEDIATE_EXIT),
};

int kvm_cap(const struct kvm *kvm, int cap)
{
	int value = ioctl(kvm->fd, KVM_CHECK_EXTENSION, cap);

	return value < 0 ? 0 : value;
}

unsigned kvm_vcpus_max(const struct kvm *kvm)
{
	int n = kvm_cap(kvm, KVM_CAP_MAX_VCPUS);

	/* The two older answers of the API (api.rst, KVM_CREATE_VCPU). */
	if (!n)
		n = kvm_cap(kvm, KVM_CAP_NR_VCPUS);
	return n ? (unsigned)n : 4;
}

static int open_failed(const char *path, int code, struct err *err)
{
	switch (code) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return err_set(err, code, "%s is missing: %s", path, arch_kvm_cure);
	case EACCES:
	case EPERM:
		return err_set(err, code,
			       "no permission to open %s: become a member of the group kvm "
			       "(usermod -aG kvm USER, then log in again) or run as root",
			       path);
	default:
		return err_sys(err, code, "cannot open %s", path);
	}
}

static int check_needs(const struct kvm *kvm, const struct kvm_need *need, size_t n,
		       struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		if (!kvm_cap(kvm, need[i].cap))
			return err_set(err, EOPNOTSUPP,
				       "KVM of this host lacks %s: a newer host kernel is needed",
				       need[i].name);
	}
	return 0;
}

int kvm_open(struct kvm *kvm, const char *path, struct err *err)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? open_failed(path, errno, err) : kvm_take(kvm, fd, path, err);
}

int kvm_take(struct kvm *kvm, int taken, const char *path, struct err *err)
{
	const struct kvm_need *arch;
	autofd int fd = taken;
	size_t narch;
	int version, bytes, res;

	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return err_set(err, ENOTTY, "%s is not KVM's device", path);
	if (version != KVM_API_VERSION)
		return err_set(err, EPROTO, "KVM speaks API version %d, only %d is known", version,
			       KVM_API_VERSION);
	kvm->fd = fd;
	arch = arch_kvm_needs(&narch);
	res = check_needs(kvm, needs, ARRAY_LEN(needs), err);
	if (!res)
		res = check_needs(kvm, arch, narch, err);
	bytes = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (!res && bytes < (int)sizeof(struct kvm_run))
		res = err_set(err, EPROTO, "KVM shares %d bytes with a vCPU, at least %zu expected",
			      bytes, sizeof(struct kvm_run));
	if (res) {
		kvm->fd = -1;
		return res;
	}
	kvm->run_bytes = (size_t)bytes;
	(void)steal_fd(&fd);
	return 0;
}

int kvm_create_vm(struct kvm *kvm, struct err *err)
{
	int fd;

	/* A signal that arrives meanwhile makes KVM give up half way; nothing is left behind. */
	do
		fd = ioctl(kvm->fd, KVM_CREATE_VM, arch_vm_type(kvm));
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return err_sys(err, errno,
			       errno == EBUSY || errno == ENODEV
				   ? "KVM cannot start a machine (another hypervisor is using the "
				     "processor, or virtualisation is off in the firmware)"
				   : "KVM cannot make a machine");
	kvm->vm_fd = fd;
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->vm_fd = kvm->fd = -1;
}
