/* Options of servers. See control/server_options.h. */
#include "control/server_options.h"

#include "control/sandbox/sandbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int server_set_socket(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct server_options *)target)->socket = value;
	return 0;
}

int server_set_socket_mode(void *target, const char *value, struct err *err)
{
	size_t len = strspn(value, "01234567");

	if (!len || value[len] || len > 4 || strtoul(value, NULL, 8) > 0777)
		return err_set(err, EINVAL, "'%s' is no mode; say it in octal, such as 0660",
			       value);
	((struct server_options *)target)->socket_mode.mode = (mode_t)strtoul(value, NULL, 8);
	return 0;
}

int server_set_socket_group(void *target, const char *value, struct err *err)
{
	return access_group(value, &((struct server_options *)target)->socket_mode.group, err);
}

int server_set_allow_uid(void *target, const char *value, struct err *err)
{
	return access_allow(&((struct server_options *)target)->access, ACCESS_ALL, false, value,
			    err);
}

int server_set_allow_group(void *target, const char *value, struct err *err)
{
	return access_allow(&((struct server_options *)target)->access, ACCESS_ALL, true, value,
			    err);
}

int server_set_read_only_uid(void *target, const char *value, struct err *err)
{
	return access_allow(&((struct server_options *)target)->access, ACCESS_LOOK, false, value,
			    err);
}

int server_set_read_only_group(void *target, const char *value, struct err *err)
{
	return access_allow(&((struct server_options *)target)->access, ACCESS_LOOK, true, value,
			    err);
}

int server_set_storage_root(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct server_options *)target)->storage_root = value;
	return 0;
}

int server_set_component_root(void *target, const char *value, struct err *err)
{
	if (*value != '/')
		return err_set(err, EINVAL, "'%s' is no absolute path", value);
	((struct server_options *)target)->component_root = value;
	return 0;
}

int server_set_sandbox(void *target, const char *value, struct err *err)
{
	if (sandbox_parse(value, &((struct server_options *)target)->sandbox))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

int server_set_io(void *target, const char *value, struct err *err)
{
	if (loop_backend_parse(value, &((struct server_options *)target)->loop_backend))
		return err_set(err, EINVAL, "'%s' is none of auto, io_uring and epoll", value);
	return 0;
}

int server_set_log(void *target, const char *value, struct err *err)
{
	struct server_options *o = target;

	if (log_level_parse(value, &o->log_level))
		return err_set(err, EINVAL, "'%s' is none of error, warn, info and debug", value);
	o->log_text = value;
	return 0;
}
