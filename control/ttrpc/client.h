/*
 * A ttrpc client over one stream socket: any number of calls at a time.
 *
 * Invariant: every call that was started ends with `done` exactly once, never from inside
 * ttrpc_client_start(), unless it is cancelled or the client is closed first.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_TTRPC_CLIENT_H
#define CONTROL_TTRPC_CLIENT_H

#include "base/loop.h"
#include "control/ttrpc/frame.h"
#include "proto/pb.h"

struct ttrpc_client;
struct ttrpc_client_call;

struct ttrpc_rpc {
	const char *service, *method;
	const ProtobufCMessage *request; /* packed at once; NULL: a client stream follows */
	const ProtobufCMessageDescriptor *output;
	bool server_stream;  /* `message` gets what comes before the end */
	uint64_t timeout_ns; /* 0: for ever */
	void (*message)(void *ctx, const ProtobufCMessage *message);
	/*
	 * The end. `code` TTRPC_OK: `reply` is the answer (NULL after a server stream); otherwise
	 * `text` says what failed. TTRPC_UNAVAILABLE: the connection is gone. Both are valid
	 * during the call of this.
	 */
	void (*done)(void *ctx, int code, const char *text, const ProtobufCMessage *reply);
	void *ctx;
};

/*
 * Takes `fd` over, a connected stream socket, also on failure. `closed` may be NULL; it is called
 * when the connection has ended, after the `done` of all calls. 0 or -ENOMEM.
 */
int ttrpc_client_new(struct loop *loop, int fd, void (*closed)(void *ctx), void *ctx,
		     struct ttrpc_client **ret_client);

/*
 * `ret_call` may be NULL; the call is valid until its `done`. -EPIPE: the connection has ended;
 * -EMSGSIZE: the request is above TTRPC_DATA_MAX; -ENOMEM, -ENOBUFS.
 */
int ttrpc_client_start(struct ttrpc_client *client, const struct ttrpc_rpc *rpc,
		       struct ttrpc_client_call **ret_call);

/* Client stream: one more message; no more of them. Errors as of ttrpc_client_start(). */
int ttrpc_client_send(struct ttrpc_client_call *call, const ProtobufCMessage *message);
int ttrpc_client_send_end(struct ttrpc_client_call *call);

/* For who passes messages on: takes nothing more from the server, or goes on; and how many bytes
 * wait for the server. */
void ttrpc_client_hold(struct ttrpc_client *client, bool hold);
size_t ttrpc_client_queued(const struct ttrpc_client *client);

/* Calls `drained` once, from the loop, when all that is queued is with the kernel: something is.
 * One at a time; NULL takes it back. */
void ttrpc_client_when_drained(struct ttrpc_client *client, void (*drained)(void *ctx), void *ctx);

/* Has the connection ended? In `done`: is that why? */
bool ttrpc_client_ended(const struct ttrpc_client *client);

/* Forgets the call: its `done` is not called, what still comes for it is dropped. The server is
 * told (TTRPC_GIVEN_UP), where it is ours. */
void ttrpc_client_cancel(struct ttrpc_client_call *call);

/* Closes the connection and forgets all calls. From any callback. NULL is accepted. */
void ttrpc_client_close(struct ttrpc_client *client);

#endif
