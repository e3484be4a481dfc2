/*
 * A ttrpc server over stream sockets: a table of methods, calls that complete when they like.
 *
 * A call:   started --ttrpc_call_reply/fail--> gone
 *              |  deadline, given up, or its connection is gone: orphaned, `cancelled` is called;
 * the |  handler completes it as always, and the answer goes nowhere
 *
 * Invariants
 *  1. Every call whose handler was started is completed by it exactly once, at any time, from any
 *     callback of the loop; the call is gone then.
 *  2. What a client does wrong is answered on its stream (the error table of PROTOCOL.md and the Go
 *     server) and touches no other call. Only who does not read, or sends what is no frame, loses
 *     the connection.
 *  3. Of each connection at most TTRPC_CALLS_MAX calls and TTRPC_REQUEST_BYTES_MAX bytes of
 *     requests are held; more is answered with RESOURCE_EXHAUSTED.
 *
 * Life: new -> listen, adopt -> close -> (all calls are completed) -> loop_free() -> free.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_TTRPC_SERVER_H
#define CONTROL_TTRPC_SERVER_H

#include "base/loop.h"
#include "control/ttrpc/frame.h"
#include "proto/pb.h"

#define TTRPC_CALLS_MAX		128
#define TTRPC_REQUEST_BYTES_MAX (2 * TTRPC_DATA_MAX)
#define TTRPC_CONNS_MAX		1500
#define TTRPC_MESSAGE_MAX	600 /* text of a status, cut there */

struct ttrpc_call;

#define TTRPC_CLIENT_STREAM 0x1u /* the client sends messages; `start` gets NULL */
#define TTRPC_SERVER_STREAM 0x2u /* ttrpc_call_send(), then ttrpc_call_reply(call, NULL) */

struct ttrpc_method {
	const char *name;
	const ProtobufCMessageDescriptor *input, *output;
	unsigned flags;
	/* `request` lives as long as the call. */
	void (*start)(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request);
	/* Client stream: a message (valid during the call of this), and the end of them. */
	void (*data)(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message);
	void (*data_end)(void *ctx, struct ttrpc_call *call);
	/* Optional: nobody waits any more. May complete the call. */
	void (*cancelled)(void *ctx, struct ttrpc_call *call);
};

struct ttrpc_service {
	const char *name; /* with its package */
	const struct ttrpc_method *methods;
	unsigned nmethods;
};

struct ttrpc_server_config {
	struct loop *loop;
	const struct ttrpc_service *const *services; /* NULL-terminated; outlives the server */
	void *ctx;				     /* for the handlers */
	/* Optional: who is at the other end of `fd`? NULL: the connection is closed. */
	void *(*admit)(void *ctx, int fd);
	/* With `admit`: the peer's connection and its calls are gone. */
	void (*leave)(void *ctx, void *peer);
	/* Optional: may the peer make this call? `request` is NULL for client streams. False is
	 * answered with PERMISSION_DENIED and the message of `err`. */
	bool (*permit)(void *ctx, const void *peer, const struct ttrpc_method *method,
		       const ProtobufCMessage *request, struct err *err);
};

struct ttrpc_server;

int ttrpc_server_new(const struct ttrpc_server_config *config, struct ttrpc_server **ret_server,
		     struct err *err);

/* Accepts from a listening socket, which stays the caller's until ttrpc_server_free(). Once. */
void ttrpc_server_listen(struct ttrpc_server *server, int fd);

/* Serves a connected socket, which becomes the server's also on failure. -EACCES: `admit` refuses
 * it; -ENOMEM. */
int ttrpc_server_adopt(struct ttrpc_server *server, int fd);

/*
 * Calls `drained` once, from the loop, when all answers that were given are with the kernel;
 * a peer that does not read can put that off for ever: set a timer as well.
 */
void ttrpc_server_drain(struct ttrpc_server *server, void (*drained)(void *ctx));

/* Stops accepting and closes all connections; calls under way are cancelled. Not from a method's
 * callbacks. */
void ttrpc_server_close(struct ttrpc_server *server);

/* After loop_free(). NULL is accepted. */
void ttrpc_server_free(struct ttrpc_server *server);

/* ---- for handlers ---- */

/* A pointer of the handler's own. */
void ttrpc_call_set_user(struct ttrpc_call *call, void *user);
void *ttrpc_call_user(const struct ttrpc_call *call);

/* What `admit` said of who made the call; NULL: it is gone, or nobody was asked. */
const void *ttrpc_call_peer(const struct ttrpc_call *call);

const struct ttrpc_method *ttrpc_call_method(const struct ttrpc_call *call);

/* Completes the call. `reply` is packed at once; NULL ends a server stream. */
void ttrpc_call_reply(struct ttrpc_call *call, const ProtobufCMessage *reply);
void ttrpc_call_fail(struct ttrpc_call *call, enum ttrpc_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Server stream: one message. -EAGAIN: the client reads too slowly, nothing was sent; -EPIPE:
 * nobody waits; -EMSGSIZE: above TTRPC_DATA_MAX; -ENOMEM. */
int ttrpc_call_send(struct ttrpc_call *call, const ProtobufCMessage *message);

/* What may still be sent before -EAGAIN, in bytes, of all calls of the connection together. */
size_t ttrpc_call_room(const struct ttrpc_call *call);

/*
 * Server stream, while something waits for this client (-EAGAIN, or a message was sent just now):
 * `writable` is called once, from the loop, when the kernel has taken all of it; not when the call
 * is completed or cancelled before, and with room for TTRPC_QUEUE_HIGH / 2. Calls of one connection
 * that wait take turns, the one that had none for the longest time first: who sends a bounded piece
 * in each turn, and waits again, leaves none of the others behind.
 */
void ttrpc_call_wait(struct ttrpc_call *call, void (*writable)(void *ctx, struct ttrpc_call *call));

#endif
