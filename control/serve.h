/*
 * `lodge serve`: the table of VMs, each in a process of its own (`lodge vmm`), calls passed on.
 *
 * A VM in the table:
 *
 *   spawned --StartVm passed on--> starting --> running --StopVm--> stopping --> gone
 *                                     |            |  its process ends by itself  ^
 *                                     +- failed ---+------------------------------+
 *
 * Invariants
 *  1. A name is in the table from its StartVm until the kernel has reported the end of its process
 *     (pidfd) and its runtime directory is removed. What waits for that is answered then.
 *  2. The runtime directory is the only state: a new server finds the VMs there again. One
 * vm.XXXXXX for each VM, with the socket that its process listens on.
 *  3. Nothing here waits: each step is a callback of the loop.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_H
#define CONTROL_SERVE_H

#include "control/calls.h"
#include "control/start_config.h"
#include "control/storage_service.h"
#include "control/ttrpc/client.h"

#include <limits.h>
#include <sys/types.h>

#define SERVE_VMS_MAX 4096

/* How the process of a VM is made to end: each step when the one before did not help in its time.
 */
enum ladder {
	LADDER_NONE,
	LADDER_ASKED, /* StopVm is passed on */
	LADDER_TERM,
	LADDER_KILL,
	LADDER_STUCK, /* the kernel does not end it */
};

struct serve_vm {
	struct serve *serve;
	struct serve_vm *next, **at; /* at NULL: not in the table */
	char *name;		     /* NULL: found again, and not yet known */
	char dir[PATH_MAX];
	pid_t pid;
	int pidfd;
	bool ours; /* a child of this process */
	struct loop_op exit_op;
	struct ttrpc_client *client; /* NULL: its connection has ended */

	VmTools__Concierge__VmState state;
	VmTools__Concierge__VmInfo *info; /* from its own answer; NULL: not yet */
	struct err failed;		  /* the start has; told when the process is gone */
	struct calls starting, stopping;

	enum ladder ladder;
	struct loop_timer ladder_timer;
};

struct serve {
	struct loop *loop;
	struct background bg;
	struct ttrpc_server *server;
	struct storage_service storage;
	int listen_fd;
	const char *runtime_dir; /* absolute */
	int lock_fd;
	const char *log_level; /* of the VMs */
	const char *sandbox;   /* likewise */

	struct serve_vm *vms;
	unsigned nvms;
	unsigned finding; /* VMs that are being asked who they are */
	struct calls stop_all;
	struct loop_timer leave;
	bool ending;
	bool leave_vms;
};

/* ---- serve_vm.c: one VM ---- */

/* Spawns a process and passes the request on; `call` is answered with what becomes of it. */
void serve_vm_start(struct serve *serve, struct ttrpc_call *call,
		    const VmTools__Concierge__StartVmRequest *request);

/* Climbs the ladder, or goes on with it where it is. `timeout_ms` 0: the guest is not asked. */
void serve_vm_stop(struct serve_vm *vm, unsigned timeout_ms);

/* A VmInfo that borrows from the VM. */
void serve_vm_info(const struct serve_vm *vm, VmTools__Concierge__VmInfo *ret_info);

struct serve_vm *serve_vm_find(struct serve *serve, const char *name);

/* serve_vm.c for serve_find.c: what is the same for both ways to come by a VM. */
struct serve_vm *serve_vm_new(struct serve *serve);
int serve_vm_watch(struct serve_vm *vm, struct err *err);
int serve_vm_connect(struct serve_vm *vm, struct err *err);
int serve_vm_name(struct serve_vm *vm, const char *name);
void serve_vm_started(struct serve_vm *vm, const VmTools__Concierge__VmInfo *info);
void serve_vm_kill(struct serve_vm *vm);
/* The server ends, the VM stays: nobody waits for it any more. loop_free() and serve_vm_free()
 * follow. */
void serve_vm_leave(struct serve_vm *vm);
/* Before its process is known, or after its end. */
void serve_vm_free(struct serve_vm *vm);
/* The StartVm that makes `vm` say when it runs. */
int serve_vm_pass_start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request);

/* ---- serve_find.c ---- */

/* Takes the runtime directory over and finds the VMs in it; serve->finding counts those that have
 * not answered. */
int serve_find(struct serve *serve, struct err *err);

/* ---- serve.c ---- */

/* A VM has left the table, or has been found. */
void serve_progress(struct serve *serve);

#endif
