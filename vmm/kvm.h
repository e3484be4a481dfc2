/*
 * /dev/kvm and one virtual machine of it: the ioctls that belong to no vCPU.
 *
 * Linux Documentation/virt/kvm/api.rst, API version 12.
 *
 * Threads: set up by one thread; the descriptors are usable from all.
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include "base/err.h"

#include <stddef.h>

#define KVM_DEVICE "/dev/kvm"

struct kvm {
	int fd;		  /* /dev/kvm */
	int vm_fd;	  /* -1 before kvm_create_vm() */
	size_t run_bytes; /* of each vCPU's shared struct kvm_run */
};

#define KVM_INIT                      \
	{                             \
		.fd = -1, .vm_fd = -1 \
	}

/* A capability that we cannot do without, and its name for the message. */
struct kvm_need {
	int cap;
	const char *name;
};

/*
 * Opens `path` (KVM_DEVICE; tests name another) and checks the API version and every capability
 * that the machine stands on. -ENOENT, -EACCES, -ENOTTY (not KVM), -EPROTO (API version),
 * -EOPNOTSUPP (capability): each message says what to do.
 */
int kvm_open(struct kvm *kvm, const char *path, struct err *err);

/* The same of a descriptor that is open already and is taken over, also on failure; `path` is for
 * messages. */
int kvm_take(struct kvm *kvm, int fd, const char *path, struct err *err);
int kvm_create_vm(struct kvm *kvm, struct err *err);

/* Accepts a half-built one; the vCPUs are closed before. */
void kvm_close(struct kvm *kvm);

/* The value of KVM_CHECK_EXTENSION; 0: absent. */
int kvm_cap(const struct kvm *kvm, int cap);

/* How many vCPUs this host gives one machine. */
unsigned kvm_vcpus_max(const struct kvm *kvm);

#endif
