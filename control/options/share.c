/* --share: a key=value list, and what shares need of a machine. */
#include "base/checked.h"
#include "control/options/config_check.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static int set_path(void *target, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "no path is given");
	return options_set_string(&((struct machine_share *)target)->path, value, err);
}

static int set_mount(void *target, const char *value, struct err *err)
{
	int rc = config_check_mount_point(value, err);

	return rc ? rc : options_set_string(&((struct machine_share *)target)->target, value, err);
}

static int set_read_only(void *target, const char *value, struct err *err)
{
	if (parse_switch(value, &((struct machine_share *)target)->read_only))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

int options_share_user(struct machine_share *share, const char *text, struct err *err)
{
	const size_t len = strcspn(text, ":");
	char uid_text[16];
	unsigned uid, gid;

	snprintf(uid_text, sizeof(uid_text), "%.*s", (int)(len < sizeof(uid_text) ? len : 0), text);
	if (parse_unsigned(uid_text, 0, INT_MAX, &uid) ||
	    parse_unsigned(text[len] ? text + len + 1 : uid_text, 0, INT_MAX, &gid))
		return err_set(err, EINVAL, "'%s' is no UID or UID:GID, in numbers", text);
	if (!uid || !gid)
		return err_set(err, EINVAL, "'%s': a guest gets no rights of root's", text);
	share->has_user = true;
	share->uid = uid;
	share->gid = gid;
	return 0;
}

static int set_user(void *target, const char *value, struct err *err)
{
	return options_share_user(target, value, err);
}

static const struct option_setting share_keys[] = {
    {"path", "DIR", set_path, "the directory of the host; needed"},
    {"mount", "DIR", set_mount, "where the guest sees it (the first: " SHARE_TARGET ")"},
    {"ro", "on|off", set_read_only, "the guest cannot write (off)"},
    {"user", "UID[:GID]", set_user, "with whose rights (root's shares: 65534; else one's own)"},
};

int options_add_share(struct machine_config *machine, const char *list, struct err *err)
{
	struct machine_share *share = &machine->shares[machine->nshares];
	int rc;

	if (machine->nshares == MACHINE_SHARES_MAX)
		return err_set(err, EINVAL, "at most %d directories can be shared",
			       MACHINE_SHARES_MAX);
	machine->nshares++; /* what it holds is freed with the rest */
	rc = option_settings_read(share_keys, ARRAY_LEN(share_keys), 0, list, share, err);
	if (rc)
		return rc;
	if (!share->path)
		return err_set(err, EINVAL, "no path is given; say path=DIR");
	return 0;
}

/* ---- what only all options together tell --------------------------------------------------------
 */

static int check_targets(struct machine_config *machine, struct err *err)
{
	for (unsigned i = 0; i < machine->nshares; i++) {
		struct machine_share *share = &machine->shares[i];
		int rc = 0;

		if (!share->target && i)
			return err_set(err, EINVAL, "share %s: no mount point; say mount=DIR",
				       share->path);
		if (!share->target)
			rc = options_set_string(&share->target, SHARE_TARGET, err);
		for (unsigned j = 0; j < i && !rc; j++) {
			if (!strcmp(machine->shares[j].target, share->target))
				rc = err_set(err, EINVAL,
					     "share %s: %s is the mount point of %s already",
					     share->path, share->target, machine->shares[j].path);
		}
		if (rc)
			return rc;
	}
	return 0;
}

static struct machine_net *find_net(struct machine_config *machine)
{
	for (unsigned i = 0; i < machine->nnets; i++) {
		if (machine->nets[i].kind == NET_POOL || machine->nets[i].kind == NET_AUTO)
			return &machine->nets[i];
	}
	return NULL;
}

int options_check_shares(struct machine_config *machine, struct err *err)
{
	struct machine_net *net;
	int rc;

	if (!machine->nshares)
		return 0;
	rc = check_targets(machine, err);
	if (!rc && !machine->nnets && !machine->no_net)
		rc = options_add_net(machine, "pool", err);
	if (rc)
		return rc;
	net = find_net(machine);
	if (!net)
		return err_set(
		    err, EINVAL,
		    "share %s: the guest reaches it by an interface of the pool; say the "
		    "network 'pool', or none at all",
		    machine->shares[0].path);
	net->nshare_ports = machine->nshares;
	return 0;
}

void options_share_help(FILE *out)
{
	for (unsigned i = 0; i < ARRAY_LEN(share_keys); i++) {
		const struct option_setting *k = &share_keys[i];
		char left[48];

		snprintf(left, sizeof(left), "%s=%s", k->name, k->arg);
		fprintf(out, "  %-30s %s\n", left, k->help);
	}
}
