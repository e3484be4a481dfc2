/*
 * `lodge stop`: one VM, several at the same time, or all.
 */
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"

#include <errno.h>
#include <stdio.h>

#define STOP_TIMEOUT_MAX_S 86400
/* Calls at the same time, each on a connection of its own. */
#define STOP_BATCH 64

struct stop_options {
	struct remote_options remote;
	bool all;
	bool force;
	unsigned guest_ms; /* 0: the server's default */
};

static int set_all(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct stop_options *)target)->all = true;
	return 0;
}

static int set_force(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct stop_options *)target)->force = true;
	return 0;
}

static int set_guest_timeout(void *target, const char *value, struct err *err)
{
	unsigned seconds;

	if (parse_unsigned(value, 1, STOP_TIMEOUT_MAX_S, &seconds))
		return err_set(err, EINVAL,
			       "'%s' is not a number of seconds from 1 to %d; for no "
			       "time at all say --force",
			       value, STOP_TIMEOUT_MAX_S);
	((struct stop_options *)target)->guest_ms = seconds * 1000;
	return 0;
}

static const struct option_setting stop_settings[] = {
    {"all", NULL, set_all, "stop every VM of the server"},
    {"force", NULL, set_force, "do not ask the guests at all"},
    {"timeout", "SECONDS", set_guest_timeout, "how long a guest may take to shut down (8)"},
    REMOTE_SETTING_SOCKET,
    REMOTE_SETTING_JSON,
};

/* What a StopVm answered. */
static int stopped(struct remote *r, const char *name, const ProtobufCMessage *msg)
{
	const VmTools__Concierge__StopVmResponse *reply =
	    (const VmTools__Concierge__StopVmResponse *)msg;
	VmTools__Concierge__GetVmInfoRequest request =
	    VM_TOOLS__CONCIERGE__GET_VM_INFO_REQUEST__INIT;
	ProtobufCMessage *info;
	int status;

	if (r->options->json) {
		struct json j = JSON_INIT(stdout);

		json_object_inline(&j, NULL);
		json_string(&j, "name", name);
		print_fields(&j, msg);
		json_end(&j);
	}
	if (reply->success)
		return LODGE_OK;
	/* the answer has no code for it */
	request.name = remote_borrow(name);
	info = remote_call(r, "GetVmInfo", &request.base);
	if (!info)
		return r->status;
	status = ((const VmTools__Concierge__GetVmInfoResponse *)info)->success ? LODGE_FAILED
										: REMOTE_NO_VM;
	lodge_free(info);
	return remote_fail(r, status, "%s", reply->failure_reason);
}

/* The first failure's status. */
static int stop_batch(struct remote *r, const char *const *names, unsigned n)
{
	const struct stop_options *o = (const struct stop_options *)r->options;
	struct lodge_client *clients[STOP_BATCH] = {NULL};
	struct lodge_error error;
	int status = LODGE_OK;

	for (unsigned i = 0; i < n; i++) {
		VmTools__Concierge__StopVmRequest request =
		    VM_TOOLS__CONCIERGE__STOP_VM_REQUEST__INIT;
		int res = remote_connect(r, &clients[i]);

		request.name = remote_borrow(names[i]);
		request.timeout_ms = o->guest_ms;
		request.force = o->force;
		if (!res && lodge_begin(clients[i], "StopVm", &request.base, 0, &error))
			res = remote_failed(r, &error);
		if (res) {
			lodge_close(clients[i]);
			clients[i] = NULL;
			status = status ? status : res;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		ProtobufCMessage *reply = NULL;
		int res = LODGE_OK;

		if (!clients[i])
			continue;
		if (lodge_next(clients[i], -1, &reply, &error) == LODGE_NEXT_MESSAGE)
			res = stopped(r, names[i], reply);
		else
			res = remote_failed(r, &error);
		status = status ? status : res;
		lodge_free(reply);
		lodge_close(clients[i]);
	}
	return status;
}

static int stop_all(struct remote *r)
{
	const struct stop_options *o = (const struct stop_options *)r->options;
	Lodge__V1__StopAllVmsRequest request = LODGE__V1__STOP_ALL_VMS_REQUEST__INIT;
	ProtobufCMessage *reply;

	request.timeout_ms = o->guest_ms;
	request.force = o->force;
	reply = remote_call(r, "StopAllVms", &request.base);
	if (reply && r->options->json)
		print_json(reply);
	lodge_free(reply);
	return reply ? LODGE_OK : r->status;
}

static int stop_check(const struct remote_options *options, const char *const *operands,
		      unsigned noperands, struct err *err)
{
	bool all = ((const struct stop_options *)options)->all;

	if (all && noperands)
		return err_set(err, EINVAL, "--all and '%s': say the one or the other",
			       operands[0]);
	if (!all && !noperands)
		return err_set(err, EINVAL, "which VM? say its name, or --all");
	return 0;
}

static int stop_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	int status = LODGE_OK;

	if (((const struct stop_options *)r->options)->all)
		return stop_all(r);
	for (unsigned at = 0; at < noperands; at += STOP_BATCH) {
		int res = stop_batch(r, operands + at, MIN(noperands - at, (unsigned)STOP_BATCH));

		status = status ? status : res;
	}
	return status;
}

static const struct remote_command stop_command = {
    .name = "stop",
    .usage = "NAME... | --all",
    .about = "Asks guests to shut down, stops those that do not, and ends when all are gone.\n"
	     "Several VMs are stopped at the same time.\n",
    .settings = stop_settings,
    .nsettings = ARRAY_LEN(stop_settings),
    .operands_max = ~0u,
    .operands_help = "the VM's name",
    .check = stop_check,
    .run = stop_run,
};

int cmd_stop(int argc, char **argv)
{
	struct stop_options options = {.all = false};

	return remote_run(&stop_command, &options.remote, argc, argv);
}

void cmd_stop_help(void)
{
	remote_help(&stop_command);
}
