/* StartVmRequest to machine_config. See control/vm/start_config.h. */
#include "control/vm/start_config.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/agent/guest.h"
#include "control/agent/termina.h"
#include "control/component/component.h"
#include "control/options/config_check.h"
#include "control/options/priv.h"
#include "control/options/settings.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int start_config_check_name(const char *name, struct err *err)
{
	size_t len = strlen(name);

	if (!len)
		return err_set(err, EINVAL, "the name is empty");
	if (len > VM_NAME_MAX)
		return err_set(err, EINVAL, "the name has %zu bytes, at most %d are possible", len,
			       VM_NAME_MAX);
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "the name '%s' has a control character", name);
	}
	return 0;
}

/* A path that the server looks up must not depend on where the server stands. */
static int check_path(const char *what, const char *path, struct err *err)
{
	struct stat st;

	if (!*path)
		return err_set(err, EINVAL, "%s: no path is given", what);
	if (*path != '/')
		return err_set(err, EINVAL, "%s %s: the path is not absolute", what, path);
	if (!stat(path, &st))
		return 0;
	if (errno == ENOENT)
		return err_set(err, ENOENT, "%s %s does not exist", what, path);
	return err_sys(err, errno, "%s %s", what, path);
}

static int check_image_type(const char *what, const char *path, int type,
			    enum image_format *ret_format, struct err *err)
{
	static const char *const names[] = {
	    [VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_RAW] = "raw",
	    [VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_QCOW2] = "qcow2",
	};

	if (type < 0 || (size_t)type >= ARRAY_LEN(names))
		return err_set(err, EINVAL, "%s %s: unknown image type %d", what, path, type);
	if (image_format_parse(names[type], ret_format))
		return err_set(err, ENOTSUP, "%s %s: the image type %s is not available", what,
			       path, names[type]);
	return 0;
}

static int set_string(const char **field, const char *value, struct err *err)
{
	char *copy = NULL;
	int res = options_set_string(&copy, value, err);

	if (!res)
		*field = copy;
	return res;
}

/* An optional string of the request, with its check. */
static int set_checked(char **field, const char *what, const char *value,
		       int (*check)(const char *value, struct err *err), struct err *err)
{
	int res;

	if (!*value)
		return 0;
	res = check(value, err);
	if (res) {
		err_prefix(err, "%s", what);
		return res;
	}
	return options_set_string(field, value, err);
}

static int set_path(char **field, const char *what, const char *path, struct err *err)
{
	int res;

	if (!*path)
		return 0;
	res = check_path(what, path, err);
	return res ? res : options_set_string(field, path, err);
}

/* ---- parts of the request -----------------------------------------------------------------------
 */

static int add_root(const VmTools__Concierge__VirtualMachineSpec *vm, struct machine_config *config,
		    struct err *err)
{
	struct machine_disk *disk = &config->disks[0];
	int res = check_path("rootfs", vm->rootfs, err);

	if (!res)
		res = check_image_type("rootfs", vm->rootfs, (int)vm->rootfs_type,
				       &disk->image.format, err);
	if (!res && vm->rootfs_partition > CONFIG_PARTITION_MAX)
		res = err_set(err, EINVAL, "rootfs_partition %u: 1 to %d are possible",
			      vm->rootfs_partition, CONFIG_PARTITION_MAX);
	if (!res)
		res = set_checked(&config->root_fstype, "rootfs_fstype", vm->rootfs_fstype,
				  config_check_fstype, err);
	if (!res)
		res = set_checked(&config->root_label, "rootfs_label", vm->rootfs_label,
				  config_check_label, err);
	if (!res && *vm->rootfs_label && vm->rootfs_partition)
		res = err_set(err, EINVAL, "rootfs_label and rootfs_partition are both given");
	disk->bytes_per_s = vm->rootfs_bytes_per_s;
	disk->ops_per_s = vm->rootfs_ops_per_s;
	if (!res)
		res = set_string(&disk->image.path, vm->rootfs, err);
	if (res)
		return res;
	disk->image.read_only = !vm->rootfs_writable;
	config->has_root = true;
	config->root_read_only = !vm->rootfs_writable;
	config->root_partition = vm->rootfs_partition;
	config->ndisks = 1;
	return 0;
}

static int set_mount(const VmTools__Concierge__DiskImage *in, struct machine_mount *mount,
		     struct err *err)
{
	int res = config_check_mount_point(in->mount_point, err);

	if (res) {
		err_prefix(err, "mount_point");
		return res;
	}
	res = config_check_fstype(in->fstype, err);
	if (res) {
		err_prefix(err, "fstype");
		return res;
	}
	res = options_set_string(&mount->target, in->mount_point, err);
	if (!res)
		res = options_set_string(&mount->fstype, in->fstype, err);
	if (!res && *in->data)
		res = options_set_string(&mount->data, in->data, err);
	mount->flags = in->flags;
	mount->mkfs_if_blank = in->mkfs_if_blank && in->writable;
	return res;
}

static int add_disk(const VmTools__Concierge__DiskImage *in, struct machine_config *config,
		    struct err *err)
{
	struct machine_disk *disk = &config->disks[config->ndisks];
	char what[16];
	int res;

	snprintf(what, sizeof(what), "disk %u", config->ndisks - 1);
	res = check_path(what, in->path, err);
	if (!res)
		res =
		    check_image_type(what, in->path, (int)in->image_type, &disk->image.format, err);
	if (!res && in->do_mount) {
		res = set_mount(in, &disk->mount, err);
		if (res)
			err_prefix(err, "%s %s", what, in->path);
	}
	if (!res && *in->serial) {
		res = config_check_serial(in->serial, err);
		if (res)
			err_prefix(err, "%s %s: serial", what, in->path);
		else
			memcpy(disk->serial, in->serial, strlen(in->serial) + 1);
	}
	if (!res)
		res = set_string(&disk->image.path, in->path, err);
	if (res)
		return res;
	disk->image.read_only = !in->writable;
	disk->image.direct = in->direct;
	disk->bytes_per_s = in->bytes_per_s;
	disk->ops_per_s = in->ops_per_s;
	config->ndisks++;
	return 0;
}

static int set_machine(const VmTools__Concierge__StartVmRequest *r, struct machine_config *config,
		       struct err *err)
{
	if (r->cpus > VM_CPUS_MAX)
		return err_set(err, EINVAL, "cpus %u: 1 to %d are possible", r->cpus, VM_CPUS_MAX);
	if (r->cpus)
		config->cpus = r->cpus;
	if (r->memory_bytes) {
		int res = config_check_memory(r->memory_bytes, err);

		if (res) {
			err_prefix(err, "memory_bytes");
			return res;
		}
		config->memory_bytes = r->memory_bytes;
	}
	switch (r->transport) {
	case VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_PCI:
		config->transport = MACHINE_PCI;
		return 0;
	case VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_MMIO:
		config->transport = MACHINE_MMIO;
		return 0;
	default:
		return err_set(err, EINVAL, "transport %d is unknown", (int)r->transport);
	}
}

static int set_boot(const VmTools__Concierge__VirtualMachineSpec *vm, struct machine_config *config,
		    struct err *err)
{
	int res = set_path(&config->initrd, "initrd", vm->initrd, err);

	if (!res)
		res = set_path(&config->modules, "modules_dir", vm->modules_dir, err);
	if (!res)
		res = set_checked(&config->cmdline, "command_line", vm->command_line,
				  config_check_cmdline, err);
	if (!res)
		res = set_checked(&config->init, "init", vm->init, config_check_init, err);
	if (vm->no_initramfs)
		config->initramfs = MACHINE_INITRAMFS_NONE;
	return res;
}

static int add_net(const char *words, struct machine_config *config, struct err *err)
{
	int res = options_add_net(config, words, err);

	if (!res && config->nnets && config->nets[config->nnets - 1].kind == NET_FD)
		res = err_set(err, EINVAL, "fd=: descriptors are not passed on");
	if (res)
		err_prefix(err, "network '%s'", words);
	return res;
}

static int add_share(const char *path, const char *target, bool read_only, const char *user,
		     struct machine_config *config, struct err *err)
{
	struct machine_share *share = &config->shares[config->nshares];
	int res;

	if (config->nshares == MACHINE_SHARES_MAX)
		return err_set(err, EINVAL, "at most %d directories can be shared",
			       MACHINE_SHARES_MAX);
	res = set_path(&share->path, "share", path, err);
	config->nshares++; /* what it holds is freed with the rest */
	if (res)
		return res;
	share->read_only = read_only;
	if (!*path)
		res = err_set(err, EINVAL, "no path is given");
	else if (*target)
		res = set_checked(&share->target, "mount_point", target, config_check_mount_point,
				  err);
	if (!res && *user)
		res = options_share_user(share, user, err);
	if (res)
		err_prefix(err, "share %s", path);
	return res;
}

static int add_shares(const VmTools__Concierge__StartVmRequest *r, struct machine_config *config,
		      struct err *err)
{
	struct machine_share any = {0};
	int res = 0;

	if (*r->share_user)
		res = options_share_user(&any, r->share_user, err);
	if (res) {
		err_prefix(err, "share_user");
		return res;
	}
	if (*r->shared_directory)
		res = add_share(r->shared_directory, SHARE_TARGET, false, "", config, err);
	for (size_t i = 0; i < r->n_shares && !res; i++) {
		const VmTools__Concierge__SharedDirectory *s = r->shares[i];

		res = add_share(s->path, s->mount_point, s->read_only, s->user, config, err);
	}
	config->share_uid = any.uid;
	config->share_gid = any.gid;
	return res ? res : options_check_shares(config, err);
}

/* The agent comes with our initramfs; another may bring it along by itself. */
static int set_agent(const VmTools__Concierge__VirtualMachineSpec *vm, const char *vsock_socket,
		     struct machine_config *config, struct err *err)
{
	if (vm->no_agent) {
		for (unsigned i = 0; i < config->ndisks; i++) {
			if (config->disks[i].mount.target)
				return err_set(err, EINVAL,
					       "disk %u %s: do_mount needs the agent, and no_agent "
					       "is set",
					       i - 1, config->disks[i].image.path);
		}
		if (config->nshares)
			return err_set(err, EINVAL,
				       "share %s: it needs the agent, and no_agent is set",
				       config->shares[0].path);
		return 0;
	}
	config->agent = !config->initrd && config->initramfs == MACHINE_INITRAMFS_AUTO;
	config->vsock.on = true;
	if (config->agent && guest_make_token(config->agent_token, err))
		return -err->code;
	return vsock_socket ? options_set_string(&config->vsock.socket, vsock_socket, err) : 0;
}

/* ---- termina ------------------------------------------------------------------------------------
 */

/* The component's kernel and root, in place of what `vm` says. */
static int set_component(const char *component_root, struct machine_config *config, struct err *err)
{
	struct machine_disk *disk = &config->disks[0];
	struct component_paths paths = {0};
	int res = component_find(component_root, &paths, err);

	if (!res)
		res = options_set_string(&config->root_fstype, paths.fstype, err);
	if (res)
		goto out;
	config->kernel = steal_ptr(&paths.kernel);
	disk->image.path = steal_ptr(&paths.rootfs);
	disk->image.format = IMAGE_RAW;
	disk->image.read_only = true;
	config->has_root = true;
	config->root_read_only = true;
	config->ndisks = 1;
	config->termina = true;
out:
	component_paths_free(&paths);
	if (res)
		err_prefix(err, "start_termina");
	return res;
}

/* The first disk of the request keeps all that changes. */
static int set_stateful(struct machine_config *config, struct err *err)
{
	struct machine_mount *mount = &config->disks[1].mount;
	int res;

	if (config->ndisks < 2 || config->disks[1].image.read_only)
		return err_set(
		    err, EINVAL,
		    "start_termina: the first of `disks` is the stateful one, and must be "
		    "there and writable");
	if (mount->target &&
	    (strcmp(mount->target, TERMINA_STATEFUL) != 0 || strcmp(mount->fstype, "btrfs") != 0))
		return err_set(err, EINVAL,
			       "disk 0 %s: start_termina mounts it on " TERMINA_STATEFUL
			       " as btrfs; leave do_mount out",
			       config->disks[1].image.path);
	mount->mkfs_if_blank = true;
	if (mount->target)
		return 0;
	res = options_set_string(&mount->target, TERMINA_STATEFUL, err);
	return res ? res : options_set_string(&mount->fstype, "btrfs", err);
}

/* An interface whose tap is ours, so that containers can be reached by it. */
static int set_containers(struct machine_config *config, struct err *err)
{
	int res = config->nnets || config->no_net ? 0 : add_net("pool", config, err);

	if (res)
		return res;
	for (unsigned i = 0; i < config->nnets; i++) {
		struct machine_net *net = &config->nets[i];

		if (net->kind == NET_POOL || net->kind == NET_AUTO) {
			net->with_containers = true;
			return 0;
		}
	}
	return err_set(err, EINVAL,
		       "start_termina: containers need an interface of the pool; say the network "
		       "'pool', or none at all");
}

static int set_termina(const VmTools__Concierge__StartVmRequest *r, struct machine_config *config,
		       struct err *err)
{
	int res = r->start_termina ? set_stateful(config, err) : 0;

	return res || !r->start_termina ? res : set_containers(config, err);
}

static int set_kernel_and_root(const VmTools__Concierge__VirtualMachineSpec *vm,
			       struct machine_config *config, struct err *err)
{
	int res = check_path("kernel", vm->kernel, err);

	if (!res)
		res = options_set_string(&config->kernel, vm->kernel, err);
	return res ? res : add_root(vm, config, err);
}

int start_config(const VmTools__Concierge__StartVmRequest *r, const char *vsock_socket,
		 const char *component_root, struct machine_config *config, struct err *err)
{
	static const VmTools__Concierge__VirtualMachineSpec no_vm =
	    VM_TOOLS__CONCIERGE__VIRTUAL_MACHINE_SPEC__INIT;
	const VmTools__Concierge__VirtualMachineSpec *vm =
	    r->vm && !r->start_termina ? r->vm : &no_vm;
	int res = start_config_check_name(r->name, err);

	if (!res && r->n_disks > VM_DISKS_MAX)
		res = err_set(err, EINVAL, "%zu disks, at most %d are possible beside the rootfs",
			      r->n_disks, VM_DISKS_MAX);
	if (!res && r->start_termina)
		res = set_component(component_root, config, err);
	else if (!res)
		res = set_kernel_and_root(vm, config, err);
	for (size_t i = 0; i < r->n_disks && !res; i++)
		res = add_disk(r->disks[i], config, err);
	if (!res)
		res = set_machine(r, config, err);
	if (!res)
		res = set_boot(vm, config, err);
	for (size_t i = 0; i < r->n_networks && !res; i++)
		res = add_net(r->networks[i], config, err);
	if (!res)
		res = set_termina(r, config, err);
	if (!res)
		res = add_shares(r, config, err);
	if (!res)
		res = set_agent(vm, vsock_socket, config, err);
	if (!res)
		res = options_check_disks(config, err);
	return res;
}
