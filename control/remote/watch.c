/*
 * `lodge wait` and `lodge events`: how VMs end, and all that happens to them.
 */
#include "base/checked.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- wait ---------------------------------------------------------------------------------------
 */

/* A VM's own exit status goes first: what `lodge wait` could not do stands above it. */
#define WAIT_FAILED 100

static const struct option_setting watch_settings[] = {
    REMOTE_SETTING_SOCKET,
    REMOTE_SETTING_JSON,
    {"timeout", "SECONDS", remote_set_timeout, "how long to wait (for ever)"},
};

static int wait_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__WaitVmRequest request = LODGE__V1__WAIT_VM_REQUEST__INIT;
	const Lodge__V1__WaitVmResponse *reply;
	ProtobufCMessage *msg;
	int status;

	(void)noperands;
	request.name = remote_borrow(operands[0]);
	msg = remote_call(r, "WaitVm", &request.base);
	if (!msg)
		return r->status;
	reply = (const Lodge__V1__WaitVmResponse *)msg;
	if (r->options->json) {
		struct json j = JSON_INIT(stdout);

		json_object(&j, NULL);
		json_string(&j, "name", operands[0]);
		print_fields(&j, msg);
		json_end(&j);
	} else {
		print_plain(reply->reason);
		putchar('\n');
	}
	status = reply->exit_status & 0xff;
	lodge_free(msg);
	return status;
}

static const struct remote_command wait_command = {
    .name = "wait",
    .usage = "NAME",
    .about = "Waits until a VM has ended, and says how.\n",
    .more =
	"Exit status: that of `lodge run` for this end (0 the guest powered off, 3 reboot,\n"
	"4 panic, 5 triple fault, 6 the host failed it, ...). What wait itself could not do is\n"
	"100 more than with the other commands: 101 failed or timed out, 103 no such VM,\n"
	"104 server not reachable, 105 not allowed; 2 wrong arguments.\n",
    .settings = watch_settings,
    .nsettings = ARRAY_LEN(watch_settings),
    .operands_min = 1,
    .operands_max = 1,
    .operands_help = "the VM's name",
    .failed_base = WAIT_FAILED,
    .run = wait_run,
};

int cmd_wait(int argc, char **argv)
{
	struct remote_options options = {.json = false};

	return remote_run(&wait_command, &options, argc, argv);
}

void cmd_wait_help(void)
{
	remote_help(&wait_command);
}

/* ---- events -------------------------------------------------------------------------------------
 */

static void event_json(const Lodge__V1__VmEvent *e, const char *state)
{
	struct json j = JSON_INIT(stdout);
	char end[PRINT_ENUM_MAX];

	json_object_inline(&j, NULL);
	json_u64(&j, "time_ns", e->time_ns);
	json_string(&j, "name", e->name);
	json_string(&j, "state", state);
	json_u64(&j, "pid", (uint64_t)MAX(e->pid, 0));
	json_bool(&j, "initial", e->initial);
	if (!e->state) {
		json_string(&j, "end",
			    print_enum(&lodge__v1__vm_end__descriptor, (int)e->end, end));
		json_string(&j, "reason", e->reason);
		json_u64(&j, "exit_status", (uint64_t)MAX(e->exit_status, 0));
	}
	json_end(&j);
}

static void event_text(const Lodge__V1__VmEvent *e, const char *state)
{
	time_t seconds = (time_t)(e->time_ns / 1000000000);
	char when[32] = "";
	struct tm tm;

	if (localtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%s.%03u  %-8s  ", when, (unsigned)(e->time_ns / 1000000 % 1000), state);
	print_plain(e->name);
	if (e->state) {
		printf("  pid %d", e->pid);
	} else {
		printf("  ");
		print_plain(e->reason);
	}
	putchar('\n');
}

static int event_take(void *ctx, const ProtobufCMessage *msg)
{
	const Lodge__V1__VmEvent *e = (const Lodge__V1__VmEvent *)msg;
	const struct remote *r = ctx;
	char text[PRINT_ENUM_MAX];
	const char *state = "ended";

	if (e->initial_done)
		return 0;
	if (e->state)
		state = print_enum(&vm_tools__concierge__vm_state__descriptor, (int)e->state, text);
	if (r->options->json)
		event_json(e, state);
	else
		event_text(e, state);
	return !remote_flush();
}

static int events_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__WatchEventsRequest request = LODGE__V1__WATCH_EVENTS_REQUEST__INIT;
	struct lodge_error error;
	int res;

	if (noperands)
		request.name = remote_borrow(operands[0]);
	res = lodge_begin(r->client, "WatchEvents", &request.base, r->options->timeout_ms, &error);
	if (!res)
		res = lodge_each(r->client, event_take, r, &error);
	/* so long was asked for */
	if (!res || (r->options->timeout_ms && res == LODGE_STATUS_DEADLINE_EXCEEDED))
		return LODGE_OK;
	return remote_failed(r, &error);
}

static const struct remote_command events_command = {
    .name = "events",
    .usage = "[NAME]",
    .about = "Prints the state of each VM, or of one, as it is, and then each change as it\n"
	     "happens: starting, running, paused, stopping, ended and why.\n",
    .settings = watch_settings,
    .nsettings = ARRAY_LEN(watch_settings),
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = events_run,
};

int cmd_events(int argc, char **argv)
{
	struct remote_options options = {.json = false};

	return remote_run(&events_command, &options, argc, argv);
}

void cmd_events_help(void)
{
	remote_help(&events_command);
}
