/* WriteFile and ReadFile: data moves between the connection and a child, which has the file.
 * Threads: the loop's. */
#ifndef GUEST_AGENT_FILE_H
#define GUEST_AGENT_FILE_H

#include "control/ttrpc/server.h"

void write_file_start(void *agent, struct ttrpc_call *call, const ProtobufCMessage *request);
void write_file_data(void *agent, struct ttrpc_call *call, const ProtobufCMessage *message);
void write_file_data_end(void *agent, struct ttrpc_call *call);

void read_file_start(void *agent, struct ttrpc_call *call, const ProtobufCMessage *request);
void read_file_data(void *agent, struct ttrpc_call *call, const ProtobufCMessage *message);
void read_file_data_end(void *agent, struct ttrpc_call *call);

void file_cancelled(void *agent, struct ttrpc_call *call);

#endif
