/* WriteFile and ReadFile. See guest/agent/file.h. */
#include "guest/agent/file.h"

#include "guest/agent/agent.h"
#include "guest/agent/copy.h"
#include "guest/agent/process.h"
#include "guest/agent/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* One call, of either kind. Threads: the loop's. */
struct file {
	struct ttrpc_call *call;
	struct process *process;
	uint64_t taken_bytes; /* WriteFile: to be told yet */
	bool ended;	      /* WriteFile: the file is in its place */

	struct window window; /* ReadFile */
	/* the start of what its child writes */
	struct copy_attributes attributes;
	size_t have_bytes;
};

static void file_end(struct file *f, const struct err *err)
{
	struct ttrpc_call *call = f->call;

	if (f->process)
		process_let_go(f->process, true);
	free(f);
	if (err)
		agent_fail(call, err);
	else
		ttrpc_call_reply(call, NULL);
}

static struct file *file_new(struct ttrpc_call *call)
{
	struct file *f = calloc(1, sizeof(*f));

	if (!f) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the agent is out of memory");
		return NULL;
	}
	f->call = call;
	ttrpc_call_set_user(call, f);
	return f;
}

void file_cancelled(void *ctx, struct ttrpc_call *call)
{
	static const struct err cancelled = {.code = ECANCELED, .msg = "cancelled"};

	(void)ctx;
	file_end(ttrpc_call_user(call), &cancelled);
}

/* How the child ended; 0, or what to tell. */
static int outcome(int wait_status, const struct err *said, struct err *err)
{
	if (said->code)
		*err = *said;
	else if (wait_status)
		err_set(err, EIO, "the process that copied ended early (signal %d)",
			WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0);
	return err->code;
}

/* ---- WriteFile ----------------------------------------------------------------------------------
 */

static void write_flush(struct file *f);

static void write_writable(void *agent, struct ttrpc_call *call)
{
	(void)agent;
	write_flush(ttrpc_call_user(call));
}

static void write_flush(struct file *f)
{
	Lodge__Agent__V1__WriteFileResponse response = LODGE__AGENT__V1__WRITE_FILE_RESPONSE__INIT;

	response.taken_bytes = f->taken_bytes;
	if (f->taken_bytes && ttrpc_call_send(f->call, &response.base) == -EAGAIN) {
		ttrpc_call_wait(f->call, write_writable);
		return;
	}
	f->taken_bytes = 0;
	if (f->ended)
		file_end(f, NULL);
}

static bool no_room(void *ctx)
{
	(void)ctx;
	return false;
}

static void write_taken(void *ctx, size_t len)
{
	struct file *f = ctx;

	f->taken_bytes += len;
	write_flush(f);
}

static void write_ended(void *ctx, int wait_status, const struct err *said)
{
	struct file *f = ctx;
	struct err err = ERR_INIT;

	f->process = NULL;
	if (outcome(wait_status, said, &err)) {
		file_end(f, &err);
		return;
	}
	f->ended = true;
	write_flush(f);
}

static const struct process_ops write_ops = {
    .room = no_room,
    .taken = write_taken,
    .ended = write_ended,
};

void write_file_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	(void)request; /* a client stream: comes as data */
	(void)file_new(call);
}

static int take_data(struct file *f, const Lodge__Agent__V1__WriteFileRequest *r, struct err *err)
{
	int res = r->data.len ? process_write(f->process, r->data.data, r->data.len) : 0;

	if (res == -ENOBUFS)
		return err_set(err, EAGAIN,
			       "more than %d bytes are on the way; wait for taken_bytes",
			       WINDOW_BYTES);
	return res ? err_sys(err, -res, "data") : 0;
}

void write_file_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	const Lodge__Agent__V1__WriteFileRequest *r =
	    (const Lodge__Agent__V1__WriteFileRequest *)message;
	struct file *f = ttrpc_call_user(call);
	struct process_spec spec = {.run = copy_in, .arg = r->open, .in = true};
	struct err err = ERR_INIT;
	int res = 0;

	if (f->ended)
		return;
	if (!f->process == !r->open)
		res = err_set(&err, EINVAL, "`open` comes once, in the first message");
	else if (r->open)
		res = process_start(ctx, &spec, &write_ops, f, &f->process, &err);
	if (!res)
		res = take_data(f, r, &err);
	if (res)
		file_end(f, &err);
}

void write_file_data_end(void *ctx, struct ttrpc_call *call)
{
	struct file *f = ttrpc_call_user(call);
	static const struct err missing = {.code = EINVAL, .msg = "`open` is missing"};

	(void)ctx;
	if (f->process)
		process_write_end(f->process);
	else if (!f->ended)
		file_end(f, &missing);
}

/* ---- ReadFile -----------------------------------------------------------------------------------
 */

static void read_writable(void *agent, struct ttrpc_call *call)
{
	struct file *f = ttrpc_call_user(call);

	(void)agent;
	if (f->process)
		process_go_on(f->process);
}

static bool read_room(void *ctx)
{
	struct file *f = ctx;

	if (!window_is_open(&f->window))
		return false;
	if (ttrpc_call_room(f->call) > 2 * CHUNK_BYTES) /* the attributes as well */
		return true;
	ttrpc_call_wait(f->call, read_writable);
	return false;
}

static void read_send(struct file *f, const Lodge__Agent__V1__ReadFileResponse *response)
{
	/* there is room; any other failure is the end of the connection, and `cancelled` follows */
	if (!ttrpc_call_send(f->call, &response->base))
		window_sent(&f->window, &response->base);
}

/* The attributes are whole: the first message. */
static void send_attributes(struct file *f)
{
	Lodge__Agent__V1__ReadFileResponse response = LODGE__AGENT__V1__READ_FILE_RESPONSE__INIT;
	Lodge__Agent__V1__FileAttributes a = LODGE__AGENT__V1__FILE_ATTRIBUTES__INIT;

	a.mode = f->attributes.mode;
	a.uid = f->attributes.uid;
	a.gid = f->attributes.gid;
	a.mtime_ns = f->attributes.mtime_ns;
	a.size_bytes = f->attributes.size_bytes;
	response.attributes = &a;
	read_send(f, &response);
}

static void read_output(void *ctx, int which, const uint8_t *data, size_t len)
{
	Lodge__Agent__V1__ReadFileResponse response = LODGE__AGENT__V1__READ_FILE_RESPONSE__INIT;
	struct file *f = ctx;
	union {
		const uint8_t *in;
		uint8_t *out;
	} borrowed;

	(void)which;
	while (len && f->have_bytes < sizeof(f->attributes)) {
		((uint8_t *)&f->attributes)[f->have_bytes++] = *data++;
		len--;
		if (f->have_bytes == sizeof(f->attributes))
			send_attributes(f);
	}
	if (!len)
		return;
	borrowed.in = data; /* packing reads it */
	response.data = (ProtobufCBinaryData){.len = len, .data = borrowed.out};
	read_send(f, &response);
}

static void read_ended(void *ctx, int wait_status, const struct err *said)
{
	struct file *f = ctx;
	struct err err = ERR_INIT;

	f->process = NULL;
	file_end(f, outcome(wait_status, said, &err) ? &err : NULL);
}

void read_file_start(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)ctx;
	(void)request; /* a client stream: comes as data */
	(void)file_new(call);
}

void read_file_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	static const struct process_ops ops = {
	    .room = read_room,
	    .output = read_output,
	    .ended = read_ended,
	};
	const Lodge__Agent__V1__ReadFileRequest *r =
	    (const Lodge__Agent__V1__ReadFileRequest *)message;
	struct process_spec spec = {.run = copy_out, .arg = r, .out = true};
	struct file *f = ttrpc_call_user(call);
	struct err err = ERR_INIT;
	int res = 0;

	if (!f->process == !r->path[0])
		res = err_set(&err, EINVAL, "`path` comes once, in the first message");
	else if (!f->process)
		res = process_start(ctx, &spec, &ops, f, &f->process, &err);
	else
		window_taken(&f->window, r->taken_bytes);
	if (res)
		file_end(f, &err);
	else if (r->path[0])
		window_init(&f->window, r->window_bytes);
	else
		process_go_on(f->process);
}

void read_file_data_end(void *ctx, struct ttrpc_call *call)
{
	static const struct err missing = {.code = EINVAL, .msg = "`path` is missing"};
	struct file *f = ttrpc_call_user(call);

	(void)ctx;
	if (!f->process)
		file_end(f, &missing);
}
