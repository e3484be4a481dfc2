/*
 * The VMs of `lodge serve`: a table of processes, each a `lodge vmm` that is one VM.
 *
 *   spawned --StartVm passed on--> starting --> running <--> paused --StopVm--> stopping --> gone
 *                                     |            |  its process ends by itself  ^
 *                                     +- failed ---+------------------------------+
 *
 * Invariants
 *  1. A name is in the table from its StartVm until the kernel has reported the end of its process
 *     (pidfd) and its runtime directory is removed. What waits for that is answered then.
 *  2. The runtime directory is the only state: a new server finds the VMs there again. One
 *     vm.XXXXXX for each VM, with the socket that its process listens on.
 *  3. Nothing here waits: each step is a callback of the loop.
 *  4. The table knows nothing of who uses it but its ops.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_VM_H
#define CONTROL_SERVE_VM_H

#include "control/access/identity.h"
#include "control/calls.h"
#include "control/ttrpc/client.h"
#include "control/vm/end.h"

#include <limits.h>
#include <sys/types.h>

#define SERVE_CONCIERGE "vm_tools.concierge.VmConcierge"
#define SERVE_VMS	"lodge.v1.Vms"

struct serve_vm;

struct vm_table_ops {
	/* It has another state. */
	void (*changed)(void *ctx, const struct serve_vm *vm);
	/* Its process has ended and nothing of it is left; `end` says how. It is freed
	 * next. Not of a process that never had a name. */
	void (*gone)(void *ctx, struct serve_vm *vm);
	/* One has left the table, has been found, or is stuck. */
	void (*progress)(void *ctx);
};

struct vm_table {
	struct loop *loop;
	const struct vm_table_ops *ops;
	void *ctx;
	const char *runtime_dir; /* absolute */
	const char *component_root;
	const char *log_level; /* of the VMs */
	bool sandbox;	       /* likewise */

	struct serve_vm *vms;
	unsigned nvms;
	unsigned finding; /* VMs that are being asked who they are */
};

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
	struct vm_table *table;
	struct serve_vm *next, **at;
	char *name; /* NULL: found again, and not yet known */
	char dir[PATH_MAX];
	pid_t pid;
	int pidfd;
	bool ours; /* a child of this process */
	struct loop_op exit_op;
	struct ttrpc_client *client; /* NULL: its connection has ended */

	VmTools__Concierge__VmState state;
	VmTools__Concierge__VmInfo *info; /* from its own answer; NULL: not yet */
	bool ran;
	bool is_listening; /* to its events */
	struct err failed; /* the start has; told when the process is gone */
	struct calls starting, stopping;
	struct calls waiting; /* WaitVm; of the table's user */

	enum ladder ladder;
	struct loop_timer ladder_timer;

	/* how it has ended */
	bool has_exited;
	struct loop_timer last_words; /* how long a dead one's are waited for */
	bool has_end;		      /* it said itself */
	struct vm_end end;
};

struct serve_vm *vm_table_find(const struct vm_table *table, const char *name);

/* Does any VM still climb down? One that the kernel does not end is not waited for. */
bool vm_table_stopping(const struct vm_table *table);

/* The server ends, the VMs stay: nobody waits for them any more. loop_free() and vm_table_free()
 * follow. */
void vm_table_leave(struct vm_table *table);
void vm_table_free(struct vm_table *table);

/*
 * Spawns a process and passes the request on; `call` is answered with what becomes of it.
 * `identity`: with whose rights the process opens the files of the request; NULL: with ours.
 */
void serve_vm_start(struct vm_table *table, struct ttrpc_call *call,
		    const VmTools__Concierge__StartVmRequest *request,
		    const struct identity *identity);

/* Climbs the ladder, or goes on with it where it is. `timeout_ms` 0: the guest is not asked. */
void serve_vm_stop(struct serve_vm *vm, unsigned timeout_ms);

/* A VmInfo that borrows from the VM. */
void serve_vm_info(const struct serve_vm *vm, VmTools__Concierge__VmInfo *ret_info);

/* A further connection to its process, for one call alone. Errors as of connect(2). */
int serve_vm_open(const struct serve_vm *vm, void (*closed)(void *ctx), void *ctx,
		  struct ttrpc_client **ret_client, struct err *err);

/* ---- for find.c: what is the same for both ways to come by a VM ---- */

struct serve_vm *serve_vm_new(struct vm_table *table);
int serve_vm_watch(struct serve_vm *vm, struct err *err);
int serve_vm_connect(struct serve_vm *vm, struct err *err);
int serve_vm_name(struct serve_vm *vm, const char *name);
void serve_vm_started(struct serve_vm *vm, const VmTools__Concierge__VmInfo *info);
void serve_vm_kill(struct serve_vm *vm);
/* Before its process is known, or after its end. */
void serve_vm_free(struct serve_vm *vm);
/* The StartVm that makes `vm` say when it runs. */
int serve_vm_pass_start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request);

#endif
