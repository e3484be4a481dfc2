/* What the commands that ask a server share. See control/remote/remote.h. */
#include "control/remote/remote.h"

#include "base/cleanup.h"
#include "control/options/parse.h"
#include "control/remote/print.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MAX_S 86400

int remote_set_socket(void *target, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "is empty; say --socket PATH");
	((struct remote_options *)target)->socket = value;
	return 0;
}

int remote_set_json(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct remote_options *)target)->json = true;
	return 0;
}

int remote_set_timeout(void *target, const char *value, struct err *err)
{
	unsigned seconds;

	if (parse_unsigned(value, 1, TIMEOUT_MAX_S, &seconds))
		return err_set(err, EINVAL, "'%s' is not a number of seconds from 1 to %d", value,
			       TIMEOUT_MAX_S);
	((struct remote_options *)target)->timeout_ms = seconds * 1000;
	return 0;
}

/* ---- failures -----------------------------------------------------------------------------------
 */

int remote_fail(struct remote *r, int status, const char *fmt, ...)
{
	char line[LODGE_ERROR_MAX + 256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	print_clean(line);
	fflush(stdout);
	fprintf(stderr, "lodge %s: %s\n", r->command->name, line);
	r->status = r->command->failed_base + status;
	if (r->command->failed_as)
		r->status = r->command->failed_as;
	return r->status;
}

int remote_failed(struct remote *r, const struct lodge_error *error)
{
	switch (error->status) {
	case LODGE_STATUS_NOT_FOUND:
		return remote_fail(r, REMOTE_NO_VM, "%s", error->text);
	case LODGE_STATUS_PERMISSION_DENIED:
		return remote_fail(r, REMOTE_NOT_ALLOWED, "%s", error->text);
	case LODGE_STATUS_UNAVAILABLE:
		return remote_fail(r, REMOTE_NO_SERVER, "%s", error->text);
	case LODGE_STATUS_DEADLINE_EXCEEDED:
		if (r->options->timeout_ms)
			return remote_fail(r, LODGE_FAILED, "not within %u s (--timeout)",
					   r->options->timeout_ms / 1000);
		break;
	default:
		break;
	}
	return remote_fail(r, LODGE_FAILED, "%s", error->text);
}

/* ---- calls --------------------------------------------------------------------------------------
 */

int remote_connect(struct remote *r, struct lodge_client **ret_client)
{
	struct lodge_error error;

	if (lodge_connect(r->options->socket, ret_client, &error))
		return remote_failed(r, &error);
	return 0;
}

ProtobufCMessage *remote_call(struct remote *r, const char *method, const ProtobufCMessage *request)
{
	struct lodge_error error;
	ProtobufCMessage *reply;

	if (!lodge_call(r->client, method, request, r->options->timeout_ms, &reply, &error))
		return reply;
	remote_failed(r, &error);
	return NULL;
}

/* ---- commands -----------------------------------------------------------------------------------
 */

static struct arguments arguments_of(const struct remote_command *c, void *options)
{
	return (struct arguments){.command = c->name,
				  .settings = c->settings,
				  .nsettings = c->nsettings,
				  .target = options,
				  .operands_min = c->operands_min,
				  .operands_max = c->operands_max,
				  .operands_help = c->operands_help,
				  .letters = c->letters,
				  .nletters = c->nletters,
				  .command_at = c->command_at};
}

int remote_connect_and_run(const struct remote_command *command, struct remote_options *options,
			   const char *const *operands, unsigned noperands)
{
	struct remote r = {.command = command, .options = options};
	int status = remote_connect(&r, &r.client);

	if (!status)
		status = command->run(&r, operands, noperands);
	lodge_close(r.client);
	return status;
}

int remote_run(const struct remote_command *command, struct remote_options *options, int argc,
	       char **argv)
{
	struct arguments args = arguments_of(command, options);
	autofree const char **operands = calloc((size_t)argc + 1, sizeof(*operands));
	struct err err = ERR_INIT;
	unsigned noperands = 0;
	int res;

	if (!operands) {
		fprintf(stderr, "lodge %s: out of memory\n", command->name);
		return LODGE_FAILED;
	}
	res = arguments_parse(&args, argc, argv, operands, &noperands, &err);
	if (res == 1) {
		remote_help(command);
		return LODGE_OK;
	}
	if (!res && command->check)
		res = command->check(options, operands, noperands, &err);
	if (res) {
		fprintf(stderr, "lodge %s: %s\n", command->name, err.msg);
		return command->failed_as ? command->failed_as : LODGE_USAGE;
	}
	return remote_connect_and_run(command, options, operands, noperands);
}

void remote_help(const struct remote_command *command)
{
	struct arguments args = arguments_of(command, NULL);

	printf("usage: lodge %s%s%s [option ...]\n\n%s\nOptions:\n", command->name,
	       *command->usage ? " " : "", command->usage, command->about);
	arguments_help(&args, stdout);
	if (command->more)
		printf("\n%s", command->more);
}

/* ---- small things -------------------------------------------------------------------------------
 */

bool remote_flush(void)
{
	return !fflush(stdout) && !ferror(stdout);
}

char *remote_borrow(const char *text)
{
	union {
		const char *in;
		char *out;
	} u = {.in = text};

	return u.out;
}

char *remote_absolute(const char *path)
{
	autofree char *here = NULL;
	char *whole = NULL;

	if (*path == '/')
		return strdup(path);
	here = getcwd(NULL, 0);
	if (!here || asprintf(&whole, "%s/%s", here, path) < 0)
		return NULL;
	return whole;
}
