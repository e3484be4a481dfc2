/* One VM of `lodge serve`: its process from spawn to exit. See control/serve.h. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/serve.h"
#include "control/unix_socket.h"
#include "control/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVICE	  "vm_tools.concierge.VmConcierge"
#define NS_PER_MS UINT64_C(1000000)
#define CHILD_FD  3    /* of the socket, in the child */
#define ASK_MS	  3000 /* beyond the guest's own time: the machine is stopped and unmade */
/* The StartVm is there before the process is; only one whose server died waits longer. */
#define IDLE_TIMEOUT_S "10"
#define TERM_MS	       2000
#define KILL_MS	       5000

/* ---- the table ----------------------------------------------------------------------------------
 */

struct serve_vm *serve_vm_find(struct serve *serve, const char *name)
{
	for (struct serve_vm *vm = serve->vms; vm; vm = vm->next) {
		if (vm->name && !strcmp(vm->name, name))
			return vm;
	}
	return NULL;
}

static void exit_ready(struct loop_op *op, int res);
static void ladder_late(struct loop_timer *t);

struct serve_vm *serve_vm_new(struct serve *serve)
{
	struct serve_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->serve = serve;
	vm->pidfd = -1;
	vm->state = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING;
	vm->exit_op.done = exit_ready;
	vm->ladder_timer.fn = ladder_late;
	vm->next = serve->vms;
	vm->at = &serve->vms;
	if (vm->next)
		vm->next->at = &vm->next;
	serve->vms = vm;
	serve->nvms++;
	return vm;
}

int serve_vm_name(struct serve_vm *vm, const char *name)
{
	vm->name = strdup(name);
	return vm->name ? 0 : -ENOMEM;
}

static void remove_dir(const struct serve_vm *vm)
{
	char path[PATH_MAX];

	if (!vm->dir[0])
		return;
	if ((size_t)snprintf(path, sizeof(path), "%s/socket", vm->dir) < sizeof(path))
		unlink(path);
	if (rmdir(vm->dir))
		log_warn("control: %s: %s", vm->dir, strerror(errno));
}

void serve_vm_free(struct serve_vm *vm)
{
	struct serve *serve = vm->serve;

	loop_timer_disarm(serve->loop, &vm->ladder_timer);
	ttrpc_client_close(vm->client);
	cleanup_fd(&vm->pidfd);
	*vm->at = vm->next;
	if (vm->next)
		vm->next->at = vm->at;
	serve->nvms--;
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

static void say_exit(const struct serve_vm *vm, char *text, size_t size)
{
	siginfo_t info = {0};

	snprintf(text, size, "its process has ended");
	if (!vm->ours || waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED | WNOHANG) || !info.si_pid)
		return;
	if (info.si_code == CLD_EXITED)
		snprintf(text, size, "its process has ended with status %d", info.si_status);
	else
		snprintf(text, size, "its process was ended by SIG%s",
			 sigabbrev_np(info.si_status) ? sigabbrev_np(info.si_status) : "?");
}

static void exit_ready(struct loop_op *op, int res)
{
	struct serve_vm *vm = container_of(op, struct serve_vm, exit_op);
	struct serve *serve = vm->serve;
	struct ttrpc_call *call;
	char text[64];

	if (res == -ECANCELED)
		return;
	say_exit(vm, text, sizeof(text));
	log_info("VM %s (%d): %s", vm->name ? vm->name : "?", vm->pid, text);
	err_set(&vm->failed, ECHILD, "VM '%s': %s", vm->name ? vm->name : "?", text);
	remove_dir(vm);
	while ((call = calls_pop(&vm->starting)))
		reply_start_failed(call, vm->failed.msg);
	while ((call = calls_pop(&vm->stopping)))
		reply_stop(call, NULL);
	if (!vm->name && serve->finding)
		serve->finding--;
	serve_vm_free(vm);
	serve_progress(serve);
}

int serve_vm_watch(struct serve_vm *vm, struct err *err)
{
	vm->pidfd = pidfd_open(vm->pid, 0);
	if (vm->pidfd < 0)
		return err_sys(err, errno, "pidfd_open of process %d", vm->pid);
	loop_poll(vm->serve->loop, &vm->exit_op, vm->pidfd, POLLIN);
	return 0;
}

/* ---- the ladder ---------------------------------------------------------------------------------
 */

static void ladder_arm(struct serve_vm *vm, enum ladder step, unsigned ms)
{
	vm->ladder = step;
	loop_timer_arm(vm->serve->loop, &vm->ladder_timer, loop_now_ns() + ms * NS_PER_MS);
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
		serve_progress(vm->serve);
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
	    .service = SERVICE,
	    .method = "StopVm",
	    .request = &request.base,
	    .output = &vm_tools__concierge__stop_vm_response__descriptor,
	    .done = stop_answered,
	    .ctx = vm,
	};

	if (vm->ladder > LADDER_ASKED && vm->ladder != LADDER_STUCK)
		return;
	vm->state = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STOPPING;
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

/* A listening socket in a new runtime directory. */
static int make_dir(struct serve_vm *vm, int *ret_fd, struct err *err)
{
	char path[PATH_MAX], dir[PATH_MAX];

	if ((size_t)snprintf(dir, sizeof(dir), "%s/vm.XXXXXX", vm->serve->runtime_dir) >=
		sizeof(dir) - sizeof("/socket") ||
	    !mkdtemp(dir))
		return err_sys(err, errno, "no runtime directory in %s", vm->serve->runtime_dir);
	memcpy(vm->dir, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%.*s/socket", (int)sizeof(path) - 16, dir);
	return unix_listen(path, ret_fd, err);
}

static int spawn(struct serve_vm *vm, int socket_fd, struct err *err)
{
	char name[] = "lodge", command[] = "vmm", option[] = "--socket-fd", log[] = "--log";
	char fd_text[16], level[16], idle[] = "--idle-timeout=" IDLE_TIMEOUT_S;
	char sandbox[32];
	char *argv[] = {name, command, option, fd_text, log, level, idle, sandbox, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int res;

	snprintf(fd_text, sizeof(fd_text), "%d", CHILD_FD);
	snprintf(level, sizeof(level), "%s", vm->serve->log_level);
	snprintf(sandbox, sizeof(sandbox), "--sandbox=%s", vm->serve->sandbox);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	/* its log goes where ours does; it keeps nothing else open for whoever reads our output */
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, socket_fd, CHILD_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	/* a session of its own: what is typed at this process's terminal is not for VMs */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	res = posix_spawn(&vm->pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	if (res)
		return err_sys(err, res, "the VM's process cannot be started");
	vm->ours = true;
	return 0;
}

/* Its connection has ended; the pidfd tells what that means. */
static void client_gone(void *ctx)
{
	struct serve_vm *vm = ctx;

	ttrpc_client_close(vm->client);
	vm->client = NULL;
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
	res = ttrpc_client_new(vm->serve->loop, fd, client_gone, vm, &vm->client);
	return res ? err_set(err, ENOMEM, "out of memory") : 0;
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
	if (vm->ladder == LADDER_NONE)
		vm->state = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_RUNNING;
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
	vm->state = VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STOPPING;
	serve_vm_kill(vm);
}

int serve_vm_pass_start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request)
{
	const struct ttrpc_rpc rpc = {
	    .service = SERVICE,
	    .method = "StartVm",
	    .request = &request->base,
	    .output = &vm_tools__concierge__start_vm_response__descriptor,
	    .done = start_answered,
	    .ctx = vm,
	};

	return ttrpc_client_start(vm->client, &rpc, NULL);
}

static int start(struct serve_vm *vm, const VmTools__Concierge__StartVmRequest *request,
		 struct err *err)
{
	autofd int fd = -1;
	int res = serve_vm_name(vm, request->name);

	if (res)
		return err_set(err, ENOMEM, "out of memory");
	res = make_dir(vm, &fd, err);
	if (!res)
		res = spawn(vm, fd, err);
	if (!res)
		res = serve_vm_watch(vm, err);
	if (!res)
		res = serve_vm_connect(vm, err);
	if (!res && serve_vm_pass_start(vm, request))
		res = err_set(err, EIO, "the request cannot be passed to the VM's process");
	return res;
}

void serve_vm_start(struct serve *serve, struct ttrpc_call *call,
		    const VmTools__Concierge__StartVmRequest *request)
{
	struct err err = ERR_INIT;
	struct serve_vm *vm = serve_vm_new(serve);

	if (!vm) {
		reply_start_failed(call, "out of memory");
		return;
	}
	if (!start(vm, request, &err)) {
		calls_push(&vm->starting, call);
		return;
	}
	if (vm->pidfd >= 0) { /* the answer follows its end */
		vm->failed = err;
		calls_push(&vm->starting, call);
		serve_vm_kill(vm);
		return;
	}
	if (vm->ours) { /* it cannot be watched: it must not stay */
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, NULL, 0);
	}
	remove_dir(vm);
	serve_vm_free(vm);
	reply_start_failed(call, err.msg);
}

void serve_vm_leave(struct serve_vm *vm)
{
	struct ttrpc_call *call;

	while ((call = calls_pop(&vm->starting)))
		ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
	while ((call = calls_pop(&vm->stopping)))
		ttrpc_call_fail(call, TTRPC_UNAVAILABLE, "the server ends");
	ttrpc_client_close(vm->client);
	vm->client = NULL;
	loop_cancel(vm->serve->loop, &vm->exit_op);
}
