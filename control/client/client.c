/* liblodge: connection, calls and streams. See control/client/lodge.h. */
#include "control/client/lodge.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/ttrpc/frame.h"
#include "control/unix_socket.h"
#include "proto/pb.h"
#include "proto/ttrpc.pb-c.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

_Static_assert((int)LODGE_STATUS_UNAVAILABLE == (int)TTRPC_UNAVAILABLE, "codes of ttrpc");

#define CHUNK (64 * 1024)
/* What may come while a message of ours cannot leave: more than a server queues for a client. */
#define INPUT_MAX (16 * 1024 * 1024)
/* The server tells the deadline; only a server that does not is not waited for. */
#define DEADLINE_GRACE_MS 500

struct lodge_client {
	char *socket;
	int fd;
	bool broken; /* the connection is of no use any more */

	/* the call under way */
	bool open;
	const ProtobufCMethodDescriptor *method;
	uint32_t stream; /* of the last call */
	uint64_t deadline_ms;

	/* bytes that have come: [at, have) are not with the reader yet */
	uint8_t *in;
	size_t at, have, cap;
	struct ttrpc_reader reader;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

__attribute__((format(printf, 3, 4))) static int fail(struct lodge_error *error, int status,
						      const char *fmt, ...)
{
	va_list ap;

	if (!error)
		return status;
	error->status = status;
	va_start(ap, fmt);
	vsnprintf(error->text, sizeof(error->text), fmt, ap);
	va_end(ap);
	for (char *p = error->text; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	return status;
}

static int broken(struct lodge_client *c, struct lodge_error *error, const char *why)
{
	c->broken = true;
	c->open = false;
	return fail(error, LODGE_STATUS_UNAVAILABLE, "%s: %s", c->socket, why);
}

/* ---- connection ---------------------------------------------------------------------------------
 */

const char *lodge_socket(const char *socket)
{
	if (!socket)
		socket = getenv("LODGE_SOCKET");
	return socket && *socket ? socket : LODGE_SOCKET_DEFAULT;
}

static int connect_failed(const char *socket, int error_number, struct lodge_error *error)
{
	switch (error_number) {
	case ENOENT:
	case ECONNREFUSED:
		return fail(error, LODGE_STATUS_UNAVAILABLE,
			    "lodge serve is not running at %s: start it with `lodge serve "
			    "--socket %s --runtime-dir DIR`, or say where it is with --socket or "
			    "$LODGE_SOCKET",
			    socket, socket);
	case EACCES:
	case EPERM:
		return fail(error, LODGE_STATUS_PERMISSION_DENIED,
			    "%s: you may not connect; `lodge serve --socket-mode --socket-group` "
			    "says who may",
			    socket);
	case ENAMETOOLONG:
		return fail(error, LODGE_STATUS_INVALID_ARGUMENT, "%s: the path is too long",
			    socket);
	default:
		return fail(error, LODGE_STATUS_UNAVAILABLE, "%s: %s", socket,
			    strerror(error_number));
	}
}

/* `name` for messages. */
static int client_new(int fd, const char *name, struct lodge_client **ret_client,
		      struct lodge_error *error)
{
	struct lodge_client *c = calloc(1, sizeof(*c));

	if (c)
		c->socket = strdup(name);
	if (!c || !c->socket) {
		free(c);
		close(fd);
		return fail(error, LODGE_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	c->fd = fd;
	*ret_client = c;
	return LODGE_STATUS_OK;
}

int lodge_connect(const char *socket, struct lodge_client **ret_client, struct lodge_error *error)
{
	int fd = -1, res;

	socket = lodge_socket(socket);
	res = unix_connect(socket, &fd, NULL);
	return res ? connect_failed(socket, -res, error)
		   : client_new(fd, socket, ret_client, error);
}

int lodge_adopt(int fd, struct lodge_client **ret_client, struct lodge_error *error)
{
	return client_new(fd, "the socket", ret_client, error);
}

void lodge_close(struct lodge_client *c)
{
	if (!c)
		return;
	close(c->fd);
	ttrpc_reader_fini(&c->reader);
	free(c->in);
	free(c->socket);
	free(c);
}

int lodge_fd(const struct lodge_client *c)
{
	return c->fd;
}

void lodge_free(ProtobufCMessage *message)
{
	pb_free(message);
}

/* Takes in what has come, without waiting. -EAGAIN: nothing; -EPIPE: the end; -errno. */
static int receive(struct lodge_client *c)
{
	ssize_t n;

	if (c->at == c->have)
		c->at = c->have = 0;
	if (c->cap - c->have < CHUNK) {
		uint8_t *in;

		if (c->have >= INPUT_MAX)
			return -EMSGSIZE;
		in = realloc(c->in, c->have + CHUNK);
		if (!in)
			return -ENOMEM;
		c->in = in;
		c->cap = c->have + CHUNK;
	}
	do {
		n = recv(c->fd, c->in + c->have, CHUNK, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -EPIPE;
	c->have += (size_t)n;
	return 0;
}

static int connection_failed(struct lodge_client *c, int res, struct lodge_error *error)
{
	if (res == -EPIPE || res == -ECONNRESET)
		return broken(c, error, "the server closed the connection");
	if (res == -EMSGSIZE)
		return broken(c, error, "the server sends, but takes nothing");
	return broken(c, error, strerror(-res));
}

/* ---- sending ------------------------------------------------------------------------------------
 */

static int send_all(struct lodge_client *c, const uint8_t *data, size_t len,
		    struct lodge_error *error)
{
	while (len) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN | POLLOUT};
		ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return connection_failed(c, -errno, error);
		if (poll(&p, 1, -1) > 0 && p.revents & POLLIN) {
			/* a server that waits for us to read would never read */
			int res = receive(c);

			if (res && res != -EAGAIN)
				return connection_failed(c, res, error);
		}
	}
	return LODGE_STATUS_OK;
}

/* `message` may be NULL: no data. */
static int send_frame(struct lodge_client *c, unsigned type, unsigned flags,
		      const ProtobufCMessage *message, struct lodge_error *error)
{
	size_t len = message ? protobuf_c_message_get_packed_size(message) : 0;
	struct ttrpc_header h = {.len_bytes = (uint32_t)len,
				 .stream = c->stream,
				 .type = (uint8_t)type,
				 .flags = (uint8_t)flags};
	struct ttrpc_wire_header wire = ttrpc_header_put(&h);
	uint8_t *frame;
	int status;

	if (len > TTRPC_DATA_MAX)
		return fail(error, LODGE_STATUS_RESOURCE_EXHAUSTED,
			    "the request has more than %d bytes", TTRPC_DATA_MAX);
	frame = malloc(sizeof(wire) + len);
	if (!frame)
		return fail(error, LODGE_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	memcpy(frame, &wire, sizeof(wire));
	if (message)
		protobuf_c_message_pack(message, frame + sizeof(wire));
	status = send_all(c, frame, sizeof(wire) + len, error);
	free(frame);
	return status;
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

static int send_request(struct lodge_client *c, const char *service,
			const ProtobufCMessage *request, unsigned timeout_ms,
			struct lodge_error *error)
{
	Ttrpc__Request msg = TTRPC__REQUEST__INIT;
	size_t len = request ? protobuf_c_message_get_packed_size(request) : 0;
	autofree uint8_t *payload = malloc(len ? len : 1);

	if (!payload)
		return fail(error, LODGE_STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (request)
		protobuf_c_message_pack(request, payload);
	msg.service = borrow(service);
	msg.method = borrow(c->method->name);
	msg.payload = (ProtobufCBinaryData){.len = len, .data = payload};
	msg.timeout_nano = (int64_t)timeout_ms * 1000000;
	return send_frame(c, TTRPC_REQUEST, request ? 0 : TTRPC_REMOTE_OPEN, &msg.base, error);
}

static const ProtobufCServiceDescriptor *const services[] = {
    &vm_tools__concierge__vm_concierge__descriptor,
    &lodge__v1__vms__descriptor,
    &lodge__v1__guests__descriptor,
};

int lodge_begin(struct lodge_client *c, const char *method, const ProtobufCMessage *request,
		unsigned timeout_ms, struct lodge_error *error)
{
	const ProtobufCServiceDescriptor *service = NULL;
	int res;

	if (c->broken)
		return fail(error, LODGE_STATUS_UNAVAILABLE, "%s: the connection is gone",
			    c->socket);
	if (c->open)
		return fail(error, LODGE_STATUS_FAILED_PRECONDITION,
			    "%s: the call before has not ended", method);
	c->method = NULL;
	for (size_t i = 0; i < ARRAY_LEN(services) && !c->method; i++) {
		service = services[i];
		c->method = protobuf_c_service_descriptor_get_method_by_name(service, method);
	}
	if (!c->method)
		return fail(error, LODGE_STATUS_UNIMPLEMENTED, "%s: there is no such method",
			    method);
	if (request && request->descriptor != c->method->input)
		return fail(error, LODGE_STATUS_INVALID_ARGUMENT, "%s takes a %s, no %s", method,
			    c->method->input->name, request->descriptor->name);
	c->stream = c->stream ? c->stream + 2 : 1;
	res = send_request(c, service->name, request, timeout_ms, error);
	if (res)
		return res;
	c->deadline_ms = timeout_ms ? now_ms() + timeout_ms + DEADLINE_GRACE_MS : 0;
	c->open = true;
	return LODGE_STATUS_OK;
}

int lodge_send(struct lodge_client *c, const ProtobufCMessage *message, struct lodge_error *error)
{
	if (!c->open)
		return fail(error, LODGE_STATUS_FAILED_PRECONDITION, "the call has ended");
	if (message->descriptor != c->method->input)
		return fail(error, LODGE_STATUS_INVALID_ARGUMENT, "%s takes a %s, no %s",
			    c->method->name, c->method->input->name, message->descriptor->name);
	return send_frame(c, TTRPC_DATA, 0, message, error);
}

int lodge_send_end(struct lodge_client *c, struct lodge_error *error)
{
	if (!c->open)
		return fail(error, LODGE_STATUS_FAILED_PRECONDITION, "the call has ended");
	return send_frame(c, TTRPC_DATA, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA, NULL, error);
}

/* The server is told, where it takes that at once; else it sees the end of the connection. */
static void give_up(struct lodge_client *c)
{
	struct ttrpc_header h = {.stream = c->stream,
				 .type = TTRPC_DATA,
				 .flags = TTRPC_GIVEN_UP | TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA};
	struct ttrpc_wire_header wire = ttrpc_header_put(&h);
	ssize_t n = send(c->fd, &wire, sizeof(wire), MSG_DONTWAIT | MSG_NOSIGNAL);

	c->broken = n > 0 && n < (ssize_t)sizeof(wire);
}

void lodge_abandon(struct lodge_client *c)
{
	if (c->open && !c->broken)
		give_up(c);
	c->open = false;
}

/* ---- receiving ----------------------------------------------------------------------------------
 */

static enum lodge_next unpack(const struct lodge_client *c, const void *data, size_t len,
			      ProtobufCMessage **ret_message, struct lodge_error *error)
{
	struct err err = ERR_INIT;

	if (!pb_unpack(c->method->output, data, len, ret_message, &err))
		return LODGE_NEXT_MESSAGE;
	fail(error, LODGE_STATUS_INTERNAL, "%s: the answer: %s", c->method->name, err.msg);
	return LODGE_NEXT_FAILED;
}

/* Ends the call. */
static enum lodge_next take_response(struct lodge_client *c, ProtobufCMessage **ret_message,
				     struct lodge_error *error)
{
	enum lodge_next next = LODGE_NEXT_FAILED;
	const Ttrpc__Response *r;
	ProtobufCMessage *msg;
	struct err err = ERR_INIT;

	c->open = false;
	if (pb_unpack(&ttrpc__response__descriptor, c->reader.data, c->reader.header.len_bytes,
		      &msg, &err)) {
		fail(error, LODGE_STATUS_INTERNAL, "%s: the answer: %s", c->method->name, err.msg);
		return LODGE_NEXT_FAILED;
	}
	r = (const Ttrpc__Response *)msg;
	if (!r->status || !r->status->code)
		next = unpack(c, r->payload.data, r->payload.len, ret_message, error);
	else if (r->status->code == LODGE_STATUS_UNIMPLEMENTED)
		fail(error, r->status->code,
		     "the server at %s does not have %s: it is older than this client, or serves "
		     "one VM only",
		     c->socket, c->method->name);
	else
		fail(error, r->status->code, "%s", r->status->message);
	pb_free(msg);
	return next;
}

/* One frame of the call under way. */
static enum lodge_next take_frame(struct lodge_client *c, ProtobufCMessage **ret_message,
				  struct lodge_error *error)
{
	const struct ttrpc_header *h = &c->reader.header;
	enum lodge_next next = LODGE_NEXT_NONE;

	if (h->type == TTRPC_RESPONSE)
		return take_response(c, ret_message, error);
	if (h->type != TTRPC_DATA)
		return LODGE_NEXT_NONE;
	if (!(h->flags & TTRPC_NO_DATA))
		next = unpack(c, c->reader.data, h->len_bytes, ret_message, error);
	if (h->flags & TTRPC_REMOTE_CLOSED || next == LODGE_NEXT_FAILED) {
		c->open = false;
		if (next == LODGE_NEXT_NONE)
			next = LODGE_NEXT_END;
	}
	return next;
}

/* What stands in the buffer. */
static enum lodge_next take_input(struct lodge_client *c, ProtobufCMessage **ret_message,
				  struct lodge_error *error)
{
	enum lodge_next next = LODGE_NEXT_NONE;

	while (next == LODGE_NEXT_NONE && c->at < c->have) {
		size_t used;
		int event = ttrpc_reader_feed(&c->reader, c->in + c->at, c->have - c->at, &used);

		if (event < 0) {
			broken(c, error, strerror(-event));
			return LODGE_NEXT_FAILED;
		}
		c->at += used;
		if (event == TTRPC_NEED_MORE || c->reader.header.stream != c->stream)
			continue;
		if (event == TTRPC_FRAME) {
			next = take_frame(c, ret_message, error);
		} else {
			c->open = false;
			fail(error, LODGE_STATUS_RESOURCE_EXHAUSTED,
			     "%s: the answer has more than %d bytes", c->method->name,
			     TTRPC_DATA_MAX);
			next = LODGE_NEXT_FAILED;
		}
	}
	return next;
}

/* How long to wait, in ms; -1: for ever. */
static int wait_time(const struct lodge_client *c, uint64_t until_ms)
{
	uint64_t now = now_ms();

	if (c->deadline_ms)
		until_ms = MIN(until_ms, c->deadline_ms);
	if (until_ms == UINT64_MAX)
		return -1;
	return until_ms > now ? (int)MIN(until_ms - now, (uint64_t)INT_MAX) : 0;
}

enum lodge_next lodge_next(struct lodge_client *c, int wait_ms, ProtobufCMessage **ret_message,
			   struct lodge_error *error)
{
	uint64_t until_ms = wait_ms < 0 ? UINT64_MAX : now_ms() + (unsigned)wait_ms;

	if (!c->open && !c->broken)
		return LODGE_NEXT_END;
	while (!c->broken) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		enum lodge_next next = take_input(c, ret_message, error);
		int res;

		if (next != LODGE_NEXT_NONE)
			return next;
		res = receive(c);
		if (!res)
			continue;
		if (res != -EAGAIN) {
			connection_failed(c, res, error);
			return LODGE_NEXT_FAILED;
		}
		if (c->deadline_ms && now_ms() >= c->deadline_ms) {
			c->open = false;
			fail(error, LODGE_STATUS_DEADLINE_EXCEEDED, "%s: no answer within its time",
			     c->method->name);
			return LODGE_NEXT_FAILED;
		}
		if (until_ms != UINT64_MAX && now_ms() >= until_ms)
			return LODGE_NEXT_NONE;
		if (poll(&p, 1, wait_time(c, until_ms)) < 0 && errno == EINTR && wait_ms >= 0)
			return LODGE_NEXT_NONE; /* the caller may want to know */
	}
	fail(error, LODGE_STATUS_UNAVAILABLE, "%s: the connection is gone", c->socket);
	return LODGE_NEXT_FAILED;
}

int lodge_each(struct lodge_client *c, int (*fn)(void *ctx, const ProtobufCMessage *message),
	       void *ctx, struct lodge_error *error)
{
	struct lodge_error own;

	if (!error)
		error = &own;
	for (;;) {
		ProtobufCMessage *message;

		switch (lodge_next(c, -1, &message, error)) {
		case LODGE_NEXT_MESSAGE: {
			int ended = fn(ctx, message);

			pb_free(message);
			if (!ended)
				break;
			lodge_abandon(c);
			return LODGE_STATUS_OK;
		}
		case LODGE_NEXT_END:
			return LODGE_STATUS_OK;
		case LODGE_NEXT_FAILED:
			return error->status;
		case LODGE_NEXT_NONE:
			break;
		}
	}
}

int lodge_call(struct lodge_client *c, const char *method, const ProtobufCMessage *request,
	       unsigned timeout_ms, ProtobufCMessage **ret_reply, struct lodge_error *error)
{
	struct lodge_error own;
	int res;

	if (!error)
		error = &own;
	res = lodge_begin(c, method, request, timeout_ms, error);
	if (res)
		return res;
	switch (lodge_next(c, -1, ret_reply, error)) {
	case LODGE_NEXT_MESSAGE:
		if (!c->open)
			return LODGE_STATUS_OK;
		pb_free(*ret_reply);
		lodge_abandon(c);
		return fail(error, LODGE_STATUS_INVALID_ARGUMENT,
			    "%s is a stream; lodge_begin() it", method);
	case LODGE_NEXT_FAILED:
		return error->status;
	case LODGE_NEXT_END:
	case LODGE_NEXT_NONE:
		break;
	}
	return fail(error, LODGE_STATUS_INTERNAL, "%s ended without an answer", method);
}
