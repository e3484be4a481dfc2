/* File system identities. See control/access/identity.h. */
#include "control/access/identity.h"

#include "base/cleanup.h"
#include "control/options/parse.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59 /* asm-generic/socket.h */
#endif

#define ID_TEXT_MAX 12 /* with what separates it */

/* ---- of a peer ----------------------------------------------------------------------------------
 */

int identity_of_peer(int fd, struct identity *id, struct err *err)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	gid_t groups[IDENTITY_GROUPS_MAX];

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return err_sys(err, errno, "SO_PEERCRED");
	len = sizeof(groups);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
		return errno == ERANGE ? err_set(err, E2BIG, "user %u is in more than %d groups",
						 cred.uid, IDENTITY_GROUPS_MAX)
				       : err_sys(err, errno, "SO_PEERGROUPS");
	return identity_copy(&(struct identity){.uid = cred.uid,
						.gid = cred.gid,
						.groups = groups,
						.ngroups = (unsigned)(len / sizeof(gid_t))},
			     id)
		   ? err_set(err, ENOMEM, "out of memory")
		   : 0;
}

int identity_copy(const struct identity *from, struct identity *ret)
{
	gid_t *groups = NULL;

	if (from->ngroups) {
		groups = malloc(from->ngroups * sizeof(*groups));
		if (!groups)
			return -ENOMEM;
		memcpy(groups, from->groups, from->ngroups * sizeof(*groups));
	}
	*ret = *from;
	ret->groups = groups;
	return 0;
}

void identity_fini(struct identity *id)
{
	free(id->groups);
	id->groups = NULL;
	id->ngroups = 0;
}

bool identity_has_group(const struct identity *id, gid_t gid)
{
	for (unsigned i = 0; i < id->ngroups; i++) {
		if (id->groups[i] == gid)
			return true;
	}
	return id->gid == gid;
}

/* ---- as text ------------------------------------------------------------------------------------
 */

char *identity_text(const struct identity *id)
{
	size_t size = (2 + (size_t)id->ngroups) * ID_TEXT_MAX, at;
	char *text = malloc(size);

	if (!text)
		return NULL;
	at = (size_t)snprintf(text, size, "%u:%u", id->uid, id->gid);
	for (unsigned i = 0; i < id->ngroups; i++)
		at += (size_t)snprintf(text + at, size - at, ",%u", id->groups[i]);
	return text;
}

/* A number of at most 32 bits less -1, which means "nobody" to the kernel. */
static int parse_id(const char **at, unsigned *ret_id)
{
	char digits[ID_TEXT_MAX];
	size_t len = strspn(*at, "0123456789");

	if (!len || len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, *at, len);
	digits[len] = '\0';
	*at += len;
	return parse_unsigned(digits, 0, UINT_MAX - 1, ret_id);
}

int identity_parse(const char *text, struct identity *ret, struct err *err)
{
	gid_t groups[IDENTITY_GROUPS_MAX];
	struct identity id = {.groups = groups};
	const char *at = text;
	int res = parse_id(&at, &id.uid);

	if (!res && *at++ != ':')
		res = -EINVAL;
	if (!res)
		res = parse_id(&at, &id.gid);
	while (!res && *at == ',' && id.ngroups < IDENTITY_GROUPS_MAX) {
		at++;
		res = parse_id(&at, &groups[id.ngroups++]);
	}
	if (res || *at)
		return err_set(err, EINVAL, "'%s' is not UID:GID[,GROUP...]", text);
	return identity_copy(&id, ret) ? err_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- of this thread -----------------------------------------------------------------------------
 */

/* Of this thread alone; glibc's changes all threads. */
static int thread_set_groups(unsigned n, const gid_t *groups)
{
	return syscall(SYS_setgroups, n, groups) ? -errno : 0;
}

/* Both say what was; a number that nobody has changes nothing. */
static uid_t thread_fsuid(uid_t uid)
{
	return (uid_t)setfsuid(uid);
}

static gid_t thread_fsgid(gid_t gid)
{
	return (gid_t)setfsgid(gid);
}

/* Would the kernel let this thread read or search what its identity may not? */
static bool overrides(void)
{
	const uint32_t over = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	return syscall(SYS_capget, &header, data) || data[0].effective & over;
}

static int remember(struct identity *before)
{
	int n = getgroups(0, NULL);
	gid_t *groups = n < 0 ? NULL : malloc(((size_t)n + 1) * sizeof(*groups));

	if (!groups)
		return n < 0 ? -errno : -ENOMEM;
	n = getgroups(n, groups);
	if (n < 0) {
		free(groups);
		return -errno;
	}
	*before = (struct identity){.uid = thread_fsuid((uid_t)-1),
				    .gid = thread_fsgid((gid_t)-1),
				    .groups = groups,
				    .ngroups = (unsigned)n};
	return 0;
}

int identity_assume(const struct identity *id, struct identity *ret_before, struct err *err)
{
	int res = remember(ret_before);

	if (res) {
		*ret_before = (struct identity){.uid = (uid_t)-1};
		return err_sys(err, -res, "the rights of this process");
	}
	res = thread_set_groups(id->ngroups, id->groups);
	if (!res) {
		thread_fsgid(id->gid);
		thread_fsuid(id->uid);
	}
	if (!res && thread_fsuid((uid_t)-1) == id->uid && thread_fsgid((gid_t)-1) == id->gid &&
	    !overrides())
		return 0;
	return err_set(err, EPERM,
		       "files cannot be opened with the rights of user %u: run the server as root, "
		       "or as that user",
		       id->uid);
}

void identity_resume(struct identity *before)
{
	if (before->uid == (uid_t)-1)
		return;
	thread_fsuid(before->uid);
	thread_fsgid(before->gid);
	(void)thread_set_groups(before->ngroups, before->groups);
	identity_fini(before);
}
