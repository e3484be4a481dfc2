/*
 * How a machine runs and ends.
 *
 *   running --event--> stopping --last vCPU thread ends--> over (control loop): joined, `ended`
 *      |                   ^
 *      +--PANIC--> grace --+-- any further event, or PANIC_GRACE_NS
 *
 * Invariants
 *  1. The first event is the machine's end and its reason; later ones change nothing.
 *  2. `ended` is called once, on the control loop's thread, when no vCPU thread is left.
 *
 * A panicked kernel gets a moment: it is writing its last words to the console, and mostly resets
 * itself next (panic=-1).
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <stdio.h>

#define PANIC_GRACE_NS UINT64_C(1000000000)

const char *machine_event_name(enum machine_event event)
{
	switch (event) {
	case MACHINE_POWEROFF:
		return "power-off";
	case MACHINE_REBOOT:
		return "reboot";
	case MACHINE_PANIC:
		return "panic";
	case MACHINE_CRASH_LOADED:
		return "crash kernel";
	case MACHINE_TRIPLE_FAULT:
		return "triple fault";
	case MACHINE_STOPPED:
		return "stopped";
	case MACHINE_FAILED:
		return "failed";
	}
	return "unknown";
}

static const char *default_reason(enum machine_event event)
{
	switch (event) {
	case MACHINE_POWEROFF:
		return "guest powered off";
	case MACHINE_REBOOT:
		return "guest rebooted";
	case MACHINE_PANIC:
		return "guest kernel panicked";
	case MACHINE_STOPPED:
		return "stopped on request";
	default:
		return machine_event_name(event);
	}
}

static void stop_vcpus_locked(struct machine *m)
{
	if (m->end.stopping)
		return;
	m->end.stopping = true;
	for (unsigned i = 0; m->end.started && i < m->config->cpus; i++)
		vcpu_stop(m->vcpus[i]);
	machine_pause_wake(m);
}

void machine_raise(struct machine *m, enum machine_event event, const char *reason)
{
	struct machine_end *end = &m->end;

	if (event == MACHINE_CRASH_LOADED) {
		log_info("guest kernel crashed, its crash kernel takes over");
		return;
	}
	pthread_mutex_lock(&end->lock);
	if (end->event) {
		stop_vcpus_locked(m);
	} else {
		end->event = event;
		snprintf(end->reason, sizeof(end->reason), "%s",
			 reason ? reason : default_reason(event));
		if (event == MACHINE_PANIC && end->started)
			loop_post(m->control, &end->panicked);
		else
			stop_vcpus_locked(m);
	}
	pthread_mutex_unlock(&end->lock);
}

/* ---- on the control loop's thread ---- */

static void grace_over(struct loop_timer *t)
{
	struct machine *m = container_of(t, struct machine, end.grace);

	pthread_mutex_lock(&m->end.lock);
	stop_vcpus_locked(m);
	pthread_mutex_unlock(&m->end.lock);
}

static void panicked(struct loop_msg *msg)
{
	struct machine *m = container_of(msg, struct machine, end.panicked);

	loop_timer_arm(m->control, &m->end.grace, loop_now_ns() + PANIC_GRACE_NS);
}

static void over(struct loop_msg *msg)
{
	struct machine *m = container_of(msg, struct machine, end.over);

	/* What devices have been asked to do they tell on this thread: not to a machine that is
	 * gone. */
	if (machine_busy(m)) {
		m->end.waits = true;
		return;
	}
	/* `panicked`, if it was posted, was posted before: it has run. */
	loop_timer_disarm(m->control, &m->end.grace);
	for (unsigned i = 0; i < m->config->cpus; i++)
		vcpu_join(m->vcpus[i]);
	m->end.started = false;
	if (m->uart)
		uart_flush(m->uart);
	m->callbacks.ended(m->callbacks.ctx, m->end.event, m->end.reason);
}

bool machine_busy(const struct machine *m)
{
	return m->pause.settling || m->nresizes || m->nreconnects;
}

void machine_settled(struct machine *m)
{
	if (m->end.waits && !machine_busy(m)) {
		m->end.waits = false;
		loop_post(m->control, &m->end.over);
	}
}

/* ---- on vCPU threads ---- */

static void vcpu_event(void *ctx, enum machine_event event, const char *reason)
{
	machine_raise(ctx, event, reason);
}

static void vcpu_stopped(void *ctx, struct vcpu *vcpu)
{
	struct machine *m = ctx;

	machine_pause_gone(m, vcpu);
	/* A vCPU ends because the machine does; the last one tells. The order of the count makes
	 * all that the others did visible to it. */
	if (atomic_fetch_sub_explicit(&m->end.running, 1, memory_order_acq_rel) == 1)
		loop_post(m->control, &m->end.over);
}

void machine_end_init(struct machine *m)
{
	pthread_mutex_init(&m->end.lock, NULL);
	m->end.panicked.fn = panicked;
	m->end.over.fn = over;
	m->end.grace.fn = grace_over;
	m->vcpu_host = (struct vcpu_host){
	    .event = vcpu_event,
	    .park = machine_pause_park,
	    .stopped = vcpu_stopped,
	    .ctx = m,
	    .gate = &m->gate,
	    .threads = m->callbacks.threads,
	};
}

void machine_end_fini(struct machine *m)
{
	pthread_mutex_destroy(&m->end.lock);
}

void machine_run(struct machine *m)
{
	struct machine_end *end = &m->end;

	/* Stopped before it started: the threads only end, so that the end is as always. */
	AUTOLOCK(&end->lock);
	atomic_store_explicit(&end->running, m->config->cpus, memory_order_relaxed);
	for (unsigned i = 0; i < m->config->cpus; i++)
		atomic_store_explicit(&m->vcpus[i]->asked, end->stopping ? VCPU_STOP : 0,
				      memory_order_relaxed);
	end->started = true;
	gate_open(&m->gate);
}
