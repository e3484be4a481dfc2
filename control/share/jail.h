/*
 * What a share's server is kept in. It is a large program that talks to the guest, and needs to be
 * root: of the host it sees the shared directory and its own program, and of root's privileges it
 * has those that it needs to act as the share's user.
 *
 *   /share   the directory: nosuid, nodev, noexec, read-only where the share is; nothing that is
 *            mounted below it
 *   /lodge   configuration, key and preloaded library; read-only
 *   /run     what the server keeps about its clients, over restarts
 *   /usr, /lib*, /etc/ld.so.cache   the host's, read-only
 *   /dev     null and urandom
 *   /proc    of its own processes alone
 *
 * Namespaces of its own: mounts, processes, IPC, host name. Capabilities: those over files (of
 * which opening by handle is one), SETUID and SETGID, and no way to others. A filter refuses calls
 * that it does not make, among them connect(2): it would have rpcbind(8) forget the host's own NFS
 * server.
 *
 * Its first process waits for it, and dies with the keeper: then the kernel kills all others.
 *
 * Threads: any; all but jail_init() after fork(2), see control/child/child.h.
 *
 * Source: mount_namespaces(7), open_tree(2), pid_namespaces(7), capabilities(7), seccomp(2).
 */
#ifndef CONTROL_SHARE_JAIL_H
#define CONTROL_SHARE_JAIL_H

#include "base/err.h"
#include "control/child/child.h"

#include <stdbool.h>
#include <stdint.h>

#define JAIL_SHARE "/share"
#define JAIL_CONF  "/lodge/ganesha.conf"
#define JAIL_STATE "/run/ganesha"
#define JAIL_PID   "/run/pid"

struct jail {
	int dir; /* the directory (O_PATH); the caller's */
	bool read_only;
	const char *conf; /* text of JAIL_CONF; the caller's */
	char host_name[24];
	uint8_t key[16];
};

/* Random key and name; `dir`, `read_only` and `conf` are the caller's to set. */
int jail_init(struct jail *jail, struct err *err);

/* For child_start(); refers to `jail`. */
struct child_jail jail_child(struct jail *jail);

#endif
