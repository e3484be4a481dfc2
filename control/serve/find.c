/*
 * VMs that are found again. See control/serve/find.h.
 *
 * The pid of a VM is what the kernel says of the process that listens on its socket: `lodge vmm`
 * listens again on what it inherits. It is watched by pidfd before it answers, so that the answer
 * shows that the pid was not a stranger's.
 */
#include "control/serve/find.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/serve/spawn.h"
#include "control/vm/start_config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_NS UINT64_C(10000000000) /* a busy host; then it counts as hung */

/* It still starts: who asks for it waits for its own StartVm, which the name alone joins. */
static void go_on_starting(struct serve_vm *vm)
{
	VmTools__Concierge__StartVmRequest request = VM_TOOLS__CONCIERGE__START_VM_REQUEST__INIT;

	request.name = vm->name;
	if (serve_vm_pass_start(vm, &request))
		serve_vm_kill(vm);
}

static int adopt(struct vm_table *table, const char *dir, bool again);

/*
 * Whoever answers listens by now, so that its pid can be had: a process that was spawned just
 * before the former server died had not come to that.
 */
static void find_again(struct serve_vm *vm, bool answered)
{
	struct vm_table *table = vm->table;
	char dir[PATH_MAX];

	memcpy(dir, vm->dir, sizeof(dir));
	table->finding--;
	serve_vm_free(vm);
	if (!answered)
		serve_spawn_remove_dir(dir);
	else if (adopt(table, dir, true))
		log_error("control: %s: the process that answers there cannot be found", dir);
	table->ops->progress(table->ctx);
}

static void list_answered(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	const Lodge__V1__ListVmsResponse *r = (const Lodge__V1__ListVmsResponse *)reply;
	const VmTools__Concierge__VmInfo *info;
	struct serve_vm *vm = ctx;
	struct vm_table *table = vm->table;

	if (vm->pidfd < 0) {
		find_again(vm, code == TTRPC_OK);
		return;
	}
	if (code != TTRPC_OK || r->n_vms != 1 || start_config_check_name(r->vms[0]->name, NULL) ||
	    vm_table_find(table, r->vms[0]->name) || serve_vm_name(vm, r->vms[0]->name)) {
		/* idle: its StartVm never came; or of no use */
		log_info("control: process %d is ended: %s", vm->pid,
			 code == TTRPC_OK ? "it is no VM" : text);
		serve_vm_kill(vm);
		return;
	}
	table->finding--;
	info = r->vms[0];
	log_info("VM %s (%d) is found again", vm->name, vm->pid);
	if (info->state == VM_TOOLS__CONCIERGE__VM_STATE__VM_STATE_STARTING)
		go_on_starting(vm);
	else /* where it stops, nobody waits for that any more; it ends by itself */
		serve_vm_started(vm, info);
	table->ops->progress(table->ctx);
}

/* A VM of a process that runs already, known by `dir`. -errno: there is none. */
static int adopt(struct vm_table *table, const char *dir, bool again)
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
	struct serve_vm *vm = serve_vm_new(table);
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
	table->finding++;
	if (!ttrpc_client_start(vm->client, &rpc, NULL))
		return 0;
	if (vm->pidfd >= 0) { /* its end ends the search */
		serve_vm_kill(vm);
		return 0;
	}
	table->finding--;
	serve_vm_free(vm);
	return -ENOMEM;
}

static int lock_dir(const char *dir, int *ret_fd, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX];
	autofd int fd = -1;

	if (mkdir(dir, 0700) && errno != EEXIST)
		return errno == ENOENT
			   ? err_set(err, ENOENT,
				     "runtime directory %s: the directory above it does "
				     "not exist; make that (mkdir -p)",
				     dir)
			   : err_sys(err, errno, "runtime directory %s", dir);
	if ((size_t)snprintf(path, sizeof(path), "%s/lock", dir) >= sizeof(path))
		return err_set(err, ENAMETOOLONG, "runtime directory %s: its name is too long",
			       dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, errno, "%s", path);
	/* the process's own lock: a child that is about to exec when we are killed has no part in
	 * it */
	if (fcntl(fd, F_SETLK, &lock))
		return err_set(err, EBUSY,
			       "runtime directory %s: another lodge serve uses it; give each one "
			       "of its own",
			       dir);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int serve_find(struct vm_table *table, int *ret_lock_fd, struct err *err)
{
	const struct dirent *entry;
	int res = lock_dir(table->runtime_dir, ret_lock_fd, err);
	DIR *dir;

	if (res)
		return res;
	dir = opendir(table->runtime_dir);
	if (!dir)
		return err_sys(err, errno, "runtime directory %s", table->runtime_dir);
	while ((entry = readdir(dir))) {
		char path[PATH_MAX];

		if (strncmp(entry->d_name, "vm.", 3) != 0 ||
		    (size_t)snprintf(path, sizeof(path), "%s/%s", table->runtime_dir,
				     entry->d_name) >= sizeof(path))
			continue;
		if (adopt(table, path, false))
			serve_spawn_remove_dir(path);
	}
	closedir(dir);
	return 0;
}
