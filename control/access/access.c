/* Who may call. See control/access/access.h. */
#include "control/access/access.h"

#include "base/checked.h"
#include "base/log.h"
#include "control/options/parse.h"
#include "proto/lodge.pb-c.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what a call needs --------------------------------------------------------------------------
 */

static bool check_repairs(const ProtobufCMessage *request)
{
	return ((const Lodge__V1__CheckDiskImageRequest *)request)->repair;
}

/* A method that is not here needs ACCESS_ALL. */
static const struct {
	const char *method;
	enum access_right right;
	bool (*changes)(
	    const ProtobufCMessage *request); /* then it needs ACCESS_ALL all the same */
} needs[] = {
    {"StartVm", ACCESS_ALL, NULL},
    {"StopVm", ACCESS_ALL, NULL},
    {"GetVmInfo", ACCESS_LOOK, NULL},
    {"CreateDiskImage", ACCESS_ALL, NULL},
    {"DestroyDiskImage", ACCESS_ALL, NULL},
    {"GetServerInfo", ACCESS_LOOK, NULL},
    {"ListVms", ACCESS_LOOK, NULL},
    {"StopAllVms", ACCESS_ALL, NULL},
    {"WaitVm", ACCESS_LOOK, NULL},
    {"WatchEvents", ACCESS_LOOK, NULL},
    {"ReadConsole", ACCESS_LOOK, NULL},
    {"AttachConsole", ACCESS_ALL, NULL},
    {"PauseVm", ACCESS_ALL, NULL},
    {"ResumeVm", ACCESS_ALL, NULL},
    {"ResizeVmDisk", ACCESS_ALL, NULL},
    {"SetVmLink", ACCESS_ALL, NULL},
    {"GetMetrics", ACCESS_LOOK, NULL},
    {"GetMetricsText", ACCESS_LOOK, NULL},
    {"GetDiskImageInfo", ACCESS_LOOK, NULL},
    {"ResizeDiskImage", ACCESS_ALL, NULL},
    {"CheckDiskImage", ACCESS_LOOK, check_repairs},
    {"GetGuestFacts", ACCESS_LOOK, NULL},
    {"MountInGuest", ACCESS_ALL, NULL},
    {"UnmountInGuest", ACCESS_ALL, NULL},
    {"GrowGuestFilesystem", ACCESS_ALL, NULL},
    {"SetGuestTime", ACCESS_ALL, NULL},
    {"ListGuestFiles", ACCESS_ALL, NULL},
    {"MakeGuestEntry", ACCESS_ALL, NULL},
    {"ExecInGuest", ACCESS_ALL, NULL},
    {"WriteGuestFile", ACCESS_ALL, NULL},
    {"ReadGuestFile", ACCESS_ALL, NULL},
};

static enum access_right needed(const char *method, const ProtobufCMessage *request)
{
	for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
		if (strcmp(needs[i].method, method) != 0)
			continue;
		return needs[i].changes && needs[i].changes(request) ? ACCESS_ALL : needs[i].right;
	}
	return ACCESS_ALL;
}

bool access_permits(const struct peer *peer, const struct ttrpc_method *method,
		    const ProtobufCMessage *request, struct err *err)
{
	if (peer->right >= needed(method->name, request))
		return true;
	if (peer->right == ACCESS_LOOK)
		err_set(err, EACCES,
			"user %u may only look, and %s changes something; --allow-uid or "
			"--allow-group of the server would permit it",
			peer->identity.uid, method->name);
	else
		err_set(err, EACCES,
			"user %u may not call this server; --allow-uid, --allow-group, "
			"--read-only-uid or --read-only-group of the server would permit it",
			peer->identity.uid);
	return false;
}

/* ---- rules --------------------------------------------------------------------------------------
 */

/* The files alone: no other source of names works in a static executable. */
static bool find_user(const char *name, unsigned *ret_id)
{
	FILE *file = fopen("/etc/passwd", "re");
	const struct passwd *entry;
	bool found = false;

	while (file && !found && (entry = fgetpwent(file))) {
		found = !strcmp(entry->pw_name, name);
		if (found)
			*ret_id = entry->pw_uid;
	}
	if (file)
		fclose(file);
	return found;
}

static bool find_group(const char *name, unsigned *ret_id)
{
	FILE *file = fopen("/etc/group", "re");
	const struct group *entry;
	bool found = false;

	while (file && !found && (entry = fgetgrent(file))) {
		found = !strcmp(entry->gr_name, name);
		if (found)
			*ret_id = entry->gr_gid;
	}
	if (file)
		fclose(file);
	return found;
}

static int find_id(bool is_group, const char *who, unsigned *ret_id, struct err *err)
{
	if (!parse_unsigned(who, 0, UINT_MAX - 1, ret_id) ||
	    (is_group ? find_group(who, ret_id) : find_user(who, ret_id)))
		return 0;
	return err_set(err, EINVAL, "'%s' is no number and no name in /etc/%s", who,
		       is_group ? "group" : "passwd");
}

int access_group(const char *who, gid_t *ret_gid, struct err *err)
{
	return find_id(true, who, ret_gid, err);
}

int access_allow(struct access *a, enum access_right right, bool is_group, const char *who,
		 struct err *err)
{
	unsigned id;
	int res = find_id(is_group, who, &id, err);

	if (res)
		return res;
	if (a->nrules == ACCESS_RULES_MAX)
		return err_set(err, ENOSPC,
			       "at most %d users and groups can be named; make a group",
			       ACCESS_RULES_MAX);
	a->rules[a->nrules++] =
	    (struct access_rule){.right = right, .is_group = is_group, .id = id};
	return 0;
}

/* ---- peers --------------------------------------------------------------------------------------
 */

static enum access_right right_of(const struct access *a, const struct identity *id)
{
	enum access_right right = ACCESS_NONE;

	for (unsigned i = 0; i < a->nrules; i++) {
		const struct access_rule *rule = &a->rules[i];

		if (rule->is_group ? identity_has_group(id, rule->id) : id->uid == rule->id)
			right = MAX(right, rule->right);
	}
	return right;
}

/* May this user have one more? */
static bool has_room(const struct access *a, const struct peer *peer)
{
	unsigned max = peer->right == ACCESS_NONE ? ACCESS_CONNS_DENIED_MAX : ACCESS_CONNS_MAX;
	unsigned n = 0;

	for (const struct peer *p = a->peers; p && !peer->is_trusted; p = p->next)
		n += p->identity.uid == peer->identity.uid;
	return n < max;
}

struct peer *access_admit(struct access *a, int fd)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	static struct log_limit limit;
	struct err err = ERR_INIT;

	if (!peer)
		return NULL;
	if (identity_of_peer(fd, &peer->identity, &err)) {
		log_limited(&limit, LOG_LEVEL_WARN, "control: a client is refused: %s", err.msg);
		free(peer);
		return NULL;
	}
	peer->is_trusted = !peer->identity.uid || peer->identity.uid == geteuid();
	peer->right = peer->is_trusted ? ACCESS_ALL : right_of(a, &peer->identity);
	if (peer->is_trusted)
		identity_fini(&peer->identity);
	if (!has_room(a, peer)) {
		log_limited(&limit, LOG_LEVEL_WARN,
			    "control: user %u has too many connections; one more is refused",
			    peer->identity.uid);
		identity_fini(&peer->identity);
		free(peer);
		return NULL;
	}
	peer->next = a->peers;
	peer->at = &a->peers;
	if (peer->next)
		peer->next->at = &peer->next;
	a->peers = peer;
	return peer;
}

void access_leave(struct peer *peer)
{
	*peer->at = peer->next;
	if (peer->next)
		peer->next->at = peer->at;
	identity_fini(&peer->identity);
	free(peer);
}

bool access_is_read_only(const struct ttrpc_call *call)
{
	const struct peer *peer = ttrpc_call_peer(call);

	return !peer || peer->right < ACCESS_ALL;
}

const struct identity *access_identity(const struct ttrpc_call *call)
{
	const struct peer *peer = ttrpc_call_peer(call);

	return peer && !peer->is_trusted ? &peer->identity : NULL;
}
