/*
 * What `lodge vmm` serves: the concierge's calls for the one VM that this process becomes.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_VM_VMM_SERVICE_H
#define CONTROL_VM_VMM_SERVICE_H

#include "control/access/access.h"
#include "control/agent/relay.h"
#include "control/calls.h"
#include "control/events.h"
#include "control/storage/service.h"
#include "control/vm/console.h"
#include "control/vm/end.h"
#include "control/vm/vm.h"

struct vmm_setup {
	struct loop *loop;
	struct access *access; /* outlives the service, as all here */
	/* with whose rights files are opened where root or our own user starts the VM; NULL: with
	 * ours */
	const struct identity *files_of;
	const char *storage_root; /* NULL: none */
	const char *vsock_socket; /* of the built-in vsock device; NULL: none */
	const char *component_root;
	struct sandbox *sandbox; /* entered when a VM starts */
};

struct vmm_service {
	struct loop *loop;
	struct access *access;
	const struct identity *files_of;
	struct background bg;
	struct vm *vm;
	struct sandbox *sandbox;
	struct vm_console *console;
	int statm_fd; /* for the memory that this process takes */
	struct ttrpc_server *server;
	struct storage_service storage;

	char *name; /* of the VM, from StartVm on */
	struct calls starting;
	struct ttrpc_call *first; /* whose request is being worked on; not among `starting` */
	struct calls stopping, stopping_all, waiting, pausing, resuming;
	struct events events;
	struct relay relay;
	uint64_t began_ns;

	bool booted;		   /* a guest has run */
	char container_subnet[20]; /* from then on; "": none */

	/* the end; then the loop stops */
	bool ended;
	bool stop_called; /* by StopVm */
	bool asked;	  /* by a signal, or, when it has ended, by StopVm */
	struct vm_end end;
	struct loop_timer leave;
	struct loop_timer idle;
};

/* Takes the loop over, also on failure. */
int vmm_service_new(const struct vmm_setup *setup, struct vmm_service **ret_service,
		    struct err *err);

/* The VM is asked to end; without one the loop stops. Asked again: at once. */
void vmm_service_stop(struct vmm_service *s);

/* The loop stops when there is no VM by then. 0: never. */
void vmm_service_idle_timeout(struct vmm_service *s, unsigned seconds);

/* After loop_run(): nobody is served any more. Frees the loop as well, and gives work in the
 * background some seconds to end. */
void vmm_service_free(struct vmm_service *s);

#endif
