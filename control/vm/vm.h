/*
 * The VM of this process: made and started in the background, stopped by the ladder.
 *
 *   idle --start--> starting --> booting --> running --stop, or the guest--> (stopping) --> ended
 *     ^                |            |          | ^ pause, resume
 *     +---- failed ----+------------+          v |
 *                                             paused
 *
 * The guest runs from `booting` on; then the agent in it is waited for, where it is expected, and
 * mounts the disks.
 *
 * Invariants
 *  1. vm_start() is followed by `started` exactly once, and after a success by `ended` exactly
 *     once, never from inside a call. When `ended` comes, the machine is gone: its disks are
 *     closed and unlocked. So it is when `started` tells of a failure.
 *  2. A stop while it starts is kept: the start fails, or the machine ends at once.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_VM_VM_H
#define CONTROL_VM_VM_H

#include "control/access/identity.h"
#include "control/agent/guest.h"
#include "control/background.h"
#include "control/sandbox/sandbox.h"
#include "proto/vm_concierge.pb-c.h"
#include "vmm/machine.h"

#define VM_STOP_TIMEOUT_MS 8000 /* the guest's own shutdown, and its exit */

enum vm_state {
	VM_IDLE,
	VM_STARTING, /* it is made, by another thread */
	VM_BOOTING,
	VM_RUNNING,
	VM_PAUSED,
	VM_STOPPING, /* it has been asked to end */
	VM_ENDED,
};

struct vm_callbacks {
	/* The guest runs; `started` follows. */
	void (*booting)(void *ctx);
	/* Of the connection to the agent: see guest_callbacks. */
	void (*guest_leaving)(void *ctx);
	/* err->code 0: it runs. Otherwise it is idle again, and the message says why. */
	void (*started)(void *ctx, const struct err *err);
	/* After vm_pause(), unless it is stopped, or ends, before. */
	void (*paused)(void *ctx);
	/* `reason` is valid during the call. */
	void (*ended)(void *ctx, enum machine_event event, const char *reason);
	void *ctx;
};

struct vm;

/* All of it outlives the VM. */
struct vm_setup {
	struct loop *loop;
	struct background *bg;
	/* entered, on the loop's thread as well, when the VM has opened all that it needs */
	struct sandbox *sandbox;
	/* gets the output of the serial port, from machine_new() to `ended` */
	const struct uart_sink *console;
	/* where the built-in vsock device listens, for the host's programs; NULL: nowhere */
	const char *vsock_socket;
	const char *component_root; /* of start_termina */
};

int vm_new(const struct vm_setup *setup, const struct vm_callbacks *callbacks, struct vm **ret_vm);

/* Idle only. `request` lives until `started`. `identity`: with whose rights the files that it names
 * are opened (copied); NULL: with ours. */
void vm_start(struct vm *vm, const VmTools__Concierge__StartVmRequest *request,
	      const struct identity *identity);

/*
 * Asks the agent in the guest to shut it down, or presses the power button where none answers or
 * the guest goes on, and stops the machine when `timeout_ms` have passed; 0: stops it at once.
 * Asked again, the earlier end counts. Does nothing unless it starts or runs.
 */
void vm_stop(struct vm *vm, unsigned timeout_ms);

/* Running only; done when `paused` is called. Asked again meanwhile: nothing more. */
void vm_pause(struct vm *vm);
/* Paused only. A stop resumes it as well: the guest is to shut down. */
void vm_resume(struct vm *vm);
/* Between the two: it still counts as running. */
bool vm_pausing(const struct vm *vm);

enum vm_state vm_state(const struct vm *vm);

/* Between `booting` and `ended`; NULL when it has ended already. */
struct machine *vm_machine(const struct vm *vm);

/* When the guest began, as loop_now_ns(). */
uint64_t vm_started_ns(const struct vm *vm);

/* What it is made of, from `booting` on. */
const struct machine_config *vm_config(const struct vm *vm);

/* The host's side of its interfaces. Likewise. */
struct networks *vm_networks(struct vm *vm);

/* The guest's vsock context id; 0: it has no vsock, or does not run. */
uint32_t vm_cid(const struct vm *vm);

/* The agent in it: for calls to it. */
struct guest *vm_guest(struct vm *vm);

/* After loop_run(); not while it is starting or running. NULL is accepted. */
void vm_free(struct vm *vm);

#endif
