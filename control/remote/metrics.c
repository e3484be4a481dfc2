/*
 * `lodge metrics`: what VMs have done so far, for programs.
 */
#include "base/checked.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"

#include <stdio.h>

static const struct option_setting metrics_settings[] = {REMOTE_SETTINGS};

static int metrics_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	Lodge__V1__GetMetricsRequest request = LODGE__V1__GET_METRICS_REQUEST__INIT;
	ProtobufCMessage *msg;

	if (noperands)
		request.name = remote_borrow(operands[0]);
	msg = remote_call(r, r->options->json ? "GetMetrics" : "GetMetricsText", &request.base);
	if (!msg)
		return r->status;
	if (r->options->json)
		print_json(msg);
	else
		fputs(((const Lodge__V1__GetMetricsTextResponse *)msg)->text, stdout);
	lodge_free(msg);
	return LODGE_OK;
}

static const struct remote_command metrics_command = {
    .name = "metrics",
    .usage = "[NAME]",
    .about = "Prints what each VM, or one, has done so far: CPU time, memory, exits, disk\n"
	     "operations and how long they took, in Prometheus' text format. `lodge top` shows\n"
	     "rates.\n",
    .settings = metrics_settings,
    .nsettings = ARRAY_LEN(metrics_settings),
    .operands_max = 1,
    .operands_help = "the VM's name",
    .run = metrics_run,
};

int cmd_metrics(int argc, char **argv)
{
	struct remote_options options = {.json = false};

	return remote_run(&metrics_command, &options, argc, argv);
}

void cmd_metrics_help(void)
{
	remote_help(&metrics_command);
}
