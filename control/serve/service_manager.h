/*
 * The manager that may have started this process: a socket that it listens on for us
 * (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS) and whom to tell how we are (sd_notify(3):
 * NOTIFY_SOCKET). The protocols alone, without libsystemd.
 */
#ifndef CONTROL_SERVE_SERVICE_MANAGER_H
#define CONTROL_SERVE_SERVICE_MANAGER_H

#include "base/err.h"

#include <stdbool.h>

struct service_manager {
	int fd; /* -1: nobody wants to know */
};

#define SERVICE_MANAGER_INIT \
	{                    \
		.fd = -1,    \
	}

/* Has a manager made the socket? */
bool service_manager_listens(void);

/*
 * Connects to the manager and takes the listening socket, if there is one; else *ret_listen_fd
 * stays as it is. The environment says nothing of both any more: children are not meant.
 * -EINVAL: more than one socket, or none that can be used. Before there are threads.
 */
int service_manager_open(struct service_manager *manager, int *ret_listen_fd, struct err *err);

/* "READY=1", "STATUS=...": lines as of sd_notify(3). Never waits. */
void service_manager_say(const struct service_manager *manager, const char *lines);

void service_manager_close(struct service_manager *manager);

#endif
