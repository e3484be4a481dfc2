/*
 * Calls that one function answers, in a child process: it may block, and nothing that goes wrong in
 * it touches the agent.
 *
 * Threads: the loop's, but the function, which is alone in its process.
 */
#ifndef GUEST_AGENT_JOB_H
#define GUEST_AGENT_JOB_H

#include "control/ttrpc/server.h"

/* Fills `reply`, a message of the method's output in its initial state; what it points to need not
 * be freed. 0 or -errno. */
typedef int job_fn(const ProtobufCMessage *request, ProtobufCMessage *reply, struct err *err);

/* Completes the call with what `fn` makes of the request. */
void job_start(void *agent, struct ttrpc_call *call, const ProtobufCMessage *request, job_fn *fn,
	       const ProtobufCMessageDescriptor *output);

/* Nobody waits any more: the child is killed. For ttrpc_method.cancelled of such calls. */
void job_cancelled(void *agent, struct ttrpc_call *call);

/* Runs a program of the guest to its end, from within a job. `argv[0]` is looked for in the usual
 * places. -ENOENT: it is not there; -EIO: it failed, and said why as the message has it. */
int job_run_program(const char *const *argv, struct err *err);

#endif
