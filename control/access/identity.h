/*
 * With whose rights files are opened: those of the process at the other end of a Unix socket.
 *
 * The kernel checks the rights while it opens the file, because the thread that opens it has the
 * other's file system identity meanwhile (setfsuid(2), setfsgid(2), setgroups(2) of one thread);
 * nothing is looked at first and opened later.
 *
 * Threads: identity_assume() changes the calling thread alone, and those that it starts meanwhile.
 */
#ifndef CONTROL_ACCESS_IDENTITY_H
#define CONTROL_ACCESS_IDENTITY_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

/* More are refused; the text of so many still is one argument of a command. */
#define IDENTITY_GROUPS_MAX 4096

struct identity {
	uid_t uid;
	gid_t gid;
	gid_t *groups; /* supplementary; its own memory */
	unsigned ngroups;
};

/* Of the process that connected (SO_PEERCRED, SO_PEERGROUPS; unix(7)). -E2BIG: too many groups. */
int identity_of_peer(int fd, struct identity *ret_identity, struct err *err);

int identity_copy(const struct identity *from, struct identity *ret_copy);
void identity_fini(struct identity *identity);

bool identity_has_group(const struct identity *identity, gid_t gid);

/* "UID:GID[,GROUP...]": what identity_parse() takes; memory of the caller's. NULL: out of it. */
char *identity_text(const struct identity *identity);
int identity_parse(const char *text, struct identity *ret_identity, struct err *err);

/*
 * From now on this thread opens files with these rights and no others. `before` is for
 * identity_resume(), also after a failure. -EPERM: this process is not root.
 */
int identity_assume(const struct identity *identity, struct identity *ret_before, struct err *err);
void identity_resume(struct identity *before);

#endif
