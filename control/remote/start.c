/*
 * `lodge start`: the options of `lodge run` as a StartVm.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/arguments.h"
#include "control/options/options.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Options of `lodge run` that mean the same here. */
static const char *const run_words[] = {
    "kernel", "root",	   "disk",    "cpus", "memory",	   "cmdline",
    "initrd", "initramfs", "modules", "init", "transport", "share",
};

/* Those that do not, and what to do. */
static const struct {
	const char *name, *why;
} not_here[] = {
    {"console", "the server keeps the output: `lodge console NAME`"},
    {"stop-timeout", "say it to `lodge stop --timeout`"},
    {"exec", "`lodge exec NAME -- COMMAND` when it runs"},
    {"vsock", "VMs of a server have it"},
    {"agent", "VMs of a server have it, without --no-agent"},
    {"dry-run", "`lodge run --dry-run` tries a machine out"},
    {"log", "`lodge serve --log` says what its VMs log"},
    {"io", "`lodge serve --io` decides that"},
    {"cpu", "VMs of a server see the host's CPU"},
    {"hugepages", "VMs of a server take ordinary memory"},
    {"prealloc", "VMs of a server take their memory as they use it"},
    {"no-rng", "VMs of a server have a virtio-rng"},
};

/* Memory of the request, beside what it borrows from the options. */
struct start_request {
	VmTools__Concierge__StartVmRequest msg;
	VmTools__Concierge__VirtualMachineSpec vm;
	VmTools__Concierge__DiskImage disks[MACHINE_DISKS_MAX], *list[MACHINE_DISKS_MAX];
	VmTools__Concierge__SharedDirectory shares[MACHINE_SHARES_MAX],
	    *share_list[MACHINE_SHARES_MAX];
	char users[MACHINE_SHARES_MAX][24];
	char *paths[MACHINE_DISKS_MAX + MACHINE_SHARES_MAX + 3];
	unsigned npaths;
};

struct start_options {
	struct remote_options remote; /* first: setters of both find it there */
	bool no_agent, termina;
	char *nets[MACHINE_NETS_MAX];
	unsigned nnets;
	unsigned timeout_ms; /* 0: the server's */
	struct start_request request;
};

static int set_no_agent(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct start_options *)target)->no_agent = true;
	return 0;
}

static int set_termina(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct start_options *)target)->termina = true;
	return 0;
}

static int set_timeout(void *target, const char *value, struct err *err)
{
	unsigned s;

	if (parse_unsigned(value, 1, 3600, &s))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 1 to 3600",
			       value);
	((struct start_options *)target)->timeout_ms = s * 1000;
	return 0;
}

/* It is the server that opens it; a mistake is seen here as well. */
static int set_net(void *target, const char *value, struct err *err)
{
	struct start_options *o = target;
	struct machine_config scratch;
	int rc;

	if (o->nnets == MACHINE_NETS_MAX)
		return err_set(err, EINVAL, "at most %d interfaces are possible", MACHINE_NETS_MAX);
	machine_config_init(&scratch);
	rc = options_add_net(&scratch, value, err);
	machine_config_fini(&scratch);
	if (!rc)
		o->nets[o->nnets++] = remote_borrow(value);
	return rc;
}

static const struct option_setting start_settings[] = {
    REMOTE_SETTINGS,
    {"start-timeout", "SECONDS", set_timeout,
     "how long the guest may take to be ready (30; with\n"
     "                             --termina 120)"},
    {"net", "KIND[,KEY=VALUE...]", set_net,
     "an interface, as of `lodge run`, or none (the server's)"},
    {"termina", NULL, set_termina, "the component, and LXD in it; the first --disk keeps its data"},
    {"no-agent", NULL, set_no_agent, "no vsock, and nobody in the guest is waited for"},
};

/* The words of the command line, sorted. */
struct start_words {
	char **run, **own; /* NULL-terminated, as argv */
	int nrun, nown;
};

/* Does `word`, "--name" or "--name=value", have this name? */
static bool has_name(const char *word, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(word, "--", 2) && !strncmp(word + 2, name, len) &&
	       (!word[2 + len] || word[2 + len] == '=');
}

static bool is_run_word(const char *word)
{
	for (size_t i = 0; i < ARRAY_LEN(run_words); i++) {
		if (has_name(word, run_words[i]))
			return true;
	}
	return false;
}

static int refuse(const char *word, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(not_here); i++) {
		if (has_name(word, not_here[i].name))
			return err_set(err, EINVAL, "--%s is not for a server's VMs: %s",
				       not_here[i].name, not_here[i].why);
	}
	return 0;
}

static int sort_words(struct start_words *w, int argc, char **argv, struct err *err)
{
	w->run = calloc((size_t)argc + 1, sizeof(*w->run));
	w->own = calloc((size_t)argc + 1, sizeof(*w->own));
	if (!w->run || !w->own)
		return err_set(err, ENOMEM, "out of memory");
	w->run[w->nrun++] = w->own[w->nown++] = argv[0];
	for (int i = 1; i < argc; i++) {
		int res = refuse(argv[i], err);

		if (res)
			return res;
		if (!is_run_word(argv[i])) {
			w->own[w->nown++] = argv[i];
			continue;
		}
		w->run[w->nrun++] = argv[i];
		if (!strchr(argv[i], '=') && i + 1 < argc)
			w->run[w->nrun++] = argv[++i];
	}
	return 0;
}

/* ---- the request --------------------------------------------------------------------------------
 */

/* What a disk of `lodge run` can have and one of a StartVm cannot. */
static int check_disk(const struct machine_disk *disk, bool is_root, struct err *err)
{
	const char *option = is_root ? "--root" : "--disk";
	const char *key = NULL;

	if (disk->image.backing || disk->image.has_backing_format)
		key = "backing";
	else if (disk->image.data_file)
		key = "data_file";
	else if (disk->image.no_discard)
		key = "discard";
	else if (disk->write_through)
		key = "cache";
	else if (disk->queues)
		key = "queues";
	else if (is_root && disk->image.direct)
		key = "direct";
	else if (is_root && *disk->serial)
		key = "serial";
	if (!key)
		return 0;
	return err_set(err, EINVAL, "%s path=%s: the key %s is not for a server's VMs", option,
		       disk->image.path, key);
}

/* A path as the server must get it. */
static int put_path(struct start_request *q, char **field, const char *path, struct err *err)
{
	char *whole;

	if (!path)
		return 0;
	whole = remote_absolute(path);
	if (!whole)
		return err_sys(err, errno, "%s: its absolute path", path);
	q->paths[q->npaths++] = whole;
	*field = whole;
	return 0;
}

static VmTools__Concierge__DiskImageType image_type(const struct machine_disk *disk)
{
	return disk->image.format == IMAGE_QCOW2
		   ? VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_QCOW2
		   : VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_RAW;
}

static int put_root(struct start_request *q, const struct machine_config *m, struct err *err)
{
	const struct machine_disk *root = &m->disks[0];
	int res = check_disk(root, true, err);

	if (res)
		return res;
	q->vm.rootfs_type = image_type(root);
	q->vm.rootfs_writable = !root->image.read_only;
	q->vm.rootfs_partition = m->root_partition;
	q->vm.rootfs_bytes_per_s = root->bytes_per_s;
	q->vm.rootfs_ops_per_s = root->ops_per_s;
	if (m->root_label)
		q->vm.rootfs_label = m->root_label;
	if (m->root_fstype)
		q->vm.rootfs_fstype = m->root_fstype;
	return put_path(q, &q->vm.rootfs, root->image.path, err);
}

static int put_disk(struct start_request *q, struct machine_disk *disk, struct err *err)
{
	VmTools__Concierge__DiskImage *image = &q->disks[q->msg.n_disks];
	int res = check_disk(disk, false, err);

	if (res)
		return res;
	*image = (VmTools__Concierge__DiskImage)VM_TOOLS__CONCIERGE__DISK_IMAGE__INIT;
	image->writable = !disk->image.read_only;
	image->image_type = image_type(disk);
	image->direct = disk->image.direct;
	image->serial = disk->serial;
	image->bytes_per_s = disk->bytes_per_s;
	image->ops_per_s = disk->ops_per_s;
	if (disk->mount.target) {
		image->do_mount = true;
		image->mount_point = disk->mount.target;
		image->fstype = disk->mount.fstype;
		image->flags = disk->mount.flags;
		image->mkfs_if_blank = disk->mount.mkfs_if_blank;
	}
	if (disk->mount.data)
		image->data = disk->mount.data;
	q->list[q->msg.n_disks++] = image;
	return put_path(q, &image->path, disk->image.path, err);
}

static int put_shares(struct start_request *q, const struct machine_config *m, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < m->nshares && !res; i++) {
		VmTools__Concierge__SharedDirectory *s = &q->shares[i];
		const struct machine_share *share = &m->shares[i];

		*s = (VmTools__Concierge__SharedDirectory)
		    VM_TOOLS__CONCIERGE__SHARED_DIRECTORY__INIT;
		res = put_path(q, &s->path, share->path, err);
		s->mount_point = share->target;
		s->read_only = share->read_only;
		snprintf(q->users[i], sizeof(q->users[i]), "%u:%u", share->uid, share->gid);
		if (share->has_user)
			s->user = q->users[i];
		q->share_list[i] = s;
	}
	q->msg.shares = q->share_list;
	q->msg.n_shares = m->nshares;
	return res;
}

static void put_machine(struct start_request *q, const struct machine_config *m)
{
	q->msg.cpus = m->cpus;
	q->msg.memory_bytes = m->memory_bytes;
	q->msg.transport = m->transport == MACHINE_MMIO
			       ? VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_MMIO
			       : VM_TOOLS__CONCIERGE__VM_TRANSPORT__VM_TRANSPORT_PCI;
}

/* What the component decides. */
static int check_termina(const struct start_options *o, const struct machine_config *m,
			 struct err *err)
{
	const char *option = m->kernel	    ? "--kernel"
			     : m->has_root  ? "--root"
			     : m->cmdline   ? "--cmdline"
			     : m->initrd    ? "--initrd"
			     : m->initramfs ? "--initramfs"
			     : m->modules   ? "--modules"
			     : m->init	    ? "--init"
			     : o->no_agent  ? "--no-agent"
					    : NULL;

	if (option)
		return err_set(err, EINVAL,
			       "%s does not go with --termina, which starts the component "
			       "(`lodge component list`)",
			       option);
	if (!m->ndisks || m->disks[0].image.read_only)
		return err_set(err, EINVAL,
			       "--termina keeps its data on the first disk; say --disk "
			       "path=FILE,format=raw, and not ro=on");
	return 0;
}

static int put_termina(struct start_request *q, struct machine_config *m, struct err *err)
{
	int res = 0;

	q->msg.start_termina = true;
	q->msg.disks = q->list;
	for (unsigned i = 0; i < m->ndisks && !res; i++)
		res = put_disk(q, &m->disks[i], err);
	if (!res)
		res = put_shares(q, m, err);
	put_machine(q, m);
	return res;
}

static int put_request(struct start_request *q, struct machine_config *m, struct err *err)
{
	int res;

	q->msg.vm = &q->vm;
	q->msg.disks = q->list;
	if (!m->has_root)
		return err_set(err, EINVAL,
			       "no root disk; say --root path=FILE,format=raw (a server's VM has "
			       "one, which its kernel may ignore)");
	res = put_root(q, m, err);
	for (unsigned i = 1; i < m->ndisks && !res; i++)
		res = put_disk(q, &m->disks[i], err);
	if (!res)
		res = put_path(q, &q->vm.kernel, m->kernel, err);
	if (!res)
		res = put_path(q, &q->vm.initrd, m->initrd, err);
	if (!res)
		res = put_path(q, &q->vm.modules_dir, m->modules, err);
	if (m->cmdline)
		q->vm.command_line = m->cmdline;
	if (m->init)
		q->vm.init = m->init;
	q->vm.no_initramfs = m->initramfs == MACHINE_INITRAMFS_NONE;
	if (!res)
		res = put_shares(q, m, err);
	put_machine(q, m);
	return res;
}

/* ---- the command --------------------------------------------------------------------------------
 */

static int start_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct start_options *o = (const struct start_options *)r->options;
	VmTools__Concierge__StartVmRequest request = o->request.msg;
	const VmTools__Concierge__StartVmResponse *reply;
	VmTools__Concierge__VirtualMachineSpec vm = o->request.vm;
	char *nets[MACHINE_NETS_MAX];
	ProtobufCMessage *msg;
	int status = LODGE_OK;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	request.start_timeout_ms = o->timeout_ms;
	request.vm = request.start_termina ? NULL : &vm;
	memcpy(nets, o->nets, sizeof(nets));
	request.networks = nets;
	request.n_networks = o->nnets;
	vm.no_agent = o->no_agent;
	msg = remote_call(r, "StartVm", &request.base);
	reply = (const VmTools__Concierge__StartVmResponse *)msg;
	if (!msg)
		return r->status;
	if (!reply->success)
		status = remote_fail(r, LODGE_FAILED, "%s", reply->failure_reason);
	else if (r->options->json && reply->vm_info)
		print_json(&reply->vm_info->base);
	lodge_free(msg);
	return status;
}

static const struct remote_command start_command = {
    .name = "start",
    .usage = "NAME {--kernel FILE --root path=FILE,format=FORMAT | --termina --disk "
	     "path=FILE,format=FORMAT}",
    .about = "Starts a VM of the server and ends when the agent in the guest is ready and has\n"
	     "mounted the disks; a VM of this name that runs already is left as it is. Files are\n"
	     "opened by the server with your rights.\n",
    .more = "Options as of `lodge run` (`lodge help run` explains them):\n"
	    "  --kernel --root --disk --cpus --memory --cmdline --initrd --initramfs --modules\n"
	    "  --init --transport --share; keys of --root: path format ro fstype partition label; "
	    "of --disk:\n"
	    "  path format ro direct serial mount fstype mount_flags mount_data mkfs. CPUs and\n"
	    "  memory are the server's default otherwise.\n",
    .settings = start_settings,
    .nsettings = ARRAY_LEN(start_settings),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = start_run,
};

/* 0; 1: help; -errno. */
static int parse(const struct start_words *w, struct start_options *o, struct run_options *run,
		 const char **ret_name, struct err *err)
{
	struct arguments args = {.command = "start",
				 .settings = start_settings,
				 .nsettings = ARRAY_LEN(start_settings),
				 .target = o,
				 .operands_min = 1,
				 .operands_max = 1,
				 .operands_help = "the VM's name"};
	int res = arguments_parse(&args, w->nown, w->own, ret_name, NULL, err);

	if (res)
		return res;
	/* what is not said is the server's to decide */
	run->machine.cpus = 0;
	run->machine.memory_bytes = 0;
	run->no_boot = o->termina;
	res = run_options_parse(run, w->nrun, w->run, err);
	if (!res && o->termina)
		res = check_termina(o, &run->machine, err);
	if (res)
		return res;
	o->request.msg =
	    (VmTools__Concierge__StartVmRequest)VM_TOOLS__CONCIERGE__START_VM_REQUEST__INIT;
	o->request.vm =
	    (VmTools__Concierge__VirtualMachineSpec)VM_TOOLS__CONCIERGE__VIRTUAL_MACHINE_SPEC__INIT;
	return o->termina ? put_termina(&o->request, &run->machine, err)
			  : put_request(&o->request, &run->machine, err);
}

int cmd_start(int argc, char **argv)
{
	struct start_words words = {.nrun = 0};
	struct run_options run;
	struct err err = ERR_INIT;
	const char *name = NULL;
	struct start_options *o = calloc(1, sizeof(*o));
	int status = LODGE_USAGE, res;

	if (!o) {
		fputs("lodge start: out of memory\n", stderr);
		return LODGE_FAILED;
	}
	run_options_init(&run);
	res = sort_words(&words, argc, argv, &err);
	if (!res)
		res = parse(&words, o, &run, &name, &err);
	if (!res) {
		status = remote_connect_and_run(&start_command, &o->remote, &name, 1);
	} else if (res == 1) {
		remote_help(&start_command);
		status = LODGE_OK;
	} else {
		fprintf(stderr, "lodge start: %s\n", err.msg);
	}
	while (o->request.npaths)
		free(o->request.paths[--o->request.npaths]);
	free(o);
	run_options_fini(&run);
	free(words.run);
	free(words.own);
	return status;
}

void cmd_start_help(void)
{
	remote_help(&start_command);
}
