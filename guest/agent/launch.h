/*
 * What happens in a child that becomes a program: user, environment, directory, execve.
 *
 * Users and groups are those of the guest's /etc/passwd and /etc/group; a static program has no
 * other source.
 */
#ifndef GUEST_AGENT_LAUNCH_H
#define GUEST_AGENT_LAUNCH_H

#include "base/err.h"
#include "proto/agent.pb-c.h"

/* Is it complete, and does it make sense? 0 or -EINVAL. Changes nothing: for the agent itself. */
int launch_check(const Lodge__Agent__V1__ExecStart *start, struct err *err);

/* `arg`: Lodge__Agent__V1__ExecStart. Returns only when it fails. For process_spec.run. */
int launch(const void *arg, struct err *err);

#endif
