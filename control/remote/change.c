/*
 * `lodge pause`, `lodge resume` and `lodge resize`: of a VM that runs.
 */
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"
#include "vmm/config.h"

#include <errno.h>
#include <string.h>

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

/* ---- resize -------------------------------------------------------------------------------------
 */

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

static int resize_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__ResizeVmDiskRequest request = LODGE__V1__RESIZE_VM_DISK_REQUEST__INIT;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	request.disk = (unsigned)disk_index(operands[1]);
	(void)parse_size(operands[2], &request.size_bytes);
	return change(r, "ResizeVmDisk", &request.base);
}

static const struct remote_command resize_command = {
    .name = "resize",
    .usage = "NAME DISK SIZE",
    .about = "Makes a disk of a running VM larger, image and device; the guest is told. DISK is\n"
	     "vda, vdb, ... in the order of `lodge info`. Images that no VM uses: `lodge image\n"
	     "resize` below the server's storage root, `lodge disk resize` for any file.\n",
    .settings = change_settings,
    .nsettings = ARRAY_LEN(change_settings),
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

int cmd_resize(int argc, char **argv)
{
	return change_command(&resize_command, argc, argv);
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
