#include "vmm/vcpu.h"
#include "base/thread.h"
#include "vmm/exits.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN

static void kicked(int sig)
{
	(void)sig;
}

int vcpu_signal_init(struct err *err)
{
	/* Without SA_RESTART: KVM_RUN has to come back. */
	struct sigaction act = {.sa_handler = kicked};

	if (sigaction(KICK_SIGNAL, &act, NULL))
		return err_sys(err, errno, "cannot set the handler of signal %d", KICK_SIGNAL);
	return 0;
}

int vcpu_new(const struct kvm *kvm, unsigned index, const struct vcpu_host *host,
	     struct vcpu **ret_vcpu, struct err *err)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	void *run;
	int res;

	if (!vcpu)
		return err_sys(err, ENOMEM, "cannot make vCPU %u", index);
	vcpu->index = index;
	vcpu->host = host;
	vcpu->run_bytes = kvm->run_bytes;
	vcpu->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0) {
		res = err_sys(err, errno, "KVM cannot make vCPU %u", index);
		goto fail;
	}
	run = mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED) {
		res = err_sys(err, errno, "cannot map the state of vCPU %u", index);
		goto fail;
	}
	vcpu->run = run;
	*ret_vcpu = vcpu;
	return 0;
fail:
	vcpu_free(vcpu);
	return res;
}

void vcpu_free(struct vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	sigset_t kick;

	if (!gate_pass(vcpu->host->gate))
		return NULL;
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (!atomic_load_explicit(&vcpu->stop, memory_order_acquire)) {
		int res = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;

		if (!vcpu_handle_exit(vcpu, res))
			break;
	}
	vcpu->host->stopped(vcpu->host->ctx, vcpu);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct err *err)
{
	char name[16];
	const struct thread_opts opts = {
	    .name = name, .role = THREAD_VCPU, .hook = vcpu->host->threads};
	int res;

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	res = thread_start(&opts, vcpu_thread, vcpu, &vcpu->thread, err);
	vcpu->has_thread = !res;
	return res;
}

void vcpu_stop(struct vcpu *vcpu)
{
	atomic_store_explicit(&vcpu->stop, true, memory_order_release);
	/* KVM reads it when KVM_RUN begins: what the signal finds outside the guest is caught here.
	 */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}

void vcpu_join(struct vcpu *vcpu)
{
	if (vcpu->has_thread)
		pthread_join(vcpu->thread, NULL);
	vcpu->has_thread = false;
}
