/* --vsock: a key=value list. */
#include "devices/virtio/vsock.h"
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"

#include <errno.h>
#include <string.h>

struct vsock_target {
	struct vsock_config *vsock;
	bool has_backend;
};

static int set_backend(void *target, const char *value, struct err *err)
{
	static const char *const names[] = {
	    [VSOCK_AUTO] = "auto",
	    [VSOCK_VHOST] = "vhost",
	    [VSOCK_BUILTIN] = "builtin",
	};
	struct vsock_target *t = target;

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (!strcmp(value, names[i])) {
			t->vsock->backend = (enum vsock_backend)i;
			t->has_backend = true;
			return 0;
		}
	}
	return err_set(err, EINVAL, "'%s' is none of auto, vhost and builtin", value);
}

static int set_cid(void *target, const char *value, struct err *err)
{
	struct vsock_target *t = target;

	if (parse_unsigned(value, VSOCK_CID_FIRST, VSOCK_CID_MAX, &t->vsock->cid))
		return err_set(err, EINVAL, "'%s' is not a number from %d to %u", value,
			       VSOCK_CID_FIRST, VSOCK_CID_MAX);
	return 0;
}

static int set_socket(void *target, const char *value, struct err *err)
{
	struct vsock_target *t = target;

	if (!*value || strlen(value) > VSOCK_PATH_MAX)
		return err_set(err, EINVAL, "'%s' has not 1 to %d bytes", value, VSOCK_PATH_MAX);
	return options_set_string(&t->vsock->socket, value, err);
}

static const struct option_setting vsock_keys[] = {
    {"backend", "auto|vhost|builtin", set_backend,
     "who moves the bytes (vhost if there; builtin with socket=)"},
    {"cid", "N", set_cid, "the guest's address, from 3 up (the next that is free)"},
    {"socket", "PATH", set_socket, "builtin: CONNECT PORT here; the guest's ports are PATH_PORT"},
};

int options_set_vsock(struct vsock_config *vsock, const char *list, struct err *err)
{
	struct vsock_target t = {.vsock = vsock};
	int rc;

	if (vsock->on)
		return err_set(err, EINVAL, "is given twice; a machine has one vsock");
	vsock->on = true;
	rc = option_settings_read(vsock_keys, ARRAY_LEN(vsock_keys), 0, list, &t, err);
	if (rc)
		return rc;
	/* Who names a socket wants it served. */
	if (!t.has_backend && vsock->socket)
		vsock->backend = VSOCK_BUILTIN;
	if (vsock->backend == VSOCK_VHOST && vsock->socket)
		return err_set(err, EINVAL,
			       "socket= belongs to backend=builtin; with vhost the host's programs "
			       "use AF_VSOCK");
	return 0;
}

void options_vsock_help(FILE *out)
{
	for (unsigned i = 0; i < ARRAY_LEN(vsock_keys); i++) {
		char left[48];

		snprintf(left, sizeof(left), "%s=%s", vsock_keys[i].name, vsock_keys[i].arg);
		fprintf(out, "  %-30s %s\n", left, vsock_keys[i].help);
	}
}
