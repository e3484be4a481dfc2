/* The VM of this process. See control/vm/vm.h. */
#include "control/vm/vm.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/agent/boot.h"
#include "control/network/networks.h"
#include "control/share/share.h"
#include "control/vm/start_config.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define NS_PER_MS UINT64_C(1000000)

/* Of the time that the guest has, what its agent may take before the power button is tried as well.
 */
#define BUTTON_AFTER_PERCENT 75

struct vm {
	struct vm_setup setup;
	struct vm_callbacks callbacks;
	enum vm_state state;

	struct machine_config config;
	struct networks networks;
	struct shares *shares; /* NULL: none */
	struct machine *machine;
	const VmTools__Concierge__StartVmRequest *request;
	bool has_identity;
	struct identity identity;   /* with whose rights it is made */
	struct identity ours;	    /* meanwhile */
	struct background_job make; /* while it runs, config and machine are its thread's */
	struct err err;

	uint64_t started_ns;
	bool pausing; /* while it runs, or stops */
	/* the loop's thread enters the sandbox, while the other waits */
	pthread_t thread;
	struct loop_msg lock_in;
	sem_t locked_in;

	struct guest guest;
	struct boot boot;

	bool stop_wanted; /* while it starts */
	uint64_t stop_deadline_ns;
	struct loop_timer stop_timer, button_timer;

	enum machine_event event;
	char reason[ERR_MSG_MAX];
	struct loop_msg ended_msg;
};

/* ---- the end ------------------------------------------------------------------------------------
 */

/* The start has failed, and nothing of it is left. */
static void vm_failed(struct vm *vm)
{
	shares_free(steal_ptr(&vm->shares));
	networks_free(&vm->networks);
	machine_config_fini(&vm->config);
	vm->state = VM_IDLE;
	vm->callbacks.started(vm->callbacks.ctx, &vm->err);
}

/* Outside the machine's own callback, so that it can be freed. */
static void vm_over(struct loop_msg *m)
{
	struct vm *vm = container_of(m, struct vm, ended_msg);

	loop_timer_disarm(vm->setup.loop, &vm->stop_timer);
	loop_timer_disarm(vm->setup.loop, &vm->button_timer);
	boot_end(&vm->boot);
	guest_detach(&vm->guest);
	machine_free(vm->machine);
	vm->machine = NULL;
	if (vm->state == VM_BOOTING) {
		if (!vm->err.code)
			err_set(&vm->err, EIO, "the guest ended before it was ready: %s",
				vm->reason);
		vm_failed(vm);
		return;
	}
	shares_free(steal_ptr(&vm->shares));
	networks_free(&vm->networks);
	vm->state = VM_ENDED;
	vm->callbacks.ended(vm->callbacks.ctx, vm->event, vm->reason);
}

static void vm_machine_ended(void *ctx, enum machine_event event, const char *reason)
{
	struct vm *vm = ctx;

	vm->event = event;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	loop_defer(vm->setup.loop, &vm->ended_msg);
}

static void vm_halt(struct vm *vm)
{
	if (vm->machine && !vm->ended_msg.queued)
		machine_stop(vm->machine);
}

static void vm_stop_now(struct loop_timer *t)
{
	vm_halt(container_of(t, struct vm, stop_timer));
}

static void vm_press_button(struct loop_timer *t)
{
	struct vm *vm = container_of(t, struct vm, button_timer);

	if (vm->machine && !vm->ended_msg.queued)
		machine_power_button(vm->machine);
}

static void vm_guest_refused(void *ctx)
{
	vm_press_button(&((struct vm *)ctx)->button_timer);
}

/* The first rung of the ladder. */
static void vm_ask_guest(struct vm *vm, unsigned timeout_ms)
{
	if (guest_shutdown(&vm->guest, vm_guest_refused))
		loop_timer_arm(vm->setup.loop, &vm->button_timer,
			       loop_now_ns() + timeout_ms * NS_PER_MS / 100 * BUTTON_AFTER_PERCENT);
	else
		machine_power_button(vm->machine);
}

/* The start fails with vm->err, when the machine has ended. */
static void vm_give_up(struct vm *vm)
{
	boot_end(&vm->boot);
	vm_halt(vm);
}

void vm_stop(struct vm *vm, unsigned timeout_ms)
{
	uint64_t deadline_ns = loop_now_ns() + timeout_ms * NS_PER_MS;

	if (vm->state == VM_STARTING) {
		vm->stop_wanted = true;
		return;
	}
	if (vm->state == VM_BOOTING) {
		if (!vm->err.code)
			err_set(&vm->err, ECANCELED, "it was stopped while it was starting");
		vm_give_up(vm);
		return;
	}
	if (vm->state == VM_PAUSED && timeout_ms)
		vm_resume(vm);
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED && vm->state != VM_STOPPING)
		return;
	if (vm->state != VM_STOPPING) {
		vm->state = VM_STOPPING;
		vm->stop_deadline_ns = deadline_ns;
		if (timeout_ms)
			vm_ask_guest(vm, timeout_ms);
	}
	vm->stop_deadline_ns = MIN(vm->stop_deadline_ns, deadline_ns);
	loop_timer_arm(vm->setup.loop, &vm->stop_timer, vm->stop_deadline_ns);
}

/* ---- pausing ------------------------------------------------------------------------------------
 */

static void vm_paused(void *ctx)
{
	struct vm *vm = ctx;

	vm->pausing = false;
	if (vm->state != VM_RUNNING) { /* it is to stop: the guest has to see the button */
		machine_resume(vm->machine);
		return;
	}
	vm->state = VM_PAUSED;
	vm->callbacks.paused(vm->callbacks.ctx);
}

void vm_pause(struct vm *vm)
{
	assert(vm->state == VM_RUNNING);
	if (vm->pausing || vm->ended_msg.queued)
		return;
	vm->pausing = true;
	machine_pause(vm->machine, vm_paused, vm);
}

void vm_resume(struct vm *vm)
{
	assert(vm->state == VM_PAUSED);
	vm->state = VM_RUNNING;
	if (!vm->ended_msg.queued)
		machine_resume(vm->machine);
}

bool vm_pausing(const struct vm *vm)
{
	return vm->pausing;
}

/* ---- the guest's part of the start --------------------------------------------------------------
 */

static void vm_up(struct vm *vm)
{
	struct err none = ERR_INIT;

	vm->request = NULL;
	vm->state = VM_RUNNING;
	vm->callbacks.started(vm->callbacks.ctx, &none);
}

static void vm_booted(void *ctx, const struct err *err)
{
	struct vm *vm = ctx;

	if (!err->code) {
		vm_up(vm);
		return;
	}
	vm->err = *err;
	vm_give_up(vm);
}

static void vm_shares_changed(void *ctx)
{
	boot_shares_changed(&((struct vm *)ctx)->boot);
}

static void vm_agent_ready(void *ctx)
{
	boot_agent_ready(&((struct vm *)ctx)->boot);
}

static void vm_guest_leaving(void *ctx)
{
	const struct vm_callbacks *c = &((struct vm *)ctx)->callbacks;

	c->guest_leaving(c->ctx);
}

/* From here on the guest runs. */
static void vm_boot(struct vm *vm)
{
	vm->state = VM_BOOTING;
	vm->started_ns = loop_now_ns();
	guest_attach(&vm->guest, vm->machine, vm->config.agent_token);
	if (boot_wanted(&vm->config))
		boot_begin(&vm->boot, vm->setup.loop, &vm->guest, &vm->config, vm->shares,
			   vm->request->start_timeout_ms, vm_booted, vm);
	networks_watch(&vm->networks, vm->machine, vm->setup.loop);
	shares_watch(vm->shares, vm->setup.loop, vm_shares_changed, vm);
	machine_start(vm->machine);
	vm->callbacks.booting(vm->callbacks.ctx);
	if (!vm->boot.guest)
		vm_up(vm);
}

static void vm_vsock_accepted(void *ctx, int fd)
{
	guest_said_ready(&((struct vm *)ctx)->guest, fd);
}

/* ---- the start ----------------------------------------------------------------------------------
 */

static void vm_lock_in_loop(struct loop_msg *m)
{
	struct vm *vm = container_of(m, struct vm, lock_in);

	(void)sandbox_enter(vm->setup.sandbox, THREAD_CONTROL, &vm->err);
	sem_post(&vm->locked_in);
}

/* First the loop's thread: from then on no thread is free while this one reads the kernel. */
static int vm_lock_in(void *ctx, struct err *err)
{
	struct vm *vm = ctx;

	if (!pthread_equal(pthread_self(), vm->thread)) {
		loop_post(vm->setup.loop, &vm->lock_in);
		while (sem_wait(&vm->locked_in))
			;
		if (vm->err.code)
			return -vm->err.code;
	}
	return sandbox_enter(vm->setup.sandbox, THREAD_CONTROL, err);
}

/* Devices of the host are ours to open, files are the other's. */
static int vm_as_host(void *ctx, bool on, struct err *err)
{
	struct vm *vm = ctx;

	if (!vm->has_identity)
		return 0;
	if (!on)
		return identity_assume(&vm->identity, &vm->ours, err);
	identity_resume(&vm->ours);
	return 0;
}

/* Ports that the host keeps to root are not given to another by us. */
static int vm_check_forwards(struct vm *vm)
{
	for (unsigned i = 0; i < vm->config.nnets; i++) {
		const struct machine_net *net = &vm->config.nets[i];

		for (unsigned j = 0; j < net->nforwards; j++) {
			if (net->forwards[j].host_port < IPPORT_RESERVED)
				return err_set(&vm->err, EPERM,
					       "forward=: port %u of the host is root's to give; "
					       "take one from %d up",
					       net->forwards[j].host_port, IPPORT_RESERVED);
		}
	}
	return 0;
}

static void vm_make_machine(struct vm *vm)
{
	const struct machine_callbacks callbacks = {.ended = vm_machine_ended,
						    .lock_in = vm_lock_in,
						    .as_host = vm_as_host,
						    .vsock_port = READY_PORT,
						    .vsock_accepted = vm_vsock_accepted,
						    .ctx = vm,
						    .threads = sandbox_threads(vm->setup.sandbox)};

	const struct networks_rights rights = {.as_host = vm_as_host, .ctx = vm};
	const struct shares_rights share_rights = {
	    .as_host = vm_as_host,
	    .ctx = vm,
	    .uid = vm->has_identity ? vm->identity.uid : 0,
	    .gid = vm->has_identity ? vm->identity.gid : 0,
	};

	if (start_config(vm->request, vm->setup.vsock_socket, vm->setup.component_root, &vm->config,
			 &vm->err) ||
	    (vm->has_identity && vm->identity.uid && vm_check_forwards(vm)) ||
	    shares_check(&vm->config, &vm->err) ||
	    networks_open(&vm->networks, &vm->config, &rights, &vm->err) ||
	    shares_open(&vm->config, &share_rights, &vm->shares, &vm->err))
		return;
	(void)machine_new(&vm->config, vm->setup.loop, vm->setup.console, &callbacks, &vm->machine,
			  &vm->err);
}

/* All files are opened with the rights of the one who asks. */
static void vm_make(struct background_job *job)
{
	struct vm *vm = container_of(job, struct vm, make);

	if (vm->err.code)
		return;
	if (!vm->has_identity) {
		vm_make_machine(vm);
		return;
	}
	if (!identity_assume(&vm->identity, &vm->ours, &vm->err))
		vm_make_machine(vm);
	/* this thread has done its work, and may no more change who it is */
	if (sandbox_entered(vm->setup.sandbox))
		identity_fini(&vm->ours);
	else
		identity_resume(&vm->ours);
}

static void vm_made(struct background_job *job)
{
	struct vm *vm = container_of(job, struct vm, make);

	if (!vm->err.code && vm->stop_wanted)
		err_set(&vm->err, ECANCELED, "it was stopped while it was starting");
	vm->stop_wanted = false;
	identity_fini(&vm->identity);
	vm->has_identity = false;
	if (!vm->err.code) {
		vm_boot(vm);
		return;
	}
	machine_free(vm->machine);
	vm->machine = NULL;
	vm_failed(vm);
}

void vm_start(struct vm *vm, const VmTools__Concierge__StartVmRequest *request,
	      const struct identity *identity)
{
	assert(vm->state == VM_IDLE);
	vm->state = VM_STARTING;
	vm->thread = pthread_self();
	vm->request = request;
	vm->err = (struct err)ERR_INIT;
	machine_config_init(&vm->config);
	vm->has_identity = identity != NULL;
	if (identity && identity_copy(identity, &vm->identity))
		err_set(&vm->err, ENOMEM, "out of memory");
	background_run(vm->setup.bg, &vm->make);
}

/* ---- the rest -----------------------------------------------------------------------------------
 */

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
}

uint32_t vm_cid(const struct vm *vm)
{
	return vm->machine ? machine_cid(vm->machine) : 0;
}

struct machine *vm_machine(const struct vm *vm)
{
	return vm->ended_msg.queued ? NULL : vm->machine;
}

uint64_t vm_started_ns(const struct vm *vm)
{
	return vm->started_ns;
}

const struct machine_config *vm_config(const struct vm *vm)
{
	return &vm->config;
}

struct networks *vm_networks(struct vm *vm)
{
	return &vm->networks;
}

struct guest *vm_guest(struct vm *vm)
{
	return &vm->guest;
}

int vm_new(const struct vm_setup *setup, const struct vm_callbacks *callbacks, struct vm **ret_vm)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	const struct guest_callbacks guest_callbacks = {
	    .ready = vm_agent_ready, .leaving = vm_guest_leaving, .ctx = vm};

	if (!vm)
		return -ENOMEM;
	vm->setup = *setup;
	vm->lock_in.fn = vm_lock_in_loop;
	sem_init(&vm->locked_in, 0, 0);
	vm->callbacks = *callbacks;
	vm->make.work = vm_make;
	vm->make.done = vm_made;
	vm->stop_timer.fn = vm_stop_now;
	vm->button_timer.fn = vm_press_button;
	vm->ended_msg.fn = vm_over;
	guest_init(&vm->guest, setup->loop, &guest_callbacks);
	*ret_vm = vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	assert(!vm->machine);
	if (vm->state != VM_IDLE)
		machine_config_fini(&vm->config);
	sem_destroy(&vm->locked_in);
	free(vm);
}
