/*
 * `lodge list` and `lodge info`: what runs.
 */
#include "base/checked.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"
#include "control/remote/table.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- list ---------------------------------------------------------------------------------------
 */

struct list_options {
	struct remote_options remote;
	bool names;
};

static int set_names(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct list_options *)target)->names = true;
	return 0;
}

static const struct option_setting list_settings[] = {
    {"names", NULL, set_names, "print the names alone, one on each line"},
    REMOTE_SETTINGS,
};

static int by_name(const void *a, const void *b)
{
	const VmTools__Concierge__VmInfo *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static const char *state_text(const VmTools__Concierge__VmInfo *vm, char text[PRINT_ENUM_MAX])
{
	return print_enum(&vm_tools__concierge__vm_state__descriptor, (int)vm->state, text);
}

/* Of its first interface; "-": it has none that the host knows. */
static const char *address_text(const VmTools__Concierge__VmInfo *vm, char text[INET_ADDRSTRLEN])
{
	const struct in_addr a = {vm->ipv4_address};

	return vm->ipv4_address ? inet_ntop(AF_INET, &a, text, INET_ADDRSTRLEN) : "-";
}

static void list_table(const Lodge__V1__ListVmsResponse *reply)
{
	static const struct table_column columns[] = {
	    {"NAME", false},  {"STATE", false}, {"PID", true},	   {"CPUS", true},
	    {"MEMORY", true}, {"DISKS", true},	{"ADDRESS", true},
	};
	struct table t = TABLE_INIT(columns);

	for (size_t i = 0; i < reply->n_vms; i++) {
		const VmTools__Concierge__VmInfo *vm = reply->vms[i];
		char state[PRINT_ENUM_MAX], memory[PRINT_NUMBER_MAX], address[INET_ADDRSTRLEN];

		table_cell(&t, "%s", vm->name);
		table_cell(&t, "%s", state_text(vm, state));
		table_cell(&t, "%d", vm->pid);
		table_cell(&t, "%u", vm->cpus);
		table_cell(&t, "%s", print_bytes(vm->memory_bytes, memory));
		table_cell(&t, "%zu", vm->n_disk_paths);
		table_cell(&t, "%s", address_text(vm, address));
	}
	table_print(&t, stdout, SIZE_MAX, 0, "\n");
	table_free(&t);
}

static int list_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__ListVmsRequest request = LODGE__V1__LIST_VMS_REQUEST__INIT;
	ProtobufCMessage *msg = remote_call(r, "ListVms", &request.base);
	const Lodge__V1__ListVmsResponse *reply = (const Lodge__V1__ListVmsResponse *)msg;

	(void)operands;
	(void)noperands;
	if (!msg)
		return r->status;
	if (reply->n_vms)
		qsort(reply->vms, reply->n_vms, sizeof(*reply->vms), by_name);
	if (r->options->json) {
		print_json(msg);
	} else if (((const struct list_options *)r->options)->names) {
		for (size_t i = 0; i < reply->n_vms; i++) {
			print_plain(reply->vms[i]->name);
			putchar('\n');
		}
	} else {
		list_table(reply);
	}
	lodge_free(msg);
	return LODGE_OK;
}

static const struct remote_command list_command = {
    .name = "list",
    .usage = "",
    .about = "Prints the VMs of the server: those that start, run, are paused or stop.\n",
    .settings = list_settings,
    .nsettings = ARRAY_LEN(list_settings),
    .run = list_run,
};

int cmd_list(int argc, char **argv)
{
	struct list_options options = {.names = false};

	return remote_run(&list_command, &options.remote, argc, argv);
}

void cmd_list_help(void)
{
	remote_help(&list_command);
}

/* ---- info ---------------------------------------------------------------------------------------
 */

static const struct option_setting info_settings[] = {REMOTE_SETTINGS};

static void info_text(const VmTools__Concierge__VmInfo *vm)
{
	char state[PRINT_ENUM_MAX], memory[PRINT_NUMBER_MAX], address[INET_ADDRSTRLEN];

	printf("name:    ");
	print_plain(vm->name);
	printf("\nstate:   %s\npid:     %d\ncpus:    %u\nmemory:  %s\n", state_text(vm, state),
	       vm->pid, vm->cpus, print_bytes(vm->memory_bytes, memory));
	if (vm->ipv4_address)
		printf("address: %s\n", address_text(vm, address));
	if (*vm->container_subnet) {
		fputs("containers: ", stdout);
		print_plain(vm->container_subnet);
		putchar('\n');
	}
	if (vm->cid)
		printf("cid:     %" PRId64 "\n", vm->cid);
	for (size_t i = 0; i < vm->n_disk_paths; i++) {
		printf("vd%c:     ", (char)('a' + i));
		print_plain(vm->disk_paths[i]);
		putchar('\n');
	}
}

static int info_vm(struct remote *r, const char *name)
{
	VmTools__Concierge__GetVmInfoRequest request =
	    VM_TOOLS__CONCIERGE__GET_VM_INFO_REQUEST__INIT;
	const VmTools__Concierge__GetVmInfoResponse *reply;
	ProtobufCMessage *msg;
	int status = LODGE_OK;

	request.name = remote_borrow(name);
	msg = remote_call(r, "GetVmInfo", &request.base);
	reply = (const VmTools__Concierge__GetVmInfoResponse *)msg;
	if (!msg)
		return r->status;
	if (!reply->success || !reply->vm_info)
		status = remote_fail(r, REMOTE_NO_VM,
				     "there is no VM '%s'; `lodge list` shows what runs", name);
	else if (r->options->json)
		print_json(&reply->vm_info->base);
	else
		info_text(reply->vm_info);
	lodge_free(msg);
	return status;
}

static int info_server(struct remote *r)
{
	Lodge__V1__GetServerInfoRequest request = LODGE__V1__GET_SERVER_INFO_REQUEST__INIT;
	ProtobufCMessage *msg = remote_call(r, "GetServerInfo", &request.base);
	const Lodge__V1__GetServerInfoResponse *reply =
	    (const Lodge__V1__GetServerInfoResponse *)msg;
	char uptime[PRINT_NUMBER_MAX];

	if (!msg)
		return r->status;
	if (r->options->json) {
		print_json(msg);
	} else {
		printf("server:  lodge ");
		print_plain(reply->version);
		printf("\npid:     %d\nuptime:  %s\nvms:     %u\naccess:  %s\n", reply->pid,
		       print_duration(reply->uptime_ns, uptime), reply->vms,
		       reply->read_only ? "you may only look" : "all calls");
	}
	lodge_free(msg);
	return LODGE_OK;
}

static int info_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	return noperands ? info_vm(r, operands[0]) : info_server(r);
}

static const struct remote_command info_command = {
    .name = "info",
    .usage = "[NAME]",
    .about = "Prints what a VM is: state, process, processors, memory, disks; without NAME what\n"
	     "the server is.\n",
    .settings = info_settings,
    .nsettings = ARRAY_LEN(info_settings),
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = info_run,
};

int cmd_info(int argc, char **argv)
{
	struct remote_options options = {.json = false};

	return remote_run(&info_command, &options, argc, argv);
}

void cmd_info_help(void)
{
	remote_help(&info_command);
}
