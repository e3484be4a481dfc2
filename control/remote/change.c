/*
 * `lodge pause`, `lodge resume`, `lodge link` and `lodge resize`: of a VM that runs.
 */
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"
#include "vmm/config.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static const struct option_setting change_settings[] = {
    REMOTE_SETTINGS,
};

/* Calls; the answer has nothing for people. */
static int change(struct remote *r, const char *method, const ProtobufCMessage *request)
{
	ProtobufCMessage *reply = remote_call(r, method, request);

	if (!reply)
		return r->status;
	if (r->options->json)
		print_json(reply);
	lodge_free(reply);
	return LODGE_OK;
}

/* ---- pause, resume ------------------------------------------------------------------------------
 */

static int pause_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__PauseVmRequest request = LODGE__V1__PAUSE_VM_REQUEST__INIT;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	return change(r, "PauseVm", &request.base);
}

static int resume_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__ResumeVmRequest request = LODGE__V1__RESUME_VM_REQUEST__INIT;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	return change(r, "ResumeVm", &request.base);
}

static const struct remote_command pause_command = {
    .name = "pause",
    .usage = "NAME",
    .about = "Makes the virtual CPUs of a VM stand still; `lodge resume` lets them go on.\n",
    .settings = change_settings,
    .nsettings = ARRAY_LEN(change_settings),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = pause_run,
};

static const struct remote_command resume_command = {
    .name = "resume",
    .usage = "NAME",
    .about = "Lets a VM go on that `lodge pause` made stand still.\n",
    .settings = change_settings,
    .nsettings = ARRAY_LEN(change_settings),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = resume_run,
};

/* ---- link ---------------------------------------------------------------------------------------
 */

/* "net1" or "1"; -1: neither. */
static int net_index(const char *word)
{
	unsigned index;

	if (!strncmp(word, "net", 3))
		word += 3;
	return parse_unsigned(word, 0, MACHINE_NETS_MAX - 1, &index) ? -1 : (int)index;
}

static bool is_up(const char *word)
{
	return !strcmp(word, "up");
}

static int link_check(const struct remote_options *options, const char *const *operands,
		      unsigned noperands, struct err *err)
{
	const char *state = noperands ? operands[noperands - 1] : "";

	(void)options;
	if (noperands < 2 || (!is_up(state) && strcmp(state, "down") != 0))
		return err_set(err, EINVAL, "say NAME [NET] up|down, such as: web net0 down");
	if (noperands == 3 && net_index(operands[1]) < 0)
		return err_set(err, EINVAL, "'%s' is no interface; say net0, net1, ...",
			       operands[1]);
	return 0;
}

static int link_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__SetVmLinkRequest request = LODGE__V1__SET_VM_LINK_REQUEST__INIT;

	request.name = remote_borrow(operands[0]);
	request.network = noperands == 3 ? (unsigned)net_index(operands[1]) : 0;
	request.up = is_up(operands[noperands - 1]);
	return change(r, "SetVmLink", &request.base);
}

static const struct remote_command link_command = {
    .name = "link",
    .usage = "NAME [NET] up|down",
    .about =
	"Plugs in, or pulls out, the cable of an interface of a running VM. NET is net0 (which\n"
	"is meant without it), net1, ... in the order in which they were asked for.\n",
    .settings = change_settings,
    .nsettings = ARRAY_LEN(change_settings),
    .operands_max = 3,
    .operands_help = "NAME [NET] up|down",
    .check = link_check,
    .run = link_run,
};

/* ---- resize -------------------------------------------------------------------------------------
 */

#define GROW_TRIES    50
#define GROW_PAUSE_NS 100000000

struct resize_options {
	struct remote_options remote;
	bool grow;
};

static int set_grow(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct resize_options *)target)->grow = true;
	return 0;
}

static const struct option_setting resize_settings[] = {
    {"grow", NULL, set_grow, "its file system as well, where the guest has it mounted"},
    REMOTE_SETTINGS,
};

/* "vdb" or "1"; -1: neither. */
static int disk_index(const char *word)
{
	unsigned index;

	if (!strncmp(word, "vd", 2) && word[2] >= 'a' && word[2] < 'a' + MACHINE_DISKS_MAX &&
	    !word[3])
		return word[2] - 'a';
	return parse_unsigned(word, 0, MACHINE_DISKS_MAX - 1, &index) ? -1 : (int)index;
}

static int resize_check(const struct remote_options *options, const char *const *operands,
			unsigned noperands, struct err *err)
{
	uint64_t size_bytes;

	(void)options;
	if (noperands < 3)
		return err_set(err, EINVAL, "say NAME DISK SIZE, such as: web vda 20G");
	if (disk_index(operands[1]) < 0)
		return err_set(err, EINVAL, "'%s' is no disk; say vda, vdb, ...", operands[1]);
	if (parse_size(operands[2], &size_bytes))
		return err_set(err, EINVAL, "'%s' is no size; say for example 20G", operands[2]);
	return 0;
}

/* Where the disk is mounted, by the guest's facts; NULL: nowhere, or the guest does not see its
 * size yet. */
static const char *mounted_on(const Lodge__Agent__V1__GetFactsResponse *f, const char *disk,
			      uint64_t size_bytes)
{
	bool sees = false;

	for (size_t i = 0; i < f->n_disks; i++)
		sees |= !strcmp(f->disks[i]->name, disk) && f->disks[i]->size_bytes >= size_bytes;
	for (size_t i = 0; i < f->n_filesystems && sees; i++) {
		const char *source = f->filesystems[i]->source;

		if (!strncmp(source, "/dev/", 5) && !strcmp(source + 5, disk))
			return f->filesystems[i]->target;
	}
	return NULL;
}

static int grow_on(struct remote *r, const char *vm, const char *target)
{
	Lodge__V1__GrowGuestFilesystemRequest request =
	    LODGE__V1__GROW_GUEST_FILESYSTEM_REQUEST__INIT;
	Lodge__Agent__V1__GrowFilesystemRequest inner =
	    LODGE__AGENT__V1__GROW_FILESYSTEM_REQUEST__INIT;

	request.name = remote_borrow(vm);
	request.request = &inner;
	inner.target = remote_borrow(target);
	return change(r, "GrowGuestFilesystem", &request.base);
}

/* The guest learns of the new size a moment after the disk has it. */
static int grow(struct remote *r, const char *vm, const char *disk, uint64_t size_bytes)
{
	Lodge__V1__GetGuestFactsRequest request = LODGE__V1__GET_GUEST_FACTS_REQUEST__INIT;
	const struct timespec pause = {.tv_nsec = GROW_PAUSE_NS};

	request.name = remote_borrow(vm);
	for (int i = 0; i < GROW_TRIES; i++) {
		ProtobufCMessage *facts = remote_call(r, "GetGuestFacts", &request.base);
		const char *target;
		int status = LODGE_OK;

		if (!facts)
			return r->status;
		target = mounted_on((Lodge__Agent__V1__GetFactsResponse *)facts, disk, size_bytes);
		if (target)
			status = grow_on(r, vm, target);
		lodge_free(facts);
		if (target)
			return status;
		nanosleep(&pause, NULL);
	}
	return remote_fail(r, LODGE_FAILED,
			   "the disk is larger, but the guest has no file system on all of /dev/%s",
			   disk);
}

static int resize_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__ResizeVmDiskRequest request = LODGE__V1__RESIZE_VM_DISK_REQUEST__INIT;
	const struct resize_options *o = (const struct resize_options *)r->options;
	char disk[] = "vd?";
	int status;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	request.disk = (unsigned)disk_index(operands[1]);
	(void)parse_size(operands[2], &request.size_bytes);
	status = change(r, "ResizeVmDisk", &request.base);
	if (status || !o->grow)
		return status;
	disk[2] = (char)('a' + request.disk);
	return grow(r, operands[0], disk, request.size_bytes);
}

static const struct remote_command resize_command = {
    .name = "resize",
    .usage = "NAME DISK SIZE",
    .about = "Makes a disk of a running VM larger, image and device; the guest is told. DISK is\n"
	     "vda, vdb, ... in the order of `lodge info`. Images that no VM uses: `lodge image\n"
	     "resize` below the server's storage root, `lodge disk resize` for any file.\n",
    .settings = resize_settings,
    .nsettings = ARRAY_LEN(resize_settings),
    .operands_max = 3,
    .operands_help = "NAME DISK SIZE",
    .check = resize_check,
    .run = resize_run,
};

/* ---- commands -----------------------------------------------------------------------------------
 */

static int change_command(const struct remote_command *command, int argc, char **argv)
{
	struct remote_options options = {.json = false};

	return remote_run(command, &options, argc, argv);
}

int cmd_pause(int argc, char **argv)
{
	return change_command(&pause_command, argc, argv);
}

int cmd_resume(int argc, char **argv)
{
	return change_command(&resume_command, argc, argv);
}

int cmd_link(int argc, char **argv)
{
	return change_command(&link_command, argc, argv);
}

void cmd_link_help(void)
{
	remote_help(&link_command);
}

int cmd_resize(int argc, char **argv)
{
	struct resize_options options = {.grow = false};

	return remote_run(&resize_command, &options.remote, argc, argv);
}

void cmd_pause_help(void)
{
	remote_help(&pause_command);
}

void cmd_resume_help(void)
{
	remote_help(&resume_command);
}

void cmd_resize_help(void)
{
	remote_help(&resize_command);
}
