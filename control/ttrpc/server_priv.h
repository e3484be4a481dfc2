/* What server.c and call.c share. */
#ifndef CONTROL_TTRPC_SERVER_PRIV_H
#define CONTROL_TTRPC_SERVER_PRIV_H

#include "control/ttrpc/conn.h"
#include "control/ttrpc/server.h"

/* Threads: the loop's, as all below. */
struct ttrpc_call {
	struct ttrpc_server *server;
	struct server_conn *conn;      /* NULL: orphaned */
	struct ttrpc_call *next, **at; /* of its connection, or the server's orphans */
	const struct ttrpc_method *method;
	ProtobufCMessage *request;
	size_t request_bytes;
	uint32_t stream;
	bool data_ended; /* the client sends no more on this stream */
	struct loop_timer deadline;
	void *user;
	void (*writable)(void *ctx, struct ttrpc_call *call); /* NULL: it does not wait */
	bool writable_now;
	uint64_t turn; /* of server_conn, when it had its last */
};

struct server_conn {
	struct ttrpc_server *server;
	struct server_conn *next, **at;
	struct ttrpc_conn *conn;
	void *peer; /* that `admit` gave */
	uint32_t last_stream;
	struct ttrpc_call *calls;
	unsigned ncalls;
	size_t request_bytes;
	uint64_t turns;
};

struct ttrpc_server {
	struct ttrpc_server_config config;
	struct server_conn *conns;
	unsigned nconns;
	struct ttrpc_call *orphans;

	int listen_fd;
	struct loop_op accept_op;
	struct loop_timer accept_timer; /* after a lack of descriptors */
	bool accepting;
	bool closed;

	void (*drained)(void *ctx);
	struct loop_msg drain_msg;
};

/* A Request frame whose stream id is in order. call.c */
void server_request(struct server_conn *c, const struct ttrpc_header *header, const uint8_t *data);
void server_data(struct server_conn *c, const struct ttrpc_header *header, const uint8_t *data);

/* A Response that carries a status. */
void server_status(struct server_conn *c, uint32_t stream, enum ttrpc_code code, const char *text);

/* The kernel has taken everything: those who wait for that have their turns. */
void server_writable(struct server_conn *c);

/* The connection, or the wait, is over: the handler completes the call into nothing. */
void server_orphan(struct ttrpc_call *call);

#endif
