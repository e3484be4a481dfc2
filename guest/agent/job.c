/* Calls that a child process answers. See guest/agent/job.h. */
#include "guest/agent/job.h"

#include "guest/agent/agent.h"
#include "guest/agent/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Facts of a guest with thousands of mounts fit many times. */
#define REPLY_BYTES_MAX (1024 * 1024)

/* Threads: the loop's. */
struct job {
	struct ttrpc_call *call;
	struct process *process;
	job_fn *fn;
	const ProtobufCMessageDescriptor *output;
	const ProtobufCMessage *request;
	uint8_t *reply; /* what has come of it, packed */
	size_t len_bytes;
};

static void job_free(struct job *job)
{
	free(job->reply);
	free(job);
}

/* ---- in the child -------------------------------------------------------------------------------
 */

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static int job_run(const void *arg, struct err *err)
{
	const struct job *job = arg;
	ProtobufCMessage *reply = calloc(1, job->output->sizeof_message);
	uint8_t *packed;
	size_t len;
	int res;

	if (!reply)
		return err_set(err, ENOMEM, "out of memory");
	protobuf_c_message_init(job->output, reply);
	res = job->fn(job->request, reply, err);
	if (res)
		return res;
	len = protobuf_c_message_get_packed_size(reply);
	packed = malloc(len ? len : 1);
	if (!packed)
		return err_set(err, ENOMEM, "out of memory");
	protobuf_c_message_pack(reply, packed);
	res = write_all(STDOUT_FILENO, packed, len);
	return res ? err_sys(err, -res, "handing on the answer") : 0;
}

/* ---- in the agent -------------------------------------------------------------------------------
 */

static bool on_room(void *ctx)
{
	(void)ctx;
	return true;
}

static void on_output(void *ctx, int which, const uint8_t *data, size_t len)
{
	struct job *job = ctx;
	uint8_t *reply;

	(void)which;
	if (len > REPLY_BYTES_MAX - job->len_bytes)
		return; /* does not parse then */
	reply = realloc(job->reply, job->len_bytes + len);
	if (!reply)
		return;
	memcpy(reply + job->len_bytes, data, len);
	job->reply = reply;
	job->len_bytes += len;
}

static void on_ended(void *ctx, int wait_status, const struct err *err)
{
	struct job *job = ctx;
	struct ttrpc_call *call = job->call;
	struct err own = ERR_INIT;
	ProtobufCMessage *reply = NULL;

	if (err->code)
		agent_fail(call, err);
	else if (WIFSIGNALED(wait_status))
		ttrpc_call_fail(call, TTRPC_INTERNAL,
				"the process that did it ended by signal %d (%s)",
				WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
	else if (pb_unpack(job->output, job->reply, job->len_bytes, &reply, &own))
		ttrpc_call_fail(call, TTRPC_INTERNAL, "%s", own.msg);
	else
		ttrpc_call_reply(call, reply);
	pb_free(reply);
	job_free(job);
}

static const struct process_ops job_ops = {
    .room = on_room,
    .output = on_output,
    .ended = on_ended,
};

void job_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request, job_fn *fn,
	       const ProtobufCMessageDescriptor *output)
{
	struct process_spec spec = {.run = job_run, .out = true};
	struct job *job = calloc(1, sizeof(*job));
	struct err err = ERR_INIT;
	int res;

	if (!job) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the agent is out of memory");
		return;
	}
	*job = (struct job){.call = call, .fn = fn, .output = output, .request = request};
	spec.arg = job;
	res = process_start(ctx, &spec, &job_ops, job, &job->process, &err);
	if (res) {
		job_free(job);
		agent_fail(call, &err);
		return;
	}
	ttrpc_call_set_user(call, job);
}

void job_cancelled(void *ctx, struct ttrpc_call *call)
{
	struct job *job = ttrpc_call_user(call);

	(void)ctx;
	process_let_go(job->process, true);
	job_free(job);
	ttrpc_call_fail(call, TTRPC_CANCELLED, "cancelled");
}
