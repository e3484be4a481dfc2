/*
 * liblodge: calls to `lodge serve` and `lodge vmm` from C (proto/vm_concierge.proto and
 * proto/lodge.proto, over ttrpc on a Unix socket). Calls wait for their answer; no threads, no
 * event loop.
 *
 *   struct lodge_client *client;
 *   struct lodge_error error;
 *   Lodge__V1__ListVmsRequest request = LODGE__V1__LIST_VMS_REQUEST__INIT;
 *   ProtobufCMessage *reply;
 *
 *   if (lodge_connect(NULL, &client, &error) ||
 *       lodge_call(client, "ListVms", &request.base, 0, &reply, &error))
 *           ... error.text
 *
 * A client carries one call at a time, which may be a stream; who wants several at a time connects
 * several times.
 *
 * Functions that return an int return LODGE_STATUS_OK (0), or another status and fill `error`
 * (which may be NULL). After LODGE_STATUS_UNAVAILABLE only lodge_close() is of use.
 *
 * Threads: a client belongs to one at a time.
 */
#ifndef CONTROL_CLIENT_LODGE_H
#define CONTROL_CLIENT_LODGE_H

#include <protobuf-c/protobuf-c.h>

#include "proto/lodge.pb-c.h"
#include "proto/vm_concierge.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LODGE_SOCKET_DEFAULT "/run/lodge/socket"
#define LODGE_ERROR_MAX	     640

/* gRPC's status codes, which ttrpc uses. */
enum lodge_status {
	LODGE_STATUS_OK = 0,
	LODGE_STATUS_CANCELLED = 1,
	LODGE_STATUS_UNKNOWN = 2,
	LODGE_STATUS_INVALID_ARGUMENT = 3,
	LODGE_STATUS_DEADLINE_EXCEEDED = 4,
	LODGE_STATUS_NOT_FOUND = 5, /* no VM, or no image, of that name */
	LODGE_STATUS_PERMISSION_DENIED = 7,
	LODGE_STATUS_RESOURCE_EXHAUSTED = 8,
	LODGE_STATUS_FAILED_PRECONDITION = 9,
	LODGE_STATUS_UNIMPLEMENTED = 12, /* the server has no such method */
	LODGE_STATUS_INTERNAL = 13,
	LODGE_STATUS_UNAVAILABLE = 14, /* nobody serves the socket, or the connection is gone */
};

struct lodge_error {
	int status;
	char text[LODGE_ERROR_MAX]; /* one line for people, without control characters */
};

struct lodge_client;

/* `socket` NULL: $LODGE_SOCKET, and without that LODGE_SOCKET_DEFAULT. */
const char *lodge_socket(const char *socket);

int lodge_connect(const char *socket, struct lodge_client **ret_client, struct lodge_error *error);

/* NULL is accepted. */
void lodge_close(struct lodge_client *client);

/*
 * A call and its answer. `method` is its name in any of the services; `request` is of its type.
 * `timeout_ms` 0: waits for ever. The caller frees *ret_reply, which is of the method's answer
 * type, with lodge_free().
 *
 * StartVm, StopVm, GetVmInfo, CreateDiskImage and DestroyDiskImage say in their answer whether they
 * could do what was asked.
 */
int lodge_call(struct lodge_client *client, const char *method, const ProtobufCMessage *request,
	       unsigned timeout_ms, ProtobufCMessage **ret_reply, struct lodge_error *error);

/* NULL is accepted. */
void lodge_free(ProtobufCMessage *message);

/* ---- streams (WatchEvents, ReadConsole, AttachConsole, ExecInGuest, ...), and calls that are
 * waited for later -----
 */

/* Starts a call. `request` NULL: what is sent follows by lodge_send() (AttachConsole). */
int lodge_begin(struct lodge_client *client, const char *method, const ProtobufCMessage *request,
		unsigned timeout_ms, struct lodge_error *error);

enum lodge_next {
	LODGE_NEXT_MESSAGE, /* *ret_message, which the caller frees */
	LODGE_NEXT_END,	    /* the call ended well */
	LODGE_NEXT_NONE,    /* nothing within `wait_ms` */
	LODGE_NEXT_FAILED,  /* the call ended as `error` says */
};

/* The next message of the call that was begun: an answer, or one of a stream. `wait_ms` -1: waits
 * until the call's end. */
enum lodge_next lodge_next(struct lodge_client *client, int wait_ms, ProtobufCMessage **ret_message,
			   struct lodge_error *error);

/*
 * lodge_next() to the end: `fn` gets each message, and ends the stream with anything but 0, which
 * is no error.
 */
int lodge_each(struct lodge_client *client, int (*fn)(void *ctx, const ProtobufCMessage *message),
	       void *ctx, struct lodge_error *error);

/* One more message of the client's stream; no more of them. What comes meanwhile is kept. */
int lodge_send(struct lodge_client *client, const ProtobufCMessage *message,
	       struct lodge_error *error);
int lodge_send_end(struct lodge_client *client, struct lodge_error *error);

/* Gives up the call that was begun, which the server is told: another may follow. */
void lodge_abandon(struct lodge_client *client);

/* To wait with poll(2): when it is readable, lodge_next() with `wait_ms` 0 until NONE. */
int lodge_fd(const struct lodge_client *client);

#ifdef __cplusplus
}
#endif

#endif
