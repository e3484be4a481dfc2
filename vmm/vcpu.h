/*
 * A virtual processor: a KVM vCPU and the thread that runs it.
 *
 *   vcpu_new --vcpu_start--> waits at the gate --> running --(vcpu_stop, or the machine's end)-->
 * `stopped`
 * --vcpu_join--> vcpu_free
 *
 * Stopping has no race: the stopper sets VCPU_STOP and KVM's immediate_exit, then signals. Whether
 * the thread is before KVM_RUN, in the guest or in a device at that moment, its next KVM_RUN
 * returns at once, and the flag ends it. Pausing is the same with VCPU_PAUSE.
 *
 * Threads: the vCPU's thread runs the guest and calls the buses and the host ops; vcpu_stop() and
 * vcpu_pause() come from any thread, between vcpu_start() and vcpu_join(); all else from the
 * machine's thread.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include "base/err.h"
#include "devices/bus.h"
#include "devices/platform.h"
#include "vmm/gate.h"
#include "vmm/kvm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct kvm_run;
struct vcpu;

/* What a vCPU needs of its machine. */
struct vcpu_host {
	struct bus *pio;
	struct bus *mmio;
	/* The machine ends, on the vCPU's thread; returns at once. */
	void (*event)(void *ctx, enum machine_event event, const char *reason);
	/* It was asked to pause: returns when it is to go on, or to stop. */
	void (*park)(void *ctx, struct vcpu *vcpu);
	/* The thread's last act. */
	void (*stopped)(void *ctx, struct vcpu *vcpu);
	void *ctx;
	struct gate *gate; /* passed before the guest runs; closed for ever: the thread just ends */
	const struct thread_hook *threads; /* NULL: none */
};

#define VCPU_STOP  1u
#define VCPU_PAUSE 2u

/* KVM_EXIT_ reasons that are counted apart; the last counts those that are newer. */
#define VCPU_EXITS 44

struct vcpu {
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with KVM */
	size_t run_bytes;
	const struct vcpu_host *host;
	_Atomic uint64_t exits[VCPU_EXITS]; /* by reason; written by its thread alone */
	atomic_uint asked;		    /* VCPU_STOP, VCPU_PAUSE */
	bool parked;			    /* the host's, under its lock */
	bool has_thread;		    /* to be joined */
	pthread_t thread;
};

/* The signal that interrupts KVM_RUN; its handler does nothing. */
int vcpu_signal_init(struct err *err);

int vcpu_new(const struct kvm *kvm, unsigned index, const struct vcpu_host *host,
	     struct vcpu **ret_vcpu, struct err *err);
int vcpu_start(struct vcpu *vcpu, struct err *err);
void vcpu_stop(struct vcpu *vcpu);

/* Sends the thread to host->park(), as soon as it can leave the guest; vcpu_unpause() comes from
 * there. */
void vcpu_pause(struct vcpu *vcpu);
void vcpu_unpause(struct vcpu *vcpu);

/* Does nothing where there is no thread. */
void vcpu_join(struct vcpu *vcpu);

struct vcpu_stats {
	uint64_t cpu_time_ns; /* of its thread, in the guest and in the host */
	uint64_t exits[VCPU_EXITS];
};

/* Any thread, between vcpu_start() and vcpu_join(). */
void vcpu_stats(const struct vcpu *vcpu, struct vcpu_stats *ret_stats);

/* As KVM_EXIT_ of linux/kvm.h in lower case; NULL: no such reason. */
const char *vcpu_exit_name(unsigned reason);

/* The thread is joined or was never started. */
void vcpu_free(struct vcpu *vcpu);

#endif
