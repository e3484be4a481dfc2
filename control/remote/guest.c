/*
 * `lodge guest`: what the agent says of a guest, and what it does there beside running programs.
 */
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"
#include "control/remote/table.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>

#define GUEST_WORD 6	/* "guest " before the command's own name */
#define WAIT_MS	   5000 /* for a device that the guest has just been given */
#define NS_PER_S   INT64_C(1000000000)

/* ---- facts --------------------------------------------------------------------------------------
 */

static const struct option_setting facts_settings[] = {REMOTE_SETTINGS};

static void print_text(const char *what, const char *text)
{
	if (!*text)
		return;
	printf("%-10s ", what);
	print_plain(text);
	putchar('\n');
}

static void facts_filesystems(const Lodge__Agent__V1__GetFactsResponse *f)
{
	static const struct table_column columns[] = {
	    {"FILE SYSTEM", false}, {"TYPE", false},  {"SIZE", true},
	    {"FREE", true},	    {"WRITE", false}, {"MOUNTED ON", false},
	};
	struct table t = TABLE_INIT(columns);

	for (size_t i = 0; i < f->n_filesystems; i++) {
		const Lodge__Agent__V1__Filesystem *s = f->filesystems[i];
		char size[PRINT_NUMBER_MAX], available[PRINT_NUMBER_MAX];

		table_cell(&t, "%s", s->source);
		table_cell(&t, "%s", s->fstype);
		table_cell(&t, "%s", print_bytes(s->size_bytes, size));
		table_cell(&t, "%s", print_bytes(s->available_bytes, available));
		table_cell(&t, "%s", s->read_only ? "no" : "yes");
		table_cell(&t, "%s", s->target);
	}
	if (f->n_filesystems) {
		putchar('\n');
		table_print(&t, stdout, SIZE_MAX, 0, "\n");
	}
	table_free(&t);
}

static void facts_interfaces(const Lodge__Agent__V1__GetFactsResponse *f)
{
	static const struct table_column columns[] = {
	    {"INTERFACE", false}, {"STATE", false},   {"MTU", true},
	    {"MAC", false},	  {"ADDRESS", false},
	};
	struct table t = TABLE_INIT(columns);

	for (size_t i = 0; i < f->n_interfaces; i++) {
		const Lodge__Agent__V1__Interface *n = f->interfaces[i];
		char mtu[PRINT_NUMBER_MAX];

		snprintf(mtu, sizeof(mtu), "%u", n->mtu);
		for (size_t k = 0; !k || k < n->n_addresses; k++) { /* a row each */
			table_cell(&t, "%s", k ? "" : n->name);
			table_cell(&t, "%s", k ? "" : n->up ? "up" : "down");
			table_cell(&t, "%s", k ? "" : mtu);
			table_cell(&t, "%s", k ? "" : n->mac);
			table_cell(&t, "%s", k < n->n_addresses ? n->addresses[k] : "");
		}
	}
	if (f->n_interfaces) {
		putchar('\n');
		table_print(&t, stdout, SIZE_MAX, 0, "\n");
	}
	table_free(&t);
}

static void facts_text(const Lodge__Agent__V1__GetFactsResponse *f)
{
	char total[PRINT_NUMBER_MAX], available[PRINT_NUMBER_MAX], up[PRINT_NUMBER_MAX];
	time_t seconds = (time_t)(f->time_ns / NS_PER_S);
	char date[64] = "?";
	struct tm tm;

	if (gmtime_r(&seconds, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S UTC", &tm);
	print_text("host name:", f->hostname);
	print_text("system:", f->os);
	print_text("kernel:", f->kernel_release);
	print_text("machine:", f->machine);
	printf("%-10s %u\n%-10s %s, %s free\n%-10s %s\n%-10s %s\n", "cpus:", f->cpus,
	       "memory:", print_bytes(f->memory_bytes, total),
	       print_bytes(f->memory_available_bytes, available),
	       "up:", print_duration(f->uptime_ns, up), "time:", date);
	print_text("agent:", f->agent_version);
	for (size_t i = 0; i < f->n_disks; i++) {
		char size[PRINT_NUMBER_MAX];

		print_plain(f->disks[i]->name);
		printf(": %s%s\n", print_bytes(f->disks[i]->size_bytes, size),
		       f->disks[i]->read_only ? ", read-only" : "");
	}
	facts_filesystems(f);
	facts_interfaces(f);
}

static int facts_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__GetGuestFactsRequest request = LODGE__V1__GET_GUEST_FACTS_REQUEST__INIT;
	ProtobufCMessage *reply;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	reply = remote_call(r, "GetGuestFacts", &request.base);
	if (!reply)
		return r->status;
	if (r->options->json)
		print_json(reply);
	else
		facts_text((const Lodge__Agent__V1__GetFactsResponse *)reply);
	lodge_free(reply);
	return LODGE_OK;
}

/* ---- mount, umount ------------------------------------------------------------------------------
 */

struct mount_options {
	struct remote_options remote;
	const char *fstype, *data;
	bool read_only, make, lazy;
};

static int set_fstype(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct mount_options *)target)->fstype = value;
	return 0;
}

static int set_data(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct mount_options *)target)->data = value;
	return 0;
}

static int set_read_only(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct mount_options *)target)->read_only = true;
	return 0;
}

static int set_make(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct mount_options *)target)->make = true;
	return 0;
}

static int set_lazy(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct mount_options *)target)->lazy = true;
	return 0;
}

static const struct option_setting mount_settings[] = {
    {"fstype", "TYPE", set_fstype, "of the file system (ext4)"},
    {"ro", NULL, set_read_only, "for reading alone"},
    {"data", "OPTIONS", set_data, "the file system's own options, as of mount -o"},
    {"mkfs", NULL, set_make, "make the file system first if the disk is blank"},
    REMOTE_SETTINGS,
};

static const struct option_setting umount_settings[] = {
    {"lazy", NULL, set_lazy, "out of sight now, gone when nobody uses it any more"},
    REMOTE_SETTINGS,
};

static int call(struct remote *r, const char *method, const ProtobufCMessage *request)
{
	ProtobufCMessage *reply = remote_call(r, method, request);

	if (!reply)
		return r->status;
	if (r->options->json)
		print_json(reply);
	lodge_free(reply);
	return LODGE_OK;
}

static int mount_check(const struct remote_options *options, const char *const *operands,
		       unsigned noperands, struct err *err)
{
	(void)options;
	if (noperands < 3)
		return err_set(err, EINVAL, "say NAME SOURCE TARGET, such as: web /dev/vdb /data");
	if (operands[2][0] != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", operands[2]);
	return 0;
}

static int mount_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct mount_options *o = (const struct mount_options *)r->options;
	Lodge__V1__MountInGuestRequest request = LODGE__V1__MOUNT_IN_GUEST_REQUEST__INIT;
	Lodge__Agent__V1__MountRequest inner = LODGE__AGENT__V1__MOUNT_REQUEST__INIT;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	request.request = &inner;
	inner.source = remote_borrow(operands[1]);
	inner.target = remote_borrow(operands[2]);
	inner.fstype = remote_borrow(o->fstype ? o->fstype : "ext4");
	inner.data = remote_borrow(o->data ? o->data : "");
	inner.flags = o->read_only ? MS_RDONLY : 0;
	inner.mkfs_if_blank = o->make;
	inner.wait_ms = WAIT_MS;
	return call(r, "MountInGuest", &request.base);
}

static int umount_check(const struct remote_options *options, const char *const *operands,
			unsigned noperands, struct err *err)
{
	(void)options;
	(void)operands;
	return noperands < 2 ? err_set(err, EINVAL, "say NAME TARGET, such as: web /data") : 0;
}

static int umount_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct mount_options *o = (const struct mount_options *)r->options;
	Lodge__V1__UnmountInGuestRequest request = LODGE__V1__UNMOUNT_IN_GUEST_REQUEST__INIT;
	Lodge__Agent__V1__UnmountRequest inner = LODGE__AGENT__V1__UNMOUNT_REQUEST__INIT;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	request.request = &inner;
	inner.target = remote_borrow(operands[1]);
	inner.detach = o->lazy;
	return call(r, "UnmountInGuest", &request.base);
}

/* ---- time ---------------------------------------------------------------------------------------
 */

static int time_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__SetGuestTimeRequest request = LODGE__V1__SET_GUEST_TIME_REQUEST__INIT;
	Lodge__Agent__V1__SetTimeRequest inner = LODGE__AGENT__V1__SET_TIME_REQUEST__INIT;
	struct timespec now;

	(void)noperands;
	clock_gettime(CLOCK_REALTIME, &now);
	request.name = remote_borrow(operands[0]);
	request.request = &inner;
	inner.time_ns = (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
	return call(r, "SetGuestTime", &request.base);
}

/* ---- the commands -------------------------------------------------------------------------------
 */

#define SETTINGS(table) .settings = table, .nsettings = ARRAY_LEN(table)

static const struct remote_command guest_commands[] = {
    {.name = "guest facts",
     .usage = "NAME",
     .about =
	 "Prints what the agent says of a guest: system, memory, disks, file systems, addresses.\n",
     SETTINGS(facts_settings),
     .operands_min = 1,
     .operands_max = 1,
     .operands_help = "the VM's name",
     .run = facts_run},
    {.name = "guest mount",
     .usage = "NAME SOURCE TARGET",
     .about = "Mounts a disk in a guest; TARGET is made if it is missing.\n",
     SETTINGS(mount_settings),
     .operands_max = 3,
     .operands_help = "NAME SOURCE TARGET",
     .check = mount_check,
     .run = mount_run},
    {.name = "guest umount",
     .usage = "NAME TARGET",
     .about = "Unmounts what is mounted on TARGET in a guest.\n",
     SETTINGS(umount_settings),
     .operands_max = 2,
     .operands_help = "NAME TARGET",
     .check = umount_check,
     .run = umount_run},
    {.name = "guest time",
     .usage = "NAME",
     .about = "Sets the clock of a guest by the one here, after a pause for instance.\n",
     SETTINGS(facts_settings),
     .operands_min = 1,
     .operands_max = 1,
     .operands_help = "the VM's name",
     .run = time_run},
};

static const struct remote_command *guest_find(const char *word)
{
	for (size_t i = 0; i < ARRAY_LEN(guest_commands); i++) {
		if (!strcmp(guest_commands[i].name + GUEST_WORD, word))
			return &guest_commands[i];
	}
	return NULL;
}

int cmd_guest(int argc, char **argv)
{
	struct mount_options options = {.fstype = NULL};
	const struct remote_command *command = argc > 1 ? guest_find(argv[1]) : NULL;

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		cmd_guest_help();
		return LODGE_OK;
	}
	if (command)
		return remote_run(command, &options.remote, argc - 1, argv + 1);
	return remote_run(&guest_commands[0], &options.remote, argc, argv); /* `lodge guest NAME` */
}

void cmd_guest_help(void)
{
	fputs("usage: lodge guest [COMMAND] NAME ...\n\n"
	      "What the agent in a guest says of it, and does there.\n\nCommands:\n",
	      stdout);
	for (size_t i = 0; i < ARRAY_LEN(guest_commands); i++)
		printf("  %-8s %s\n", guest_commands[i].name + GUEST_WORD, guest_commands[i].usage);
	fputs("\nWithout a command: facts. `lodge help guest COMMAND` explains one.\n", stdout);
}

int cmd_guest_help_of(const char *word)
{
	const struct remote_command *command = guest_find(word);

	if (!command) {
		fprintf(stderr,
			"lodge guest: unknown command '%s'; `lodge help guest` lists them\n", word);
		return LODGE_USAGE;
	}
	remote_help(command);
	return LODGE_OK;
}
