/* Exec. See proto/agent.proto. */
#include "guest/agent/exec.h"

#include "guest/agent/agent.h"
#include "guest/agent/launch.h"
#include "guest/agent/process.h"
#include "guest/agent/window.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

/* One call; `process` is NULL before `start` has come, and when it has ended. Threads: the loop's.
 */
struct exec {
	struct ttrpc_call *call;
	struct process *process;
	bool detach;

	struct window window;

	/* what the client is to be told yet */
	pid_t started;
	uint64_t taken_bytes;
	bool exited;
	int wait_status;
};

/* The call fails, and what it has started is gone. */
static void exec_refuse(struct exec *x, const struct err *err)
{
	struct ttrpc_call *call = x->call;

	if (x->process)
		process_let_go(x->process, true);
	free(x);
	agent_fail(call, err);
}

/* ---- what the process does ----------------------------------------------------------------------
 */

static void fill_exited(const struct exec *x, Lodge__Agent__V1__ExecExited *ret_exited)
{
	if (WIFSIGNALED(x->wait_status)) {
		ret_exited->signal = (uint32_t)WTERMSIG(x->wait_status);
		ret_exited->core_dumped = WCOREDUMP(x->wait_status);
	} else {
		ret_exited->status = (uint32_t)WEXITSTATUS(x->wait_status);
	}
}

static void writable(void *agent, struct ttrpc_call *call);

static int exec_send(struct exec *x, const Lodge__Agent__V1__ExecResponse *response)
{
	int res = ttrpc_call_send(x->call, &response->base);

	if (!res)
		window_sent(&x->window, &response->base);
	return res;
}

/* Says what there is to say, apart from output. False: later, when there is room. */
static bool flush(struct exec *x)
{
	Lodge__Agent__V1__ExecResponse response = LODGE__AGENT__V1__EXEC_RESPONSE__INIT;
	Lodge__Agent__V1__ExecExited exited = LODGE__AGENT__V1__EXEC_EXITED__INIT;

	if (!x->started && !x->taken_bytes && !x->exited)
		return true;
	if (!window_is_open(&x->window))
		return false;
	response.pid = (uint32_t)x->started;
	response.stdin_taken_bytes = x->taken_bytes;
	if (x->exited) {
		fill_exited(x, &exited);
		response.exited = &exited;
	}
	if (exec_send(x, &response) == -EAGAIN) {
		ttrpc_call_wait(x->call, writable);
		return false;
	}
	/* any other failure is the end of the connection, and `cancelled` follows */
	x->started = 0;
	x->taken_bytes = 0;
	return true;
}

/* The last message is on its way: the call is over. */
static void exec_finish(struct exec *x)
{
	struct ttrpc_call *call = x->call;

	free(x);
	ttrpc_call_reply(call, NULL);
}

static void exec_flush(struct exec *x)
{
	if (!flush(x))
		return;
	if (x->process && x->detach) {
		process_let_go(x->process, false);
		exec_finish(x);
	} else if (x->exited) {
		exec_finish(x);
	}
}

/* May free it. */
static void exec_go_on(struct exec *x)
{
	if (x->process)
		process_go_on(x->process);
	exec_flush(x);
}

static void writable(void *agent, struct ttrpc_call *call)
{
	(void)agent;
	exec_go_on(ttrpc_call_user(call));
}

static void on_started(void *ctx)
{
	struct exec *x = ctx;

	x->started = process_id(x->process);
	exec_flush(x);
}

static bool on_room(void *ctx)
{
	struct exec *x = ctx;

	if (!flush(x) || !window_is_open(&x->window))
		return false;
	if (ttrpc_call_room(x->call) > CHUNK_BYTES)
		return true;
	ttrpc_call_wait(x->call, writable);
	return false;
}

static void on_output(void *ctx, int which, const uint8_t *data, size_t len)
{
	Lodge__Agent__V1__ExecResponse response = LODGE__AGENT__V1__EXEC_RESPONSE__INIT;
	struct exec *x = ctx;
	union {
		const uint8_t *in;
		uint8_t *out;
	} borrowed = {.in = data}; /* packing reads it */
	ProtobufCBinaryData bytes = {.len = len, .data = borrowed.out};

	if (which == PROCESS_OUT)
		response.stdout_data = bytes;
	else
		response.stderr_data = bytes;
	(void)exec_send(x, &response); /* there is room */
}

static void on_taken(void *ctx, size_t len)
{
	struct exec *x = ctx;

	x->taken_bytes += len;
	(void)flush(x);
}

static void on_ended(void *ctx, int wait_status, const struct err *err)
{
	struct exec *x = ctx;

	x->process = NULL;
	if (err->code) {
		exec_refuse(x, err);
		return;
	}
	x->exited = true;
	x->wait_status = wait_status;
	exec_flush(x);
}

static const struct process_ops exec_ops = {
    .started = on_started,
    .room = on_room,
    .output = on_output,
    .taken = on_taken,
    .ended = on_ended,
};

/* ---- what the client says -----------------------------------------------------------------------
 */

static struct winsize size_of(const Lodge__Agent__V1__TerminalSize *size)
{
	return (struct winsize){.ws_row = (unsigned short)size->rows,
				.ws_col = (unsigned short)size->columns};
}

static int begin(struct agent *agent, struct exec *x, const Lodge__Agent__V1__ExecStart *start,
		 struct err *err)
{
	struct winsize size;
	struct process_spec spec = {
	    .run = launch,
	    .arg = start,
	    .in = start->open_stdin,
	    .out = !start->detach,
	    .err = !start->detach,
	    .merge = start->merge_stderr,
	};
	int res = launch_check(start, err);

	if (res)
		return res;
	window_init(&x->window, start->window_bytes);
	if (start->terminal) {
		size = size_of(start->terminal);
		spec.terminal = &size;
	}
	x->detach = start->detach;
	return process_start(agent, &spec, &exec_ops, x, &x->process, err);
}

static int take_input(struct exec *x, const Lodge__Agent__V1__ExecRequest *request, struct err *err)
{
	int res = 0;

	if (request->stdin_data.len)
		res = process_write(x->process, request->stdin_data.data, request->stdin_data.len);
	if (res == -ENOBUFS)
		return err_set(err, EAGAIN,
			       "more than %d bytes of standard input are on the way; "
			       "wait for stdin_taken_bytes",
			       WINDOW_BYTES);
	if (res)
		return err_set(err, -res,
			       res == -EPIPE ? "standard input after its end"
					     : "standard input: out of memory");
	if (request->stdin_end)
		process_write_end(x->process);
	return 0;
}

static int take_control(struct exec *x, const Lodge__Agent__V1__ExecRequest *request,
			struct err *err)
{
	int res;

	if (request->resize) {
		struct winsize size = size_of(request->resize);

		if (request->resize->rows > USHRT_MAX || request->resize->columns > USHRT_MAX)
			return err_set(err, EINVAL, "a terminal has up to %d rows and columns",
				       USHRT_MAX);
		process_resize(x->process, &size);
	}
	if (!request->signal)
		return 0;
	res = request->signal < NSIG ? process_signal(x->process, (int)request->signal) : -EINVAL;
	return res ? err_sys(err, -res, "signal %u", request->signal) : 0;
}

void exec_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct exec *x = calloc(1, sizeof(*x));

	(void)ctx;
	(void)request; /* a client stream: comes as data */
	if (!x) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the agent is out of memory");
		return;
	}
	x->call = call;
	ttrpc_call_set_user(call, x);
}

void exec_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	const Lodge__Agent__V1__ExecRequest *request =
	    (const Lodge__Agent__V1__ExecRequest *)message;
	struct exec *x = ttrpc_call_user(call);
	struct err err = ERR_INIT;
	int res = 0;

	window_taken(&x->window, request->taken_bytes);
	if (x->exited) { /* it could not know */
		exec_flush(x);
		return;
	}
	if (!x->process == !request->start)
		res = err_set(&err, EINVAL, "`start` comes once, in the first message");
	else if (request->start)
		res = begin(ctx, x, request->start, &err);
	if (!res)
		res = take_input(x, request, &err);
	if (!res)
		res = take_control(x, request, &err);
	if (res)
		exec_refuse(x, &err);
	else if (request->taken_bytes)
		exec_go_on(x);
}

void exec_data_end(void *ctx, struct ttrpc_call *call)
{
	struct exec *x = ttrpc_call_user(call);
	struct err err = ERR_INIT;

	(void)ctx;
	if (x->process)
		process_write_end(x->process);
	if (x->process || x->exited)
		return;
	err_set(&err, EINVAL, "`start` is missing");
	exec_refuse(x, &err);
}

void exec_cancelled(void *ctx, struct ttrpc_call *call)
{
	struct exec *x = ttrpc_call_user(call);

	(void)ctx;
	if (x->process)
		process_let_go(x->process, !x->detach);
	free(x);
	ttrpc_call_fail(call, TTRPC_CANCELLED, "cancelled");
}
