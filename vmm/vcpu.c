#include "vmm/vcpu.h"
#include "base/checked.h"
#include "base/thread.h"
#include "vmm/exits.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
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

static void count_exit(struct vcpu *vcpu, int res)
{
	unsigned reason = res ? KVM_EXIT_INTR : vcpu->run->exit_reason;
	_Atomic uint64_t *n = &vcpu->exits[MIN(reason, VCPU_EXITS - 1u)];

	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	sigset_t kick;
	int res;

	if (!gate_pass(vcpu->host->gate))
		return NULL;
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	for (;;) {
		unsigned asked = atomic_load_explicit(&vcpu->asked, memory_order_acquire);

		if (asked & VCPU_STOP)
			break;
		if (asked & VCPU_PAUSE) {
			vcpu->host->park(vcpu->host->ctx, vcpu);
			continue;
		}
		res = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;
		count_exit(vcpu, res);
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

static void ask(struct vcpu *vcpu, unsigned what)
{
	atomic_fetch_or(&vcpu->asked, what);
	/* KVM reads it when KVM_RUN begins: what the signal finds outside the guest is caught here.
	 */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}

void vcpu_stop(struct vcpu *vcpu)
{
	ask(vcpu, VCPU_STOP);
}

void vcpu_pause(struct vcpu *vcpu)
{
	ask(vcpu, VCPU_PAUSE);
}

void vcpu_unpause(struct vcpu *vcpu)
{
	/* The guest learns that it stood still, and takes no watchdog for overdue. Without a
	 * kvmclock there is nothing to tell. */
	(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
	/* In this order, as ask() is in the other: either the thread finds what it was asked
	 * meanwhile when it looks next, or KVM finds immediate_exit set again. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	atomic_fetch_and(&vcpu->asked, ~VCPU_PAUSE);
}

void vcpu_join(struct vcpu *vcpu)
{
	if (vcpu->has_thread)
		pthread_join(vcpu->thread, NULL);
	vcpu->has_thread = false;
}

void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *ret_stats)
{
	struct timespec t = {0};
	clockid_t clock;

	if (!pthread_getcpuclockid(vcpu->thread, &clock))
		clock_gettime(clock, &t);
	ret_stats->cpu_time_ns = (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
	for (unsigned i = 0; i < VCPU_EXITS; i++)
		ret_stats->exits[i] = atomic_load_explicit(&vcpu->exits[i], memory_order_relaxed);
}

const char *vcpu_exit_name(unsigned reason)
{
	static const char *const names[VCPU_EXITS] = {
	    [KVM_EXIT_UNKNOWN] = "unknown",
	    [KVM_EXIT_EXCEPTION] = "exception",
	    [KVM_EXIT_IO] = "io",
	    [KVM_EXIT_HYPERCALL] = "hypercall",
	    [KVM_EXIT_DEBUG] = "debug",
	    [KVM_EXIT_HLT] = "hlt",
	    [KVM_EXIT_MMIO] = "mmio",
	    [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window_open",
	    [KVM_EXIT_SHUTDOWN] = "shutdown",
	    [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
	    [KVM_EXIT_INTR] = "intr",
	    [KVM_EXIT_SET_TPR] = "set_tpr",
	    [KVM_EXIT_TPR_ACCESS] = "tpr_access",
	    [KVM_EXIT_NMI] = "nmi",
	    [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
	    [KVM_EXIT_SYSTEM_EVENT] = "system_event",
	    [KVM_EXIT_IOAPIC_EOI] = "ioapic_eoi",
	    [KVM_EXIT_HYPERV] = "hyperv",
	    [KVM_EXIT_X86_RDMSR] = "x86_rdmsr",
	    [KVM_EXIT_X86_WRMSR] = "x86_wrmsr",
	    [KVM_EXIT_DIRTY_RING_FULL] = "dirty_ring_full",
	    [KVM_EXIT_X86_BUS_LOCK] = "x86_bus_lock",
	    [KVM_EXIT_NOTIFY] = "notify",
	    [VCPU_EXITS - 1] = "other",
	};

	return reason < VCPU_EXITS ? names[reason] : NULL;
}
