/*
 * The end of the guest: its init is asked, where it has one that can be; otherwise, or when that
 * does not answer, processes are ended, file systems synced and unmounted, and the power is off.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_AGENT_SHUTDOWN_H
#define GUEST_AGENT_SHUTDOWN_H

#include "control/ttrpc/server.h"

#include <stdbool.h>

struct agent;

void shutdown_start(void *agent, struct ttrpc_call *call, const ProtobufCMessage *request);

/* Ends everything; does not return unless the kernel refuses. -errno. */
int shutdown_force(bool reboot_after);

#endif
