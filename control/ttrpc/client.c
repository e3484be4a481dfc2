/* A ttrpc client. See control/ttrpc/client.h. */
#include "control/ttrpc/client.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/ttrpc/conn.h"
#include "proto/ttrpc.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The server tells the deadline; only a server that does not is not waited for. */
#define DEADLINE_GRACE_NS UINT64_C(500000000)

struct ttrpc_client_call {
	struct ttrpc_client *client;
	struct ttrpc_client_call *next, **at; /* at NULL: taken off */
	struct ttrpc_rpc rpc;		      /* its request is not kept */
	uint32_t stream;
	struct loop_timer deadline;
};

/* Threads: the loop's. */
struct ttrpc_client {
	struct loop *loop;
	struct ttrpc_conn *conn;
	void (*closed)(void *ctx);
	void *ctx;
	void (*drained)(void *ctx); /* once */
	void *drained_ctx;
	uint32_t last_stream;
	bool ended;   /* the connection has */
	bool closing; /* by the owner */
	unsigned in_callback;
	struct ttrpc_client_call *calls;
};

static void client_release(struct ttrpc_client *client)
{
	if (client->closing && !client->in_callback)
		free(client);
}

static void call_free(struct ttrpc_client_call *call)
{
	loop_timer_disarm(call->client->loop, &call->deadline);
	if (call->at) {
		*call->at = call->next;
		if (call->next)
			call->next->at = call->at;
	}
	free(call);
}

/* The server is told that nobody waits for the call any more. */
static void call_give_up(const struct ttrpc_client_call *call)
{
	struct ttrpc_header h = {.stream = call->stream,
				 .type = TTRPC_DATA,
				 .flags = TTRPC_GIVEN_UP | TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA};

	if (!call->client->ended)
		(void)ttrpc_conn_send(call->client->conn, &h, NULL);
}

void ttrpc_client_cancel(struct ttrpc_client_call *call)
{
	call_give_up(call);
	call_free(call);
}

/* Takes the first call off the list; NULL: there is none. */
static struct ttrpc_client_call *calls_pop(struct ttrpc_client *client)
{
	struct ttrpc_client_call *call = client->calls;

	if (!call)
		return NULL;
	client->calls = call->next;
	if (call->next)
		call->next->at = &client->calls;
	call->at = NULL;
	return call;
}

/* The call is gone before its `done` runs, which may close the client. */
static void call_done(struct ttrpc_client_call *call, int code, const char *text,
		      const ProtobufCMessage *reply)
{
	struct ttrpc_rpc rpc = call->rpc;

	call_free(call);
	rpc.done(rpc.ctx, code, text, reply);
}

/* The server goes on with it, but what it sends is of no use. */
static void call_broken(struct ttrpc_client_call *call, int code, const char *text)
{
	call_give_up(call);
	call_done(call, code, text, NULL);
}

static void call_deadline(struct loop_timer *t)
{
	struct ttrpc_client_call *call = container_of(t, struct ttrpc_client_call, deadline);
	struct ttrpc_client *client = call->client;

	client->in_callback++;
	call_broken(call, TTRPC_DEADLINE_EXCEEDED, "the call's deadline has passed");
	client->in_callback--;
	client_release(client);
}

/* ---- what comes ---------------------------------------------------------------------------------
 */

static void take_response(struct ttrpc_client_call *call, const uint8_t *data, size_t len)
{
	ProtobufCMessage *msg = NULL, *reply = NULL;
	const Ttrpc__Response *response;
	struct err err = ERR_INIT;
	int res;

	if (pb_unpack(&ttrpc__response__descriptor, data, len, &msg, &err)) {
		call_done(call, TTRPC_INTERNAL, err.msg, NULL);
		return;
	}
	response = (const Ttrpc__Response *)msg;
	if (response->status && response->status->code) {
		call_done(call, response->status->code, response->status->message, NULL);
	} else {
		res = pb_unpack(call->rpc.output, response->payload.data, response->payload.len,
				&reply, &err);
		if (res)
			call_done(call, TTRPC_INTERNAL, err.msg, NULL);
		else
			call_done(call, TTRPC_OK, "", reply);
		pb_free(reply);
	}
	pb_free(msg);
}

static void take_data(struct ttrpc_client_call *call, const struct ttrpc_header *h,
		      const uint8_t *data)
{
	struct ttrpc_client *client = call->client;
	struct err err = ERR_INIT;
	ProtobufCMessage *msg;

	if (!call->rpc.server_stream) {
		call_broken(call, TTRPC_INTERNAL, "the server streams where it should answer");
		return;
	}
	if (!(h->flags & TTRPC_NO_DATA)) {
		if (pb_unpack(call->rpc.output, data, h->len_bytes, &msg, &err)) {
			call_broken(call, TTRPC_INTERNAL, err.msg);
			return;
		}
		call->rpc.message(call->rpc.ctx, msg);
		pb_free(msg);
		/* `message` may have cancelled it, or closed the client */
		call = client->closing ? NULL : client->calls;
		while (call && call->stream != h->stream)
			call = call->next;
	}
	if (call && h->flags & TTRPC_REMOTE_CLOSED)
		call_done(call, TTRPC_OK, "", NULL);
}

static void client_frame(void *ctx, const struct ttrpc_header *h, const uint8_t *data)
{
	struct ttrpc_client *client = ctx;
	struct ttrpc_client_call *call = client->calls;

	while (call && call->stream != h->stream)
		call = call->next;
	if (!call)
		return;
	client->in_callback++;
	if (h->type == TTRPC_RESPONSE)
		take_response(call, data, h->len_bytes);
	else if (h->type == TTRPC_DATA)
		take_data(call, h, data);
	client->in_callback--;
	client_release(client);
}

static void client_oversized(void *ctx, const struct ttrpc_header *h)
{
	struct ttrpc_client *client = ctx;
	struct ttrpc_client_call *call = client->calls;

	while (call && call->stream != h->stream)
		call = call->next;
	if (!call)
		return;
	client->in_callback++;
	call_broken(call, TTRPC_RESOURCE_EXHAUSTED, "the answer has more than 4194304 bytes");
	client->in_callback--;
	client_release(client);
}

static void client_drained(void *ctx)
{
	struct ttrpc_client *client = ctx;
	void (*drained)(void *ctx) = client->drained;

	client->drained = NULL;
	if (!drained)
		return;
	client->in_callback++;
	drained(client->drained_ctx);
	client->in_callback--;
	client_release(client);
}

void ttrpc_client_when_drained(struct ttrpc_client *client, void (*drained)(void *ctx), void *ctx)
{
	client->drained = drained;
	client->drained_ctx = ctx;
}

bool ttrpc_client_ended(const struct ttrpc_client *client)
{
	return client->ended;
}

static void client_closed(void *ctx, int error)
{
	struct ttrpc_client *client = ctx;
	struct ttrpc_client_call *call;

	client->ended = true;
	client->in_callback++;
	while (!client->closing && (call = calls_pop(client)))
		call_done(call, TTRPC_UNAVAILABLE,
			  error ? strerror(-error) : "the other side closed the connection", NULL);
	if (!client->closing && client->closed)
		client->closed(client->ctx);
	client->in_callback--;
	client_release(client);
}

static const struct ttrpc_conn_ops client_ops = {
    .frame = client_frame,
    .oversized = client_oversized,
    .drained = client_drained,
    .closed = client_closed,
};

/* ---- calls --------------------------------------------------------------------------------------
 */

static int send_packed(struct ttrpc_client *client, struct ttrpc_header *h,
		       const ProtobufCMessage *msg)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	uint8_t *data;
	int res;

	if (client->ended)
		return -EPIPE;
	if (len > TTRPC_DATA_MAX)
		return -EMSGSIZE;
	data = malloc(len ? len : 1);
	if (!data)
		return -ENOMEM;
	h->len_bytes = (uint32_t)protobuf_c_message_pack(msg, data);
	res = ttrpc_conn_send(client->conn, h, data);
	free(data);
	return res;
}

/* A name in a message that is only read while it is packed. */
static char *borrow(const char *text)
{
	union {
		const char *in;
		char *out;
	} u = {.in = text};

	return u.out;
}

static int send_request(struct ttrpc_client_call *call, const ProtobufCMessage *request)
{
	Ttrpc__Request msg = TTRPC__REQUEST__INIT;
	struct ttrpc_header h = {.stream = call->stream, .type = TTRPC_REQUEST};
	autofree uint8_t *payload = NULL;
	size_t len = request ? protobuf_c_message_get_packed_size(request) : 0;

	if (len > TTRPC_DATA_MAX)
		return -EMSGSIZE;
	if (!request)
		h.flags = TTRPC_REMOTE_OPEN;
	else if (call->rpc.server_stream)
		h.flags = TTRPC_REMOTE_CLOSED;
	payload = malloc(len ? len : 1);
	if (!payload)
		return -ENOMEM;
	if (request)
		protobuf_c_message_pack(request, payload);
	msg.service = borrow(call->rpc.service);
	msg.method = borrow(call->rpc.method);
	msg.payload = (ProtobufCBinaryData){.len = len, .data = payload};
	msg.timeout_nano = (int64_t)MIN(call->rpc.timeout_ns, (uint64_t)INT64_MAX);
	return send_packed(call->client, &h, &msg.base);
}

int ttrpc_client_start(struct ttrpc_client *client, const struct ttrpc_rpc *rpc,
		       struct ttrpc_client_call **ret_call)
{
	struct ttrpc_client_call *call;
	uint64_t deadline_ns;
	int res;

	if (client->ended)
		return -EPIPE;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->client = client;
	call->rpc = *rpc;
	call->rpc.request = NULL;
	call->stream = client->last_stream ? client->last_stream + 2 : 1;
	res = send_request(call, rpc->request);
	if (res) {
		free(call);
		return res;
	}
	client->last_stream = call->stream;
	call->next = client->calls;
	call->at = &client->calls;
	if (call->next)
		call->next->at = &call->next;
	client->calls = call;
	call->deadline.fn = call_deadline;
	if (rpc->timeout_ns &&
	    ck_add(loop_now_ns() + DEADLINE_GRACE_NS, rpc->timeout_ns, &deadline_ns))
		loop_timer_arm(client->loop, &call->deadline, deadline_ns);
	if (ret_call)
		*ret_call = call;
	return 0;
}

int ttrpc_client_send(struct ttrpc_client_call *call, const ProtobufCMessage *message)
{
	struct ttrpc_header h = {.stream = call->stream, .type = TTRPC_DATA};

	return send_packed(call->client, &h, message);
}

int ttrpc_client_send_end(struct ttrpc_client_call *call)
{
	struct ttrpc_header h = {.stream = call->stream,
				 .type = TTRPC_DATA,
				 .flags = TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA};

	return call->client->ended ? -EPIPE : ttrpc_conn_send(call->client->conn, &h, NULL);
}

void ttrpc_client_hold(struct ttrpc_client *client, bool hold)
{
	ttrpc_conn_hold(client->conn, hold);
}

size_t ttrpc_client_queued(const struct ttrpc_client *client)
{
	return ttrpc_conn_queued(client->conn);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

int ttrpc_client_new(struct loop *loop, int fd, void (*closed)(void *ctx), void *ctx,
		     struct ttrpc_client **ret_client)
{
	struct ttrpc_client *client = calloc(1, sizeof(*client));
	int res;

	if (!client) {
		cleanup_fd(&fd);
		return -ENOMEM;
	}
	client->loop = loop;
	client->closed = closed;
	client->ctx = ctx;
	res = ttrpc_conn_new(loop, fd, &client_ops, client, &client->conn);
	if (res) {
		free(client);
		return res;
	}
	*ret_client = client;
	return 0;
}

void ttrpc_client_close(struct ttrpc_client *client)
{
	struct ttrpc_client_call *call;

	if (!client || client->closing)
		return;
	client->closing = true;
	while ((call = calls_pop(client)))
		call_free(call);
	ttrpc_conn_close(client->conn);
	client_release(client);
}
