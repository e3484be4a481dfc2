/*
 * The VMs that a former `lodge serve` left running, from the runtime directory.
 *
 * The pid of a VM is what the kernel says of the process that listens on its socket: `lodge vmm`
 * listens again on what it inherits. It is watched by pidfd before it answers, so that the answer
 * shows that the pid was not a stranger's.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/serve.h"
#include "proto/lodge.pb-c.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_NS UINT64_C(10000000000) /* a busy host; then it counts as hung */

/* One directory of a VM; what is in it is known. */
static void remove_stale(const char *dir)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/socket", dir) < sizeof(path))
		unlink(path);
	if (rmdir(dir))
		log_warn("control: %s: %s", dir, strerror(errno));
}

/* It still starts: who asks for it waits for its own StartVm, which the name alone joins. */
static void go_on_starting(struct serve_vm *vm)
{
	VmTools__Concierge__StartVmRequest request = VM_TOOLS__CONCIERGE__START_VM_REQUEST__INIT;

	request.name = vm->name;
	if (serve_vm_pass_start(vm, &request))
		serve_vm_kill(vm);
}

static int adopt(struct serve *serve, const char *dir, bool again);

/*
 * Whoever answers listens by now, so that its pid can be had: a process that was spawned just
 * before the former server died had not come to that.
 */
static void find_again(struct serve_vm *vm, bool answered)
{
	struct serve *serve = vm->serve;
	char dir[PATH_MAX];

	memcpy(dir, vm->dir, sizeof(dir));
	serve->finding--;
	serve_vm_free(vm);
	if (!answered)
		remove_stale(dir);
	else if (adopt(serve, dir, true))
		log_error("control: %s: the process that answers there cannot be found", dir);
	serve_progress(serve);
}

static void list_answered(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	const Lodge__V1__ListVmsResponse *r = (const Lodge__V1__ListVmsResponse *)reply;
	const VmTools__Concierge__VmInfo *info;
	struct serve_vm *vm = ctx;
	struct serve *serve = vm->serve;

	if (vm->pidfd < 0) {
		find_again(vm, code == TTRPC_OK);
		return;
	}
	if (code != TTRPC_OK || r->n_vms != 1 || start_config_check_name(r->vms[0]->name, NULL) ||
	    serve_vm_find(serve, r->vms[0]->name) || serve_vm_name(vm, r->vms[0]->name)) {
		/* idle: its StartVm never came; or of no use */
		log_info("control: process %d is ended: %s", vm->pid,
			 code == TTRPC_OK ? "it is no VM" : text);
		serve_vm_kill(vm);
		return;
	}
	serve->finding--;
	info = r->vms[0];
	log_info("VM %s (%d) is found again", vm->name, vm->pid);
	if (info->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING)
		go_on_starting(vm);
	else
		serve_vm_started(vm, info);
	/* nobody waits for it any more; it ends by itself */
	if (info->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STOPPING)
		vm->state = info->state;
	serve_progress(serve);
}

/* A VM of a process that runs already, known by `dir`. -errno: there is none. */
static int adopt(struct serve *serve, const char *dir, bool again)
{
	Lodge__V1__ListVmsRequest request = LODGE__V1__LIST_VMS_REQUEST__INIT;
	struct ttrpc_rpc rpc = {
	    .service = "lodge.v1.Vms",
	    .method = "ListVms",
	    .request = &request.base,
	    .output = &lodge__v1__list_vms_response__descriptor,
	    .timeout_ns = ANSWER_NS,
	    .done = list_answered,
	};
	struct serve_vm *vm = serve_vm_new(serve);
	struct err err = ERR_INIT;
	int res;

	if (!vm)
		return -ENOMEM;
	snprintf(vm->dir, sizeof(vm->dir), "%s", dir);
	res = serve_vm_connect(vm, &err);
	if (!res && (vm->pid <= 0 || vm->pid == getpid() || serve_vm_watch(vm, &err)) && again)
		res = -ESRCH;
	if (res) {
		serve_vm_free(vm);
		return res;
	}
	rpc.ctx = vm;
	serve->finding++;
	if (!ttrpc_client_start(vm->client, &rpc, NULL))
		return 0;
	if (vm->pidfd >= 0) { /* its end ends the search */
		serve_vm_kill(vm);
		return 0;
	}
	serve->finding--;
	serve_vm_free(vm);
	return -ENOMEM;
}

static int lock_dir(struct serve *serve, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX];

	if (mkdir(serve->runtime_dir, 0700) && errno != EEXIST)
		return err_sys(err, errno, "runtime directory %s", serve->runtime_dir);
	if ((size_t)snprintf(path, sizeof(path), "%s/lock", serve->runtime_dir) >= sizeof(path))
		return err_set(err, ENAMETOOLONG, "runtime directory %s: its name is too long",
			       serve->runtime_dir);
	serve->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (serve->lock_fd < 0)
		return err_sys(err, errno, "%s", path);
	/* the process's own lock: a child that is about to exec when we are killed has no part in
	 * it */
	if (fcntl(serve->lock_fd, F_SETLK, &lock))
		return err_set(err, EBUSY,
			       "runtime directory %s: another lodge serve uses it; give each one "
			       "of its own",
			       serve->runtime_dir);
	return 0;
}

int serve_find(struct serve *serve, struct err *err)
{
	const struct dirent *entry;
	int res = lock_dir(serve, err);
	DIR *dir;

	if (res)
		return res;
	dir = opendir(serve->runtime_dir);
	if (!dir)
		return err_sys(err, errno, "runtime directory %s", serve->runtime_dir);
	while ((entry = readdir(dir))) {
		char path[PATH_MAX];

		if (strncmp(entry->d_name, "vm.", 3) != 0 ||
		    (size_t)snprintf(path, sizeof(path), "%s/%s", serve->runtime_dir,
				     entry->d_name) >= sizeof(path))
			continue;
		if (adopt(serve, path, false))
			remove_stale(path);
	}
	closedir(dir);
	return 0;
}
