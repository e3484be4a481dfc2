/* Calls of a ttrpc server: requests, messages of streams, answers. See control/ttrpc/server.h. */
#include "base/checked.h"
#include "control/ttrpc/server_priv.h"
#include "proto/ttrpc.pb-c.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers ------------------------------------------------------------------------------------
 */

/* Packs a message into memory of its own. -EMSGSIZE: above what a frame carries; -ENOMEM. */
static int pack(const ProtobufCMessage *msg, uint8_t **ret_data, uint32_t *ret_len)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	uint8_t *data;

	if (len > TTRPC_DATA_MAX)
		return -EMSGSIZE;
	data = malloc(len ? len : 1);
	if (!data)
		return -ENOMEM;
	protobuf_c_message_pack(msg, data);
	*ret_data = data;
	*ret_len = (uint32_t)len;
	return 0;
}

static int send_response(struct server_conn *c, uint32_t stream, const Ttrpc__Response *response)
{
	struct ttrpc_header header = {.stream = stream, .type = TTRPC_RESPONSE};
	uint8_t *data = NULL;
	int res = pack(&response->base, &data, &header.len_bytes);

	if (!res)
		res = ttrpc_conn_send(c->conn, &header, data);
	free(data);
	return res;
}

void server_status(struct server_conn *c, uint32_t stream, enum ttrpc_code code, const char *text)
{
	Ttrpc__Status status = TTRPC__STATUS__INIT;
	Ttrpc__Response response = TTRPC__RESPONSE__INIT;
	char message[TTRPC_MESSAGE_MAX];

	snprintf(message, sizeof(message), "%s", text);
	pb_text_clean(message);
	status.code = code;
	status.message = message;
	response.status = &status;
	(void)send_response(c, stream, &response);
}

static void send_reply(struct ttrpc_call *call, const ProtobufCMessage *reply)
{
	Ttrpc__Response response = TTRPC__RESPONSE__INIT;
	uint8_t *payload = NULL;
	uint32_t len = 0;
	int res = pack(reply, &payload, &len);

	if (!res) {
		response.payload = (ProtobufCBinaryData){.len = len, .data = payload};
		res = send_response(call->conn, call->stream, &response);
	}
	if (res == -EMSGSIZE)
		server_status(call->conn, call->stream, TTRPC_RESOURCE_EXHAUSTED,
			      "the answer has more than 4194304 bytes");
	else if (res == -ENOMEM)
		server_status(call->conn, call->stream, TTRPC_RESOURCE_EXHAUSTED,
			      "the server is out of memory");
	free(payload);
}

/* ---- life of a call -----------------------------------------------------------------------------
 */

static void call_unlink(struct ttrpc_call *call)
{
	*call->at = call->next;
	if (call->next)
		call->next->at = call->at;
	if (call->conn) {
		call->conn->ncalls--;
		call->conn->request_bytes -= call->request_bytes;
	}
}

static void call_link(struct ttrpc_call *call, struct ttrpc_call **list)
{
	call->next = *list;
	call->at = list;
	if (call->next)
		call->next->at = &call->next;
	*list = call;
}

static void call_free(struct ttrpc_call *call)
{
	loop_timer_disarm(call->server->config.loop, &call->deadline);
	call_unlink(call);
	pb_free(call->request);
	free(call);
}

void server_orphan(struct ttrpc_call *call)
{
	call_unlink(call);
	call->conn = NULL;
	call_link(call, &call->server->orphans);
	loop_timer_disarm(call->server->config.loop, &call->deadline);
	if (call->method->cancelled)
		call->method->cancelled(call->server->config.ctx, call);
}

static void call_deadline(struct loop_timer *t)
{
	struct ttrpc_call *call = container_of(t, struct ttrpc_call, deadline);

	server_status(call->conn, call->stream, TTRPC_DEADLINE_EXCEEDED,
		      "the call's deadline has passed");
	server_orphan(call);
}

/* The client broke the rules of this stream. */
static void call_refuse(struct ttrpc_call *call, enum ttrpc_code code, const char *text)
{
	server_status(call->conn, call->stream, code, text);
	server_orphan(call);
}

void ttrpc_call_set_user(struct ttrpc_call *call, void *user)
{
	call->user = user;
}

void *ttrpc_call_user(const struct ttrpc_call *call)
{
	return call->user;
}

const void *ttrpc_call_peer(const struct ttrpc_call *call)
{
	return call->conn ? call->conn->peer : NULL;
}

const struct ttrpc_method *ttrpc_call_method(const struct ttrpc_call *call)
{
	return call->method;
}

void ttrpc_call_reply(struct ttrpc_call *call, const ProtobufCMessage *reply)
{
	assert(reply || call->method->flags & TTRPC_SERVER_STREAM);
	if (call->conn && reply) {
		send_reply(call, reply);
	} else if (call->conn) {
		struct ttrpc_header end = {.stream = call->stream,
					   .type = TTRPC_DATA,
					   .flags = TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA};

		(void)ttrpc_conn_send(call->conn->conn, &end, NULL);
	}
	call_free(call);
}

void ttrpc_call_fail(struct ttrpc_call *call, enum ttrpc_code code, const char *fmt, ...)
{
	char text[TTRPC_MESSAGE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (call->conn)
		server_status(call->conn, call->stream, code, text);
	call_free(call);
}

int ttrpc_call_send(struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct ttrpc_header header = {.stream = call->stream, .type = TTRPC_DATA};
	uint8_t *data = NULL;
	int res;

	if (!call->conn)
		return -EPIPE;
	if (!ttrpc_call_room(call))
		return -EAGAIN;
	res = pack(message, &data, &header.len_bytes);
	if (!res)
		res = ttrpc_conn_send(call->conn->conn, &header, data);
	free(data);
	return res;
}

size_t ttrpc_call_room(const struct ttrpc_call *call)
{
	size_t queued = call->conn ? ttrpc_conn_queued(call->conn->conn) : 0;

	return queued < TTRPC_QUEUE_HIGH ? TTRPC_QUEUE_HIGH - queued : 0;
}

void ttrpc_call_wait(struct ttrpc_call *call, void (*writable)(void *ctx, struct ttrpc_call *call))
{
	assert(!call->conn || ttrpc_call_room(call) < TTRPC_QUEUE_HIGH);
	call->writable = writable;
	call->writable_now = false;
}

/* Whose turn it is; NULL: nobody's any more. */
static struct ttrpc_call *next_turn(struct server_conn *c)
{
	struct ttrpc_call *next = NULL;

	for (struct ttrpc_call *call = c->calls; call; call = call->next) {
		if (call->writable_now && (!next || call->turn < next->turn))
			next = call;
	}
	return next;
}

void server_writable(struct server_conn *c)
{
	struct ttrpc_call *call;

	for (call = c->calls; call; call = call->next)
		call->writable_now = call->writable != NULL;
	/* those that find no room keep their place for the next time */
	while ((call = next_turn(c)) && ttrpc_call_room(call) > TTRPC_QUEUE_HIGH / 2) {
		void (*writable)(void *ctx, struct ttrpc_call *call) = call->writable;

		call->writable = NULL;
		call->writable_now = false;
		call->turn = ++c->turns;
		writable(c->server->config.ctx, call);
	}
}

/* ---- frames of the client -----------------------------------------------------------------------
 */

static const struct ttrpc_service *find_service(const struct ttrpc_server *s, const char *name)
{
	for (const struct ttrpc_service *const *at = s->config.services; *at; at++) {
		if (!strcmp((*at)->name, name))
			return *at;
	}
	return NULL;
}

static const struct ttrpc_method *find_method(const struct ttrpc_server *s,
					      const Ttrpc__Request *request, struct err *err)
{
	const struct ttrpc_service *service = find_service(s, request->service);

	if (!service) {
		err_set(err, ENOSYS, "there is no service %s", request->service);
		return NULL;
	}
	for (unsigned i = 0; i < service->nmethods; i++) {
		if (!strcmp(service->methods[i].name, request->method))
			return &service->methods[i];
	}
	err_set(err, ENOSYS, "service %s has no method %s", request->service, request->method);
	return NULL;
}

/* How a request that could not be unpacked or started is answered. */
static enum ttrpc_code refusal_code(int res)
{
	if (res == -EACCES)
		return TTRPC_PERMISSION_DENIED;
	return res == -E2BIG ? TTRPC_RESOURCE_EXHAUSTED : TTRPC_INVALID_ARGUMENT;
}

static int check_permitted(const struct server_conn *c, const struct ttrpc_method *method,
			   const ProtobufCMessage *request, struct err *err)
{
	const struct ttrpc_server_config *config = &c->server->config;

	if (!config->permit || config->permit(config->ctx, c->peer, method, request, err))
		return 0;
	return err_set(err, EACCES, "this is not permitted");
}

/* A message of a client stream. False: the call has been refused. */
static bool call_data(struct ttrpc_call *call, const void *data, size_t len)
{
	struct err err = ERR_INIT;
	ProtobufCMessage *msg;
	int res = pb_unpack(call->method->input, data, len, &msg, &err);

	if (res) {
		call_refuse(call, refusal_code(res), err.msg);
		return false;
	}
	call->method->data(call->server->config.ctx, call, msg);
	pb_free(msg);
	return true;
}

static void call_arm(struct ttrpc_call *call, int64_t timeout_ns)
{
	uint64_t deadline_ns;

	if (timeout_ns <= 0 || !ck_add(loop_now_ns(), (uint64_t)timeout_ns, &deadline_ns))
		return;
	call->deadline.fn = call_deadline;
	loop_timer_arm(call->server->config.loop, &call->deadline, deadline_ns);
}

/* The call that a stream id stands for; NULL: none any more. */
static struct ttrpc_call *find_call(struct server_conn *c, uint32_t stream)
{
	struct ttrpc_call *call = c->calls;

	while (call && call->stream != stream)
		call = call->next;
	return call;
}

/* Starts a call whose method is known. 0, or -errno with what is to be answered. */
static int call_start(struct server_conn *c, const struct ttrpc_header *h,
		      const Ttrpc__Request *request, const struct ttrpc_method *method,
		      struct err *err)
{
	bool streams_in = method->flags & TTRPC_CLIENT_STREAM;
	struct ttrpc_call *call;
	int res = 0;

	if (c->ncalls == TTRPC_CALLS_MAX)
		return err_set(err, E2BIG, "%d calls of this connection are under way",
			       TTRPC_CALLS_MAX);
	if (c->request_bytes + h->len_bytes > TTRPC_REQUEST_BYTES_MAX)
		return err_set(err, E2BIG,
			       "the requests of this connection that are under way have more "
			       "than %d bytes",
			       TTRPC_REQUEST_BYTES_MAX);
	call = calloc(1, sizeof(*call));
	if (!call)
		return err_set(err, E2BIG, "the server is out of memory");
	if (!streams_in)
		res = pb_unpack(method->input, request->payload.data, request->payload.len,
				&call->request, err);
	if (!res)
		res = check_permitted(c, method, call->request, err);
	if (res) {
		pb_free(call->request);
		free(call);
		return res;
	}
	call->server = c->server;
	call->conn = c;
	call->method = method;
	call->stream = h->stream;
	call->request_bytes = h->len_bytes;
	call->data_ended = !streams_in || !(h->flags & TTRPC_REMOTE_OPEN);
	c->ncalls++;
	c->request_bytes += call->request_bytes;
	call_link(call, &c->calls);
	call_arm(call, request->timeout_nano);
	method->start(c->server->config.ctx, call, call->request);
	return 0;
}

/* The first message of a client stream may come with the request; so may the end of them. */
static void stream_begun(struct server_conn *c, const struct ttrpc_header *h,
			 const Ttrpc__Request *request)
{
	struct ttrpc_call *call = find_call(c, h->stream);

	if (!call ||
	    (request->payload.len && !call_data(call, request->payload.data, request->payload.len)))
		return;
	call = find_call(c, h->stream);
	if (call && call->data_ended && call->method->data_end)
		call->method->data_end(c->server->config.ctx, call);
}

void server_request(struct server_conn *c, const struct ttrpc_header *h, const uint8_t *data)
{
	const struct ttrpc_method *method;
	struct err err = ERR_INIT;
	ProtobufCMessage *msg = NULL;
	const Ttrpc__Request *request;
	int res;

	res = pb_unpack(&ttrpc__request__descriptor, data, h->len_bytes, &msg, &err);
	if (res) {
		server_status(c, h->stream, refusal_code(res), err.msg);
		return;
	}
	request = (const Ttrpc__Request *)msg;
	method = find_method(c->server, request, &err);
	if (!method) {
		server_status(c, h->stream, TTRPC_UNIMPLEMENTED, err.msg);
	} else {
		res = call_start(c, h, request, method, &err);
		if (res)
			server_status(c, h->stream, refusal_code(res), err.msg);
		else if (method->flags & TTRPC_CLIENT_STREAM)
			stream_begun(c, h, request);
	}
	pb_free(msg);
}

void server_data(struct server_conn *c, const struct ttrpc_header *h, const uint8_t *data)
{
	struct ttrpc_call *call = find_call(c, h->stream);

	if (h->flags & TTRPC_GIVEN_UP) { /* it may have ended meanwhile */
		if (call)
			server_orphan(call);
		return;
	}
	if (!call) {
		server_status(c, h->stream, TTRPC_INVALID_ARGUMENT,
			      "the stream is not active, or not any more");
		return;
	}
	if (call->data_ended) {
		call_refuse(call, TTRPC_INVALID_ARGUMENT, "data on a stream that is closed");
		return;
	}
	if (!(h->flags & TTRPC_NO_DATA) && !call_data(call, data, h->len_bytes))
		return;
	call = find_call(c, h->stream); /* the handler may have completed it */
	if (!call || !(h->flags & TTRPC_REMOTE_CLOSED))
		return;
	call->data_ended = true;
	if (call->method->data_end)
		call->method->data_end(c->server->config.ctx, call);
}
