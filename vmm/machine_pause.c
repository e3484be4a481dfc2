/*
 * Pausing a machine.
 *
 *   running --machine_pause--> vCPUs park --the last one--> devices settle --quiet--> paused
 *      ^                                                                                 |
 *      +-------------------------------- machine_resume ---------------------------------+
 *
 * The machine's end may come at any point. While vCPUs park they end instead, and nothing more
 * happens here; while the devices settle the end waits for them (they finish what is in flight, as
 * they would have to for the end as well); a paused machine ends as any other.
 *
 * Threads: vCPU threads park; all else on the control loop's thread but the calls that devices make
 * when they are quiet, and machine_pause_wake().
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/machine_priv.h"

/* ---- vCPU threads ---- */

/* One less to wait for. */
static void count_locked(struct machine *m)
{
	if (!--m->pause.left)
		loop_post(m->control, &m->pause.parked);
}

static bool stays_locked(const struct machine *m, const struct vcpu *vcpu)
{
	return m->pause.wanted && !(atomic_load(&vcpu->asked) & VCPU_STOP);
}

void machine_pause_park(void *machine, struct vcpu *vcpu)
{
	struct machine *m = machine;
	AUTOLOCK(&m->pause.lock);

	while (stays_locked(m, vcpu)) {
		if (!vcpu->parked) {
			vcpu->parked = true;
			count_locked(m);
		}
		pthread_cond_wait(&m->pause.go, &m->pause.lock);
	}
	if (!m->pause.wanted)
		vcpu_unpause(vcpu);
}

void machine_pause_gone(struct machine *m, struct vcpu *vcpu)
{
	AUTOLOCK(&m->pause.lock);
	m->pause.gone++;
	if (m->pause.wanted && !vcpu->parked)
		count_locked(m);
}

void machine_pause_wake(struct machine *m)
{
	AUTOLOCK(&m->pause.lock);
	pthread_cond_broadcast(&m->pause.go);
}

/* ---- devices ---- */

/* A device's thread, or the control loop's. */
static void device_quiet(void *ctx)
{
	struct machine *m = ctx;

	if (atomic_fetch_sub(&m->pause.busy, 1) == 1)
		loop_post(m->control, &m->pause.quiet);
}

static void settle(struct machine *m, struct virtio_transport *t)
{
	if (!t)
		return;
	atomic_fetch_add(&m->pause.busy, 1);
	if (virtio_transport_pause(t, device_quiet, m))
		m->pause.held[m->pause.nheld++] = t;
	else
		atomic_fetch_sub(&m->pause.busy, 1); /* never the last: see below */
}

static bool ends(struct machine *m)
{
	AUTOLOCK(&m->end.lock);
	return m->end.stopping;
}

static void parked(struct loop_msg *msg)
{
	struct machine *m = container_of(msg, struct machine, pause.parked);

	if (ends(m))
		return; /* `over` follows */
	m->pause.settling = true;
	m->pause.nheld = 0;
	atomic_store(&m->pause.busy, 1);
	for (unsigned i = 0; i < m->config->ndisks; i++)
		settle(m, m->disks[i]);
	settle(m, m->rng);
	settle(m, m->vsock);
	for (unsigned i = 0; i < m->config->nnets; i++)
		settle(m, m->nets[i]);
	device_quiet(m);
}

static void quiet(struct loop_msg *msg)
{
	struct machine *m = container_of(msg, struct machine, pause.quiet);

	m->pause.settling = false;
	if (m->end.waits)
		machine_settled(m);
	else
		m->pause.paused(m->pause.ctx);
}

/* ---- from outside ---- */

void machine_pause(struct machine *m, void (*paused)(void *ctx), void *ctx)
{
	struct machine_pause *p = &m->pause;

	p->paused = paused;
	p->ctx = ctx;
	AUTOLOCK(&p->lock);
	p->wanted = true;
	p->left = m->config->cpus - p->gone;
	for (unsigned i = 0; i < m->config->cpus; i++) {
		m->vcpus[i]->parked = false;
		vcpu_pause(m->vcpus[i]);
	}
}

void machine_resume(struct machine *m)
{
	struct machine_pause *p = &m->pause;

	for (unsigned i = 0; i < p->nheld; i++)
		virtio_transport_resume(p->held[i]);
	p->nheld = 0;
	/* switches forget who is silent for minutes */
	for (unsigned i = 0; i < m->config->nnets; i++)
		virtio_net_announce(m->net_devs[i]);
	AUTOLOCK(&p->lock);
	p->wanted = false;
	pthread_cond_broadcast(&p->go);
}

void machine_pause_init(struct machine *m)
{
	pthread_mutex_init(&m->pause.lock, NULL);
	pthread_cond_init(&m->pause.go, NULL);
	m->pause.parked.fn = parked;
	m->pause.quiet.fn = quiet;
}

void machine_pause_fini(struct machine *m)
{
	pthread_cond_destroy(&m->pause.go);
	pthread_mutex_destroy(&m->pause.lock);
}
