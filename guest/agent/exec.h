/* Exec: a program and its streams. Threads: the loop's. */
#ifndef GUEST_AGENT_EXEC_H
#define GUEST_AGENT_EXEC_H

#include "control/ttrpc/server.h"

void exec_start(void *agent, struct ttrpc_call *call, const ProtobufCMessage *request);
void exec_data(void *agent, struct ttrpc_call *call, const ProtobufCMessage *message);
void exec_data_end(void *agent, struct ttrpc_call *call);
void exec_cancelled(void *agent, struct ttrpc_call *call);

#endif
