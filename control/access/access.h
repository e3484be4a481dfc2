/*
 * Who may make which calls: by user and group of the process at the other end of the socket.
 *
 * Root and the user of the server may do everything. Others may do what the rules say, the best
 * that fits: everything, look only, or nothing, which is answered with PERMISSION_DENIED. Which
 * call needs which right stands in one table in access.c.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_ACCESS_ACCESS_H
#define CONTROL_ACCESS_ACCESS_H

#include "control/access/identity.h"
#include "control/ttrpc/server.h"

#define ACCESS_RULES_MAX 64
/* Of each user other than root and the server's own, so that none takes all that there are. */
#define ACCESS_CONNS_MAX	256
#define ACCESS_CONNS_DENIED_MAX 16

enum access_right {
	ACCESS_NONE,
	ACCESS_LOOK, /* what changes nothing */
	ACCESS_ALL,
};

struct access_rule {
	enum access_right right;
	bool is_group;
	unsigned id;
};

/* The process at the other end of one connection. */
struct peer {
	struct peer *next, **at;
	struct identity identity; /* without groups where `is_trusted` */
	enum access_right right;
	bool is_trusted; /* root, or the server's own user: files are opened with our own rights */
};

/* Zeroed: root and the server's own user only. */
struct access {
	struct access_rule rules[ACCESS_RULES_MAX];
	unsigned nrules;
	struct peer *peers;
};

/* `who`: a number, or a name of /etc/passwd or /etc/group. -EINVAL, -ENOSPC. */
int access_allow(struct access *access, enum access_right right, bool is_group, const char *who,
		 struct err *err);

/* The number of a group by its name in /etc/group, or of a number. -EINVAL. */
int access_group(const char *who, gid_t *ret_gid, struct err *err);

/* For the members `admit`, `leave` and `permit` of a server. NULL: it has too many connections. */
struct peer *access_admit(struct access *access, int fd);
void access_leave(struct peer *peer);
bool access_permits(const struct peer *peer, const struct ttrpc_method *method,
		    const ProtobufCMessage *request, struct err *err);

/* May the caller only look? */
bool access_is_read_only(const struct ttrpc_call *call);

/* With whose rights the files of this call are opened; NULL: the server's own. Valid as long as
 * the connection of the call. */
const struct identity *access_identity(const struct ttrpc_call *call);

#endif
