/*
 * lodge-agent: does in the guest what the host asks, by the calls of proto/agent.proto.
 *
 *	host --vsock 8888--> ttrpc server --+--> job      one answer, made by a child process
 *	                                    +--> exec     a program with its streams
 *	                                    +--> file     a file's data, copied by a child process
 *	                                    +--> shutdown
 *
 * Whatever can block, or can go wrong, is done in a child process of its own; the agent itself only
 * moves bytes between children and the host, so that no call delays or ends another.
 *
 * Static, with musl; one thread (the loop's), epoll only.
 */
#ifndef GUEST_AGENT_AGENT_H
#define GUEST_AGENT_AGENT_H

#include "base/loop.h"
#include "control/ttrpc/server.h"
#include "proto/agent.pb-c.h"

#include <sys/resource.h>
#include <sys/signalfd.h>

#define AGENT_VERSION "1"

#define AGENT_PORT 8888 /* where it listens */
#define READY_PORT 7777 /* of the host: a connection says that the agent listens */

/* Of all connections together, calls being made included: each takes some descriptors and 1 KiB. */
#define PROCESSES_MAX 1000

/* One read of a child's output, and one message with it. */
#define CHUNK_BYTES (32 * 1024)

/* What a client may send ahead of what a child has taken. */
#define WINDOW_BYTES (256 * 1024)

struct process;

struct agent {
	struct loop *loop;
	const char *token; /* that a connection has to tell; NULL: none */
	struct ttrpc_server *server;
	struct rlimit files; /* for children: the agent's own is higher */

	struct process *processes;
	unsigned nprocesses;
	int signal_fd; /* SIGCHLD */
	struct loop_op signal_op;
	struct signalfd_siginfo signal;
	uint8_t chunk[CHUNK_BYTES];

	bool ending; /* of the guest, by Shutdown */
	bool reboot;
	bool force;
	unsigned asked;	 /* how often the guest's init was */
	unsigned looked; /* whether it listens */
	struct loop_timer end_timer;
};

/* The table of calls: service.c. */
extern const struct ttrpc_service *const agent_services[];

/* How a failure of the system is answered. */
enum ttrpc_code agent_code(int error);

/* Ends the call with the code and the text of `err`. */
void agent_fail(struct ttrpc_call *call, const struct err *err);

#endif
