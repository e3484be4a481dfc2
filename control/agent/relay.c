/* Calls to the agent, passed on. See control/agent/relay.h. */
#include "control/agent/relay.h"

#include "base/checked.h"
#include "control/agent/guest.h"
#include "control/agent/pieces.h"
#include "control/ttrpc/conn.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than this is not put into the connection to the agent: there the calls wait for each other.
 */
#define AGENT_QUEUE_HIGH (512 * 1024)

/* What a client's connection has room for before a message is sent: it is read from as long. */
#define ROOM_KEPT (TTRPC_QUEUE_HIGH / 2)

/* Of one stream, before another of the same connection has its turn. */
#define TURN_BYTES (64 * 1024)

/* The agent is told no more often. */
#define CREDIT_BYTES (RELAY_WINDOW_BYTES / 4)

enum kind { KIND_UNARY, KIND_EXEC, KIND_WRITE, KIND_READ };

struct route {
	const char *method; /* of Guests */
	const char *agents; /* of Agent */
	const ProtobufCMessageDescriptor *request;
	enum kind kind;
};

#define REQUEST(name) &lodge__agent__v1__##name##_request__descriptor

static const struct route routes[] = {
    {"GetGuestFacts", "GetFacts", REQUEST(get_facts), KIND_UNARY},
    {"MountInGuest", "Mount", REQUEST(mount), KIND_UNARY},
    {"UnmountInGuest", "Unmount", REQUEST(unmount), KIND_UNARY},
    {"GrowGuestFilesystem", "GrowFilesystem", REQUEST(grow_filesystem), KIND_UNARY},
    {"SetGuestTime", "SetTime", REQUEST(set_time), KIND_UNARY},
    {"ListGuestFiles", "ListFiles", REQUEST(list_files), KIND_UNARY},
    {"MakeGuestEntry", "MakeEntry", REQUEST(make_entry), KIND_UNARY},
    {"ExecInGuest", "Exec", REQUEST(exec), KIND_EXEC},
    {"WriteGuestFile", "WriteFile", REQUEST(write_file), KIND_WRITE},
    {"ReadGuestFile", "ReadFile", REQUEST(read_file), KIND_READ},
};

/*
 *	new --> begun (has a call at the agent) --> ended (it has none) --> all has been passed on:
 *gone
 *
 * Threads: the loop's.
 */
struct relay_call {
	struct relay *relay;
	struct relay_call *next, **at;
	struct ttrpc_call *call;
	const struct route *route;
	struct ttrpc_client *client; /* NULL: not begun */
	struct ttrpc_client_call *agent_call;

	/* to the agent */
	struct pieces in;	 /* waits for room in the connection */
	bool in_ended;		 /* after that */
	uint64_t in_ahead_bytes; /* of data: not taken by the agent's process */

	/* to the client */
	struct pieces out; /* waits for room in the connection; ttrpc_call_wait() has been called */
	uint64_t out_ahead_bytes; /* of messages, as packed: not passed on */
	uint64_t credit_bytes;	  /* passed on, the agent is to be told */
	uint64_t taken_bytes;	  /* KIND_WRITE: the client is to be told, in place of `out` */

	bool ended; /* the agent has said how */
	enum ttrpc_code code;
	char text[TTRPC_MESSAGE_MAX];
};

/* ---- life ---------------------------------------------------------------------------------------
 */

static void call_free(struct relay_call *c)
{
	if (c->agent_call)
		ttrpc_client_cancel(c->agent_call);
	pieces_fini(&c->in);
	pieces_fini(&c->out);
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	c->relay->ncalls--;
	free(c);
}

static void call_fail(struct relay_call *c, enum ttrpc_code code, const char *text)
{
	/* `text` may be its own */
	ttrpc_call_fail(c->call, code, "%s", text);
	call_free(c);
}

/* NULL: the call has been answered. */
static struct relay_call *call_new(struct relay *relay, struct ttrpc_call *call)
{
	const char *method = ttrpc_call_method(call)->name;
	struct relay_call *c;
	size_t i = 0;

	while (strcmp(routes[i].method, method) != 0) {
		i++;
		assert(i < ARRAY_LEN(routes)); /* GUESTS_METHODS() has no others */
	}
	c = relay->ncalls < RELAY_CALLS_MAX ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED,
				"%u calls to the agent of this guest are under way; end some first",
				relay->ncalls);
		return NULL;
	}
	c->relay = relay;
	c->call = call;
	c->route = &routes[i];
	c->next = relay->calls;
	c->at = &relay->calls;
	if (c->next)
		c->next->at = &c->next;
	relay->calls = c;
	relay->ncalls++;
	ttrpc_call_set_user(call, c);
	return c;
}

void relay_cancelled(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	call_fail(ttrpc_call_user(call), TTRPC_CANCELLED, "nobody waits");
}

void relay_end(struct relay *relay, const char *why)
{
	for (struct relay_call *c = relay->calls, *next; c; c = next) {
		next = c->next;
		if (c->agent_call)
			call_fail(c, TTRPC_UNAVAILABLE, why);
	}
}

/* ---- what comes from the agent ------------------------------------------------------------------
 */

/* It is only read, but messages that are passed on have fields that are ours. */
static void *writable_of(const ProtobufCMessage *message)
{
	union {
		const ProtobufCMessage *in;
		void *out;
	} u = {.in = message};

	return u.out;
}

/* Tells the agent that more of its messages have gone on, when it is worth it. */
static void call_passed_on(struct relay_call *c, size_t bytes)
{
	Lodge__Agent__V1__ExecRequest exec = LODGE__AGENT__V1__EXEC_REQUEST__INIT;
	Lodge__Agent__V1__ReadFileRequest read = LODGE__AGENT__V1__READ_FILE_REQUEST__INIT;

	c->out_ahead_bytes -= bytes;
	c->credit_bytes += bytes;
	if (c->credit_bytes < CREDIT_BYTES || !c->agent_call)
		return;
	exec.taken_bytes = read.taken_bytes = c->credit_bytes;
	/* a failure is the end of the connection, which `done` tells */
	(void)ttrpc_client_send(c->agent_call,
				c->route->kind == KIND_EXEC ? &exec.base : &read.base);
	c->credit_bytes = 0;
}

/* Nothing waits for the client any more, and nothing comes. */
static void call_finish(struct relay_call *c)
{
	struct ttrpc_call *call = c->call;

	if (c->code != TTRPC_OK) {
		call_fail(c, c->code, c->text);
		return;
	}
	call_free(c);
	ttrpc_call_reply(call, NULL);
}

static bool call_waits(const struct relay_call *c)
{
	return pieces_bytes(&c->out) || c->taken_bytes;
}

static void client_reads(void *ctx, struct ttrpc_call *call);

/* Sends one message of those that wait. -EAGAIN: there is no room now; -errno. */
static int send_waiting(struct relay_call *c)
{
	Lodge__Agent__V1__WriteFileResponse taken = LODGE__AGENT__V1__WRITE_FILE_RESPONSE__INIT;
	ProtobufCMessage *message;
	size_t bytes;
	int res;

	if (ttrpc_call_room(c->call) < ROOM_KEPT)
		return -EAGAIN;
	if (c->route->kind == KIND_WRITE) {
		taken.taken_bytes = c->taken_bytes;
		c->taken_bytes = 0;
		return ttrpc_call_send(c->call, &taken.base);
	}
	message = pieces_first(&c->out, ttrpc_call_method(c->call)->output, &bytes);
	if (!message)
		return -ENOMEM;
	res = ttrpc_call_send(c->call, message);
	pb_free(message);
	if (res)
		return res;
	pieces_pop(&c->out);
	call_passed_on(c, bytes);
	return 0;
}

/* One turn. May free it. */
static void call_flush(struct relay_call *c)
{
	size_t before = ttrpc_call_room(c->call);
	int res = 0;

	while (!res && call_waits(c) && before - ttrpc_call_room(c->call) < TURN_BYTES)
		res = send_waiting(c);
	if (res == -EPIPE) /* it is cancelled soon */
		return;
	if (res && res != -EAGAIN)
		call_fail(c, TTRPC_RESOURCE_EXHAUSTED, strerror(-res));
	else if (call_waits(c))
		ttrpc_call_wait(c->call, client_reads);
	else if (c->ended)
		call_finish(c);
}

static void client_reads(void *ctx, struct ttrpc_call *call)
{
	(void)ctx;
	call_flush(ttrpc_call_user(call));
}

/* What the agent says to be taken is never more than was sent. */
static uint64_t input_taken(struct relay_call *c, uint64_t bytes)
{
	bytes = MIN(bytes, c->in_ahead_bytes);
	c->in_ahead_bytes -= bytes;
	return bytes;
}

/* A message of Exec or ReadFile. */
static int take_output(struct relay_call *c, const ProtobufCMessage *message)
{
	size_t bytes;
	bool waits;
	int res;

	if (c->route->kind == KIND_EXEC) {
		Lodge__Agent__V1__ExecResponse *r = writable_of(message);

		r->stdin_taken_bytes = input_taken(c, r->stdin_taken_bytes);
	}
	bytes = protobuf_c_message_get_packed_size(message);
	if (bytes > RELAY_MESSAGE_MAX || c->out_ahead_bytes + c->credit_bytes >= RELAY_WINDOW_BYTES)
		return -EMSGSIZE;
	c->out_ahead_bytes += bytes;
	if (!pieces_bytes(&c->out) && ttrpc_call_room(c->call) >= ROOM_KEPT) {
		res = ttrpc_call_send(c->call, message);
		if (!res)
			call_passed_on(c, bytes);
		return res;
	}
	waits = pieces_bytes(&c->out);
	res = pieces_push(&c->out, message);
	if (!res && !waits)
		ttrpc_call_wait(c->call, client_reads);
	return res;
}

static void message_came(void *ctx, const ProtobufCMessage *message)
{
	struct relay_call *c = ctx;
	int res = 0;

	if (c->route->kind == KIND_WRITE) {
		const Lodge__Agent__V1__WriteFileResponse *r = writable_of(message);

		c->taken_bytes += input_taken(c, r->taken_bytes);
		if (c->taken_bytes)
			call_flush(c);
	} else {
		res = take_output(c, message);
	}
	if (res == -EMSGSIZE)
		call_fail(c, TTRPC_INTERNAL,
			  "the agent in the guest sends more than it was asked for");
	else if (res == -ENOMEM)
		call_fail(c, TTRPC_RESOURCE_EXHAUSTED, strerror(ENOMEM));
}

/* A guest may answer with any number. */
static enum ttrpc_code code_of(int code)
{
	return code >= TTRPC_OK && code <= TTRPC_UNAVAILABLE ? (enum ttrpc_code)code
							     : TTRPC_UNKNOWN;
}

static void agent_done(void *ctx, int code, const char *text, const ProtobufCMessage *reply)
{
	struct relay_call *c = ctx;
	struct ttrpc_call *call = c->call;

	c->agent_call = NULL;
	c->ended = true;
	c->code = code_of(code);
	if (code == TTRPC_UNAVAILABLE && ttrpc_client_ended(c->client))
		snprintf(c->text, sizeof(c->text), "the agent in the guest has gone: %s", text);
	else
		snprintf(c->text, sizeof(c->text), "%s", text);
	guest_clean_text(c->text);
	if (code == TTRPC_OK && (c->route->kind == KIND_UNARY) != (reply != NULL)) {
		call_fail(c, TTRPC_INTERNAL, "the agent in the guest gives no proper answer");
	} else if (code == TTRPC_OK && reply) {
		call_free(c);
		ttrpc_call_reply(call, reply);
	} else if (!call_waits(c)) {
		call_finish(c);
	}
}

/* ---- to the agent -------------------------------------------------------------------------------
 */

/* The answer to a client whose call finds no agent. 0: begun. */
static int call_begin(struct relay_call *c, const char *name, const ProtobufCMessage *request)
{
	const struct route *route = c->route;
	struct ttrpc_rpc rpc = {.service = AGENT_SERVICE,
				.method = route->agents,
				.request = request,
				.output = ttrpc_call_method(c->call)->output,
				.server_stream = route->kind != KIND_UNARY,
				.message = message_came,
				.done = agent_done,
				.ctx = c};
	struct err err = ERR_INIT;
	int res;

	if (!c->relay->ops->is_mine(c->relay->ctx, name)) {
		err_set(&err, ENOENT, "there is no VM '%s'", name);
		call_fail(c, TTRPC_NOT_FOUND, err.msg);
		return -ENOENT;
	}
	c->client = c->relay->ops->client(c->relay->ctx, &err);
	if (!c->client) {
		call_fail(c, TTRPC_FAILED_PRECONDITION, err.msg);
		return -EAGAIN;
	}
	res = ttrpc_client_start(c->client, &rpc, &c->agent_call);
	if (res) {
		err_sys(&err, -res, "the agent in the guest cannot be asked");
		call_fail(c, res == -EMSGSIZE ? TTRPC_INVALID_ARGUMENT : TTRPC_UNAVAILABLE,
			  err.msg);
	}
	return res;
}

/* The fields `name` and `request` of each request. */
static const void *field_of(const ProtobufCMessage *request, const char *name)
{
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field_by_name(request->descriptor, name);

	return *(const void *const *)(const void *)((const char *)request + field->offset);
}

/* The windows are the relay's own, whatever the client says. Returns the bytes of data in it. */
static size_t make_ours(const struct relay_call *c, const ProtobufCMessage *inner)
{
	switch (c->route->kind) {
	case KIND_EXEC: {
		Lodge__Agent__V1__ExecRequest *r = writable_of(inner);

		r->taken_bytes = 0;
		if (r->start)
			r->start->window_bytes = RELAY_WINDOW_BYTES;
		return r->stdin_data.len;
	}
	case KIND_READ: {
		Lodge__Agent__V1__ReadFileRequest *r = writable_of(inner);

		r->taken_bytes = 0;
		r->window_bytes = RELAY_WINDOW_BYTES;
		return 0;
	}
	case KIND_WRITE:
		return ((const Lodge__Agent__V1__WriteFileRequest *)inner)->data.len;
	case KIND_UNARY:
		break;
	}
	return 0;
}

/* The client sends no more. Of Exec it is no end of the stream: what was taken is told there. */
static int send_end(struct relay_call *c)
{
	Lodge__Agent__V1__ExecRequest end = LODGE__AGENT__V1__EXEC_REQUEST__INIT;

	end.stdin_end = true;
	return c->route->kind == KIND_EXEC ? ttrpc_client_send(c->agent_call, &end.base)
					   : ttrpc_client_send_end(c->agent_call);
}

/* Sends of what has waited for room as much as is one call's turn. 0, -EAGAIN: more waits; -errno.
 */
static int send_turn(struct relay_call *c)
{
	size_t bytes, sent = 0;
	int res = 0;

	while (!res && pieces_bytes(&c->in)) {
		ProtobufCMessage *message;

		if (sent >= TURN_BYTES || ttrpc_client_queued(c->client) > AGENT_QUEUE_HIGH)
			return -EAGAIN;
		message = pieces_first(&c->in, c->route->request, &bytes);
		res = message ? ttrpc_client_send(c->agent_call, message) : -ENOMEM;
		pb_free(message);
		pieces_pop(&c->in);
		sent += bytes;
	}
	return !res && c->in_ended ? send_end(c) : res;
}

/* The connection to the agent has room. */
static void agent_reads(void *ctx)
{
	struct relay *relay = ctx;
	struct ttrpc_client *waits = NULL;

	for (struct relay_call *c = relay->calls, *next; c; c = next) {
		int res;

		next = c->next;
		if (!c->agent_call || !pieces_bytes(&c->in))
			continue;
		res = send_turn(c);
		if (res == -EAGAIN)
			waits = c->client;
		else if (res && res != -EPIPE) /* of that, `done` tells */
			call_fail(c, TTRPC_RESOURCE_EXHAUSTED, strerror(-res));
	}
	if (waits)
		ttrpc_client_when_drained(waits, agent_reads, relay);
}

/* A message of the client, in the order in which they came. May free it. */
static void call_send(struct relay_call *c, const ProtobufCMessage *inner)
{
	int res;

	c->in_ahead_bytes += make_ours(c, inner);
	if (c->in_ahead_bytes > RELAY_INPUT_BYTES) {
		call_fail(c, TTRPC_RESOURCE_EXHAUSTED,
			  "more than 262144 bytes are on the way; wait until they are taken");
		return;
	}
	if (!pieces_bytes(&c->in) && ttrpc_client_queued(c->client) <= AGENT_QUEUE_HIGH) {
		res = ttrpc_client_send(c->agent_call, inner);
	} else {
		res = pieces_push(&c->in, inner);
		if (!res && pieces_bytes(&c->in) > RELAY_QUEUE_MAX)
			res = -ENOBUFS;
		if (!res)
			ttrpc_client_when_drained(c->client, agent_reads, c->relay);
	}
	if (res && res != -EPIPE)
		call_fail(c, TTRPC_RESOURCE_EXHAUSTED, strerror(-res));
}

_Static_assert(RELAY_INPUT_BYTES == 262144, "the text above");

void relay_start(struct relay *relay, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct relay_call *c = call_new(relay, call);
	const ProtobufCMessage *inner;
	union { /* of the type of any request that has an empty one */
		ProtobufCMessage base;
		max_align_t room[32];
	} empty;

	if (!c || !request) /* a client stream: begins with its first message */
		return;
	inner = field_of(request, "request");
	if (!inner) {
		assert(c->route->request->sizeof_message <= sizeof(empty));
		protobuf_c_message_init(c->route->request, &empty);
		inner = &empty.base;
	}
	if (c->route->kind == KIND_UNARY)
		call_begin(c, field_of(request, "name"), inner);
	else if (!call_begin(c, field_of(request, "name"), NULL))
		call_send(c, inner);
}

void relay_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct relay_call *c = ttrpc_call_user(call);
	const ProtobufCMessage *inner = field_of(message, "request");

	(void)ctx;
	if (c->ended) /* it could not know */
		return;
	if (!inner)
		call_fail(c, TTRPC_INVALID_ARGUMENT, "`request` is missing");
	else if (c->client || !call_begin(c, field_of(message, "name"), NULL))
		call_send(c, inner);
}

void relay_data_end(void *ctx, struct ttrpc_call *call)
{
	struct relay_call *c = ttrpc_call_user(call);

	(void)ctx;
	if (c->ended)
		return;
	if (!c->client)
		call_fail(c, TTRPC_INVALID_ARGUMENT, "the first message must name the VM");
	else if (pieces_bytes(&c->in))
		c->in_ended = true;
	else if (send_end(c) == -ENOMEM)
		call_fail(c, TTRPC_RESOURCE_EXHAUSTED, strerror(ENOMEM));
}
