/*
 * `lodge cp`: files and trees into a guest and out of it.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/remote/copy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cp_options {
	struct remote_options remote;
	bool quiet;
};

static int set_quiet(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct cp_options *)target)->quiet = true;
	return 0;
}

static const struct option_setting cp_settings[] = {
    {"quiet", NULL, set_quiet, "show no progress"},
    REMOTE_SETTING_SOCKET,
};

/* ---- for both directions ------------------------------------------------------------------------
 */

void copy_say(struct copy *c, const char *fmt, ...)
{
	char line[PATH_MAX + 256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->failed++;
	remote_fail(c->r, LODGE_FAILED, "%s", line);
}

bool copy_join(struct copy *c, char ret[static PATH_MAX], const char *dir, const char *name)
{
	size_t len = strlen(dir);
	const char *slash = len && dir[len - 1] != '/' && *name ? "/" : "";

	if ((size_t)snprintf(ret, PATH_MAX, "%s%s%s", dir, slash, name) < PATH_MAX)
		return true;
	copy_say(c, "%.100s...: the path is too long", dir);
	return false;
}

const char *copy_base(const char *path, char ret[static NAME_MAX + 1])
{
	size_t len = strlen(path), at;

	while (len && path[len - 1] == '/')
		len--;
	at = len;
	while (at && path[at - 1] != '/')
		at--;
	snprintf(ret, NAME_MAX + 1, "%.*s", (int)(len - at), path + at);
	if (!strcmp(ret, ".") || !strcmp(ret, ".."))
		ret[0] = '\0';
	return ret;
}

Lodge__Agent__V1__ListFilesResponse *copy_list(struct copy *c, const char *path, bool entries,
					       uint64_t skip, struct lodge_error *error)
{
	Lodge__V1__ListGuestFilesRequest request = LODGE__V1__LIST_GUEST_FILES_REQUEST__INIT;
	Lodge__Agent__V1__ListFilesRequest inner = LODGE__AGENT__V1__LIST_FILES_REQUEST__INIT;
	ProtobufCMessage *reply;

	request.name = remote_borrow(c->vm);
	request.request = &inner;
	inner.path = remote_borrow(path);
	inner.no_entries = !entries;
	inner.skip_entries = skip;
	if (lodge_call(c->r->client, "ListGuestFiles", &request.base, 0, &reply, error))
		return NULL;
	if (((Lodge__Agent__V1__ListFilesResponse *)reply)->self)
		return (Lodge__Agent__V1__ListFilesResponse *)reply;
	lodge_free(reply);
	error->status = LODGE_STATUS_INTERNAL;
	snprintf(error->text, sizeof(error->text), "the guest does not say what is at %s", path);
	return NULL;
}

/* ---- the command --------------------------------------------------------------------------------
 */

/* The path behind "NAME:"; NULL: the word names a file of the host. */
static const char *guest_path(const char *word)
{
	const char *colon = strchr(word, ':'), *slash = strchr(word, '/');

	return colon && colon != word && (!slash || slash > colon) ? colon + 1 : NULL;
}

static int cp_check(const struct remote_options *options, const char *const *operands,
		    unsigned noperands, struct err *err)
{
	(void)options;
	if (noperands < 2)
		return err_set(err, EINVAL, "say SOURCE and DESTINATION, such as: file web:/tmp");
	if (guest_path(operands[0]) && guest_path(operands[1]))
		return err_set(err, EINVAL,
			       "only one side is a guest; copy to here first, or connect two with "
			       "a pipe and '-'");
	if (!guest_path(operands[0]) && !guest_path(operands[1]))
		return err_set(err, EINVAL,
			       "neither '%s' nor '%s' names a guest; say NAME:PATH for one",
			       operands[0], operands[1]);
	return 0;
}

static int cp_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	bool out = guest_path(operands[0]);
	const char *word = operands[out ? 0 : 1], *path = guest_path(word);
	autofree char *vm = strndup(word, (size_t)(path - word) - 1), *whole = NULL;
	struct copy c = {.r = r, .vm = vm, .quiet = ((const struct cp_options *)r->options)->quiet};
	int status;

	(void)noperands;
	/* "NAME:tmp" is from the root, as "NAME:" is the root */
	if (!vm || asprintf(&whole, "%s%s", *path == '/' ? "" : "/", path) < 0) {
		whole = NULL;
		return remote_fail(r, LODGE_FAILED, "out of memory");
	}
	status = out ? copy_out(&c, whole, operands[1]) : copy_in(&c, operands[0], whole);
	return !status && c.failed ? LODGE_FAILED : status;
}

static const struct remote_command cp_command = {
    .name = "cp",
    .usage = "SOURCE DESTINATION",
    .about =
	"Copies a file, or a directory with all that is in it, into the guest of a VM or out of\n"
	"it: one of the two is NAME:PATH, the other a path here, or - for the standard input or\n"
	"output. Modes and times are kept; what was there stays until the new file is whole.\n",
    .more = "Where DESTINATION is a directory, it is copied into that. Links are copied as links.\n"
	    "A path here with a colon: ./a:b.\n",
    .settings = cp_settings,
    .nsettings = ARRAY_LEN(cp_settings),
    .operands_min = 1,
    .operands_max = 2,
    .operands_help = "SOURCE",
    .check = cp_check,
    .run = cp_run,
};

int cmd_cp(int argc, char **argv)
{
	struct cp_options options = {.quiet = false};

	return remote_run(&cp_command, &options.remote, argc, argv);
}

void cmd_cp_help(void)
{
	remote_help(&cp_command);
}
