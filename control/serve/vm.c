/* One VM of `lodge serve`: its process from spawn to exit. See control/serve/vm.h. */
#include "control/serve/vm.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/command.h"
#include "control/serve/spawn.h"
#include "control/unix_socket.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define ASK_MS	  3000 /* beyond the guest's own time: the machine is stopped and unmade */
#define TERM_MS	  2000
#define KILL_MS	  5000
/* What a process wrote before it ended can be read when the kernel closes its sockets: soon. */
#define LAST_WORDS_MS 1000

#define STATE(name) VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_##name
#define END(name)   LODGE__V1__VM_END__VM_END_##name

/* ---- the table ----------------------------------------------------------------------------------
 */

struct serve_vm *vm_table_find(const struct vm_table *table, const char *name)
{
	for (struct serve_vm *vm = table->vms; vm; vm = vm->next) {
		if (vm->name && !strcmp(vm->name, name))
			return vm;
	}
	return NULL;
}

bool vm_table_stopping(const struct vm_table *table)
{
	for (const struct serve_vm *vm = table->vms; vm; vm = vm->next) {
		if (vm->ladder != LADDER_NONE && vm->ladder != LADDER_STUCK)
			return true;
	}
	return false;
}

static void exit_ready(struct loop_op *op, int res);
static void ladder_late(struct loop_timer *t);
static void last_words_late(struct loop_timer *t);

struct serve_vm *serve_vm_new(struct vm_table *table)
{
	struct serve_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->table = table;
	vm->pidfd = -1;
	vm->state = STATE(STARTING);
	vm->exit_op.done = exit_ready;
	vm->ladder_timer.fn = ladder_late;
	vm->last_words.fn = last_words_late;
	vm->next = table->vms;
	vm->at = &table->vms;
	if (vm->next)
		vm->next->at = &vm->next;
	table->vms = vm;
	table->nvms++;
	return vm;
}

int serve_vm_name(struct serve_vm *vm, const char *name)
{
	vm->name = strdup(name);
	return vm->name ? 0 : -ENOMEM;
}

void serve_vm_free(struct serve_vm *vm)
{
	struct vm_table *table = vm->table;

	loop_timer_disarm(table->loop, &vm->ladder_timer);
	loop_timer_disarm(table->loop, &vm->last_words);
	ttrpc_client_close(vm->client);
	cleanup_fd(&vm->pidfd);
	*vm->at = vm->next;
	if (vm->next)
		vm->next->at = vm->at;
	table->nvms--;
	if (vm->info)
		pb_free(&vm->info->base);
	free(vm->name);
	free(vm);
}

void serve_vm_info(const struct serve_vm *vm, VmTools__Concierge__VmInfo *info)
{
	if (vm->info)
		*info = *vm->info;
	else
		vm_tools__concierge__vm_info__init(info);
	/* what this process knows for itself */
	info->name = vm->name;
	info->pid = vm->pid;
	info->state = vm->state;
}

/* ---- the end of the process ---------------------------------------------------------------------
 */

static void vm_set_state(struct serve_vm *vm, VmTools__Concierge__VmState state)
{
	if (vm->state == state)
		return;
	vm->state = state;
	if (vm->name)
		vm->table->ops->changed(vm->table->ctx, vm);
}

/* What the kernel says of a process that said nothing itself. */
static void end_by_exit(struct serve_vm *vm)
{
	static const Lodge__V1__VmEnd ends[] = {
	    [LODGE_OK] = END(POWEROFF),
	    [LODGE_REBOOT] = END(REBOOT),
	    [LODGE_PANIC] = END(PANIC),
	    [LODGE_TRIPLE_FAULT] = END(CRASH),
	};
	bool stopped = vm->ladder != LADDER_NONE;
	const char *name;
	siginfo_t info = {0};
	char text[64];

	if (!vm->ours || waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED | WNOHANG) ||
	    !info.si_pid) {
		vm_end_failed(&vm->end, stopped ? END(STOPPED) : END(KILLED),
			      "its process has ended");
	} else if (info.si_code == CLD_EXITED) {
		Lodge__V1__VmEnd end = END(ERROR);

		if ((size_t)info.si_status < ARRAY_LEN(ends) && ends[info.si_status])
			end = ends[info.si_status];
		snprintf(text, sizeof(text), "its process has ended with status %d",
			 info.si_status);
		vm_end_failed(&vm->end, stopped ? END(STOPPED) : end, text);
		vm->end.exit_status = info.si_status;
	} else {
		name = sigabbrev_np(info.si_status);
		snprintf(text, sizeof(text), "its process was ended by SIG%s", name ? name : "?");
		vm_end_failed(&vm->end, stopped ? END(STOPPED) : END(KILLED), text);
	}
}

static void vm_gone(struct serve_vm *vm)
{
	struct vm_table *table = vm->table;
	siginfo_t info;
	struct ttrpc_call *call;

	if (vm->has_end && vm->ours)
		waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED | WNOHANG);
	else if (!vm->has_end)
		end_by_exit(vm);
	log_info("VM %s (%d): %s", vm->name ? vm->name : "?", vm->pid, vm->end.reason);
	err_set(&vm->failed, ECHILD, "VM '%s': %s", vm->name ? vm->name : "?", vm->end.reason);
	if (!vm->ran)
		vm_end_failed(&vm->end, END(START_FAILED), vm->failed.msg);
	serve_spawn_remove_dir(vm->dir);
	while ((call = calls_pop(&vm->starting)))
		reply_start_failed(call, vm->failed.msg);
	while ((call = calls_pop(&vm->stopping)))
		reply_stop(call, NULL);
	if (vm->name)
		table->ops->gone(table->ctx, vm);
	else if (table->finding)
		table->finding--;
	serve_vm_free(vm);
	table->ops->progress(table->ctx);
}

static void last_words_late(struct loop_timer *t)
{
	vm_gone(container_of(t, struct serve_vm, last_words));
}

static void exit_ready(struct loop_op *op, int res)
{
	struct serve_vm *vm = container_of(op, struct serve_vm, exit_op);

	if (res == -ECANCELED)
		return;
	vm->has_exited = true;
	if (vm->client && vm->ran && !vm->has_end)
		loop_timer_arm(vm->table->loop, &vm->last_words,
			       loop_now_ns() + LAST_WORDS_MS * NS_PER_MS);
	else
		vm_gone(vm);
}

int serve_vm_watch(struct serve_vm *vm, struct err *err)
{
	vm->pidfd = pidfd_open(vm->pid, 0);
	if (vm->pidfd < 0)
		return err_sys(err, errno, "pidfd_open of process %d", vm->pid);
	loop_poll(vm->table->loop, &vm->exit_op, vm->pidfd, POLLIN);
	return 0;
}

/* ---- the ladder ---------------------------------------------------------------------------------
 */

static void ladder_arm(struct serve_vm *vm, enum ladder step, unsigned ms)
{
	vm->ladder = step;
	loop_timer_arm(vm->table->loop, &vm->ladder_timer, loop_now_ns() + ms * NS_PER_MS);
}

static void ladder_late(struct loop_timer *t)
{
	struct serve_vm *vm = container_of(t, struct serve_vm, ladder_timer);
	struct ttrpc_call *call;
	struct err err = ERR_INIT;

	switch (vm->ladder) {
	case LADDER_NONE:
	case LADDER_ASKED:
		if (vm->pidfd >= 0)
			pidfd_send_signal(vm->pidfd, SIGTERM, NULL, 0);
		ladder_arm(vm, LADDER_TERM, TERM_MS);
		break;
	case LADDER_TERM:
		serve_vm_kill(vm);
		break;
	case LADDER_KILL:
	case LADDER_STUCK:
		vm->ladder = LADDER_STUCK;
		err_set(&err, ETIMEDOUT, "process %d of the VM '%s' does not end, even by SIGKILL",
			vm->pid, vm->name ? vm->name : "?");
		while ((call = calls_pop(&vm->starting)))
			reply_start_failed(call, err.msg);
		while ((call = calls_pop(&vm->stopping)))
			reply_stop(call, err.msg);
		vm->table->ops->progress(vm->table->ctx);
		break;
	}
}

void serve_vm_kill(struct serve_vm *vm)
{
	if (vm->pidfd >= 0)
		pidfd_send_signal(vm->pidfd, SIGKILL, NULL, 0);
	ladder_arm(vm, LADDER_KILL, KILL_MS);
}

/* The answer is the end of the process. */
static void stop_answered(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct serve_vm *vm = ctx;
	const VmTools__Concierge__StopVmResponse *r =
	    (const VmTools__Concierge__StopVmResponse *)reply;

	if (code == TTRPC_OK && r->success)
		return;
	log_debug("VM %s: StopVm: %s", vm->name, r ? r->failure_reason : text);
	/* it does not do it itself */
	if (vm->ladder == LADDER_ASKED)
		ladder_late(&vm->ladder_timer);
}

void serve_vm_stop(struct serve_vm *vm, unsigned timeout_ms)
{
	VmTools__Concierge__StopVmRequest request = VM_TOOLS__CONCIERGE__STOP_VM_REQUEST__INIT;
	const struct ttrpc_rpc rpc = {
	    .service = SERVE_CONCIERGE,
	    .method = "StopVm",
	    .request = &request.base,
	    .output = &vm_tools__concierge__stop_vm_response__descriptor,
	    .done = stop_answered,
	    .ctx = vm,
	};

	if (vm->ladder > LADDER_ASKED && vm->ladder != LADDER_STUCK)
		return;
	vm_set_state(vm, STATE(STOPPING));
	request.name = vm->name;
	request.timeout_ms = timeout_ms;
	request.force = !timeout_ms;
	if (vm->ladder == LADDER_STUCK || !vm->client || !vm->name ||
	    ttrpc_client_start(vm->client, &rpc, NULL)) {
		vm->ladder = LADDER_ASKED;
		ladder_late(&vm->ladder_timer);
		return;
	}
	/* asked again: the earlier end counts */
	if (vm->ladder == LADDER_NONE || !timeout_ms)
		ladder_arm(vm, LADDER_ASKED, timeout_ms + ASK_MS);
}

/* ---- the start ----------------------------------------------------------------------------------
 */

/* Its connection has ended; the pidfd tells what that means. */
static void client_gone(void *ctx)
{
	struct serve_vm *vm = ctx;

	ttrpc_client_close(vm->client);
	vm->client = NULL;
	if (vm->has_exited)
		vm_gone(vm);
}

int serve_vm_open(const struct serve_vm *vm, void (*closed)(void *ctx), void *ctx,
		  struct ttrpc_client **ret_client, struct err *err)
{
	char path[PATH_MAX];
	int fd, res;

	snprintf(path, sizeof(path), "%.*s/socket", (int)sizeof(path) - 16, vm->dir);
	res = unix_connect(path, &fd, err);
	if (res)
		return res;
	res = ttrpc_client_new(vm->table->loop, fd, closed, ctx, ret_client);
	return res ? err_set(err, ENOMEM, "out of memory") : 0;
}

int serve_vm_connect(struct serve_vm *vm, struct err *err)
{
	char path[PATH_MAX];
	int fd, res;

	snprintf(path, sizeof(path), "%.*s/socket", (int)sizeof(path) - 16, vm->dir);
	res = unix_connect(path, &fd, err);
	if (res)
		return res;
	if (!vm->pid)
		vm->pid = unix_peer_pid(fd);
	res = ttrpc_client_new(vm->table->loop, fd, client_gone, vm, &vm->client);
	return res ? err_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- what it says of itself ---------------------------------------------------------------------
 */

/* A change that it tells, or how it has ended, just before its process does. */
static void vm_event(void *ctx, const ProtobufCMessage *message)
{
	const Lodge__V1__VmEvent *event = (const Lodge__V1__VmEvent *)message;
	struct serve_vm *vm = ctx;

	if (event->initial_done)
		return;
	if (event->state == STATE(UNKNOWN)) {
		vm->has_end = true;
		vm_end_failed(&vm->end, event->end, event->reason);
		vm->end.exit_status = event->exit_status;
	} else if (vm->ladder == LADDER_NONE &&
		   (event->state == STATE(RUNNING) || event->state == STATE(PAUSED) ||
		    event->state == STATE(STOPPING))) {
		vm_set_state(vm, event->state);
	}
}

static void vm_events_end(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	const struct serve_vm *vm = ctx;

	(void)reply;
	if (code != TTRPC_OK && code != TTRPC_UNAVAILABLE)
		log_warn("control: VM %s: its events are not told: %s", vm->name, text);
}

static void vm_listen(struct serve_vm *vm)
{
	Lodge__V1__WatchEventsRequest request = LODGE__V1__WATCH_EVENTS_REQUEST__INIT;
	const struct ttrpc_rpc rpc = {
	    .service = SERVE_VMS,
	    .method = "WatchEvents",
	    .request = &request.base,
	    .output = &lodge__v1__vm_event__descriptor,
	    .server_stream = true,
	    .message = vm_event,
	    .done = vm_events_end,
	    .ctx = vm,
	};

	vm->is_listening = vm->client && !ttrpc_client_start(vm->client, &rpc, NULL);
	if (!vm->is_listening)
		log_warn("control: VM %s: its events are not told", vm->name);
}

void serve_vm_started(struct serve_vm *vm, const VmTools__Concierge__VmInfo *info)
{
	size_t len = protobuf_c_message_get_packed_size(&info->base);
	uint8_t *wire = malloc(len ? len : 1);
	ProtobufCMessage *copy = NULL;
	struct ttrpc_call *call;

	if (wire) {
		protobuf_c_message_pack(&info->base, wire);
		(void)pb_unpack(info->base.descriptor, wire, len, &copy, NULL);
		free(wire);
	}
	if (vm->info)
		pb_free(&vm->info->base);
	vm->info = (VmTools__Concierge__VmInfo *)copy;
	vm->ran = true;
	if (!vm->is_listening)
		vm_listen(vm);
	if (vm->ladder == LADDER_NONE)
		vm_set_state(vm, info->state == STATE(UNKNOWN) ? STATE(RUNNING) : info->state);
	while ((call = calls_pop(&vm->starting))) {
		VmTools__Concierge__VmInfo out;

		serve_vm_info(vm, &out);
		reply_started(call, &out);
	}
}

/* Nothing of a start that failed may be left when it is answered: the answer waits for the end of
 * the process, in exit_ready(). */
static void start_answered(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	const VmTools__Concierge__StartVmResponse *r =
	    (const VmTools__Concierge__StartVmResponse *)reply;
	struct serve_vm *vm = ctx;

	if (code == TTRPC_OK && r->success && r->vm_info) {
		serve_vm_started(vm, r->vm_info);
		return;
	}
	if (code == TTRPC_OK)
		err_set(&vm->failed, EINVAL, "%s", r->failure_reason);
	else if (code != TTRPC_UNAVAILABLE) /* then its exit says more */
		err_set(&vm->failed, EIO, "the VM's process: %s", text);
	vm_set_state(vm, STATE(STOPPING));
	serve_vm_kill(vm);
}

int serve_vm_pass_start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request)
{
	const struct ttrpc_rpc rpc = {
	    .service = SERVE_CONCIERGE,
	    .method = "StartVm",
	    .request = &request->base,
	    .output = &vm_tools__concierge__start_vm_response__descriptor,
	    .done = start_answered,
	    .ctx = vm,
	};

	int res = ttrpc_client_start(vm->client, &rpc, NULL);

	/* at once: it may end before it has answered */
	if (!res)
		vm_listen(vm);
	return res;
}

static int start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request,
		 const struct identity *identity, struct err *err)
{
	autofd int fd = -1;
	int res = serve_vm_name(vm, request->name);

	if (res)
		return err_set(err, ENOMEM, "out of memory");
	res = serve_spawn_dir(vm->table->runtime_dir, vm->dir, &fd, err);
	if (!res)
		res = serve_spawn(fd, vm->dir, vm->table->component_root, vm->table->log_level,
				  vm->table->sandbox, identity, &vm->pid, err);
	if (res)
		return res;
	vm->ours = true;
	res = serve_vm_watch(vm, err);
	if (!res)
		res = serve_vm_connect(vm, err);
	if (!res && serve_vm_pass_start(vm, request))
		res = err_set(err, EIO, "the request cannot be passed to the VM's process");
	return res;
}

void serve_vm_start(struct vm_table *table, struct ttrpc_call *call,
		    const VmTools__Concierge__StartVmRequest *request,
		    const struct identity *identity)
{
	struct err err = ERR_INIT;
	struct serve_vm *vm = serve_vm_new(table);

	if (!vm) {
		reply_start_failed(call, "out of memory");
		return;
	}
	if (!start(vm, request, identity, &err)) {
		calls_push(&vm->starting, call);
		table->ops->changed(table->ctx, vm);
		return;
	}
	if (vm->pidfd >= 0) { /* the answer follows its end */
		vm->failed = err;
		calls_push(&vm->starting, call);
		table->ops->changed(table->ctx, vm);
		serve_vm_kill(vm);
		return;
	}
	if (vm->ours) { /* it cannot be watched: it must not stay */
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, NULL, 0);
	}
	serve_spawn_remove_dir(vm->dir);
	serve_vm_free(vm);
	reply_start_failed(call, err.msg);
}

/* ---- the server's end ---------------------------------------------------------------------------
 */

void vm_table_leave(struct vm_table *table)
{
	struct ttrpc_call *call;

	for (struct serve_vm *vm = table->vms; vm; vm = vm->next) {
		while ((call = calls_pop(&vm->starting)))
			ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
		while ((call = calls_pop(&vm->stopping)))
			ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
		while ((call = calls_pop(&vm->waiting)))
			ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
		ttrpc_client_close(vm->client);
		vm->client = NULL;
		loop_timer_disarm(table->loop, &vm->last_words);
		loop_timer_disarm(table->loop, &vm->ladder_timer);
		loop_cancel(table->loop, &vm->exit_op);
	}
}

void vm_table_free(struct vm_table *table)
{
	for (struct serve_vm *vm = table->vms, *next; vm; vm = next) {
		next = vm->next;
		serve_vm_free(vm);
	}
}
