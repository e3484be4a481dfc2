/* The VM of this process. See control/vm/vm.h. */
#include "control/vm/vm.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/vm/start_config.h"
#include "vmm/kvm.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define NS_PER_MS UINT64_C(1000000)

struct vm {
	struct loop *loop;
	struct background *bg;
	struct sandbox *sandbox;
	const struct uart_sink *console;
	struct vm_callbacks callbacks;
	enum vm_state state;

	struct machine_config config;
	struct machine *machine;
	const VmTools__Concierge__StartVmRequest *request;
	bool has_identity;
	struct identity identity;   /* with whose rights it is made */
	struct background_job make; /* while it runs, config and machine are its thread's */
	struct err err;

	uint64_t started_ns;
	bool pausing; /* while it runs, or stops */
	/* the loop's thread enters the sandbox, while the other waits */
	pthread_t thread;
	struct loop_msg lock_in;
	sem_t locked_in;

	bool stop_wanted; /* while it starts */
	uint64_t stop_deadline_ns;
	struct loop_timer stop_timer;

	enum machine_event event;
	char reason[ERR_MSG_MAX];
	struct loop_msg ended_msg;
};

/* ---- the end ------------------------------------------------------------------------------------
 */

/* Outside the machine's own callback, so that it can be freed. */
static void vm_over(struct loop_msg *m)
{
	struct vm *vm = container_of(m, struct vm, ended_msg);

	loop_timer_disarm(vm->loop, &vm->stop_timer);
	machine_free(vm->machine);
	vm->machine = NULL;
	vm->state = VM_ENDED;
	vm->callbacks.ended(vm->callbacks.ctx, vm->event, vm->reason);
}

static void vm_machine_ended(void *ctx, enum machine_event event, const char *reason)
{
	struct vm *vm = ctx;

	vm->event = event;
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	loop_defer(vm->loop, &vm->ended_msg);
}

static void vm_stop_now(struct loop_timer *t)
{
	struct vm *vm = container_of(t, struct vm, stop_timer);

	if (vm->machine && !vm->ended_msg.queued)
		machine_stop(vm->machine);
}

void vm_stop(struct vm *vm, unsigned timeout_ms)
{
	uint64_t deadline_ns = loop_now_ns() + timeout_ms * NS_PER_MS;

	if (vm->state == VM_STARTING) {
		vm->stop_wanted = true;
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
			machine_power_button(vm->machine);
	}
	vm->stop_deadline_ns = MIN(vm->stop_deadline_ns, deadline_ns);
	loop_timer_arm(vm->loop, &vm->stop_timer, vm->stop_deadline_ns);
}

uint32_t vm_cid(const struct vm *vm)
{
	return vm->machine ? machine_cid(vm->machine) : 0;
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

/* ---- the start ----------------------------------------------------------------------------------
 */

static void vm_lock_in_loop(struct loop_msg *m)
{
	struct vm *vm = container_of(m, struct vm, lock_in);

	(void)sandbox_enter(vm->sandbox, THREAD_CONTROL, &vm->err);
	sem_post(&vm->locked_in);
}

/* First the loop's thread: from then on no thread is free while this one reads the kernel. */
static int vm_lock_in(void *ctx, struct err *err)
{
	struct vm *vm = ctx;

	if (!pthread_equal(pthread_self(), vm->thread)) {
		loop_post(vm->loop, &vm->lock_in);
		while (sem_wait(&vm->locked_in))
			;
		if (vm->err.code)
			return -vm->err.code;
	}
	return sandbox_enter(vm->sandbox, THREAD_CONTROL, err);
}

static void vm_make_machine(struct vm *vm)
{
	const struct machine_callbacks callbacks = {.ended = vm_machine_ended,
						    .lock_in = vm_lock_in,
						    .ctx = vm,
						    .threads = sandbox_threads(vm->sandbox)};

	if (start_config(vm->request, &vm->config, &vm->err))
		return;
	(void)machine_new(&vm->config, vm->loop, vm->console, &callbacks, &vm->machine, &vm->err);
}

/* All files are opened with the rights of the one who asks, but KVM's device, which is ours. */
static void vm_make(struct background_job *job)
{
	struct vm *vm = container_of(job, struct vm, make);
	struct identity before;
	autofd int kvm_fd = -1;

	if (vm->err.code)
		return;
	if (!vm->has_identity) {
		vm_make_machine(vm);
		return;
	}
	kvm_fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	vm->config.kvm_fd = kvm_fd < 0 ? 0 : kvm_fd; /* then machine_new() says why */
	if (!identity_assume(&vm->identity, &before, &vm->err))
		vm_make_machine(vm);
	/* this thread has done its work, and may no more change who it is */
	if (sandbox_entered(vm->sandbox))
		identity_fini(&before);
	else
		identity_resume(&before);
	vm->config.kvm_fd = 0;
}

static void vm_made(struct background_job *job)
{
	struct vm *vm = container_of(job, struct vm, make);

	if (!vm->err.code && vm->stop_wanted)
		err_set(&vm->err, ECANCELED, "it was stopped while it was starting");
	if (!vm->err.code)
		machine_start(vm->machine);
	vm->request = NULL;
	vm->stop_wanted = false;
	identity_fini(&vm->identity);
	vm->has_identity = false;
	if (vm->err.code) {
		machine_free(vm->machine);
		vm->machine = NULL;
		machine_config_fini(&vm->config);
		vm->state = VM_IDLE;
	} else {
		vm->state = VM_RUNNING;
		vm->started_ns = loop_now_ns();
	}
	vm->callbacks.started(vm->callbacks.ctx, &vm->err);
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
	background_run(vm->bg, &vm->make);
}

/* ---- the rest -----------------------------------------------------------------------------------
 */

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
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

int vm_new(struct loop *loop, struct background *bg, struct sandbox *sandbox,
	   const struct uart_sink *console, const struct vm_callbacks *callbacks,
	   struct vm **ret_vm)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -ENOMEM;
	vm->loop = loop;
	vm->bg = bg;
	vm->sandbox = sandbox;
	vm->lock_in.fn = vm_lock_in_loop;
	sem_init(&vm->locked_in, 0, 0);
	vm->console = console;
	vm->callbacks = *callbacks;
	vm->make.work = vm_make;
	vm->make.done = vm_made;
	vm->stop_timer.fn = vm_stop_now;
	vm->ended_msg.fn = vm_over;
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
