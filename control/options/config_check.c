/* Checks of a machine_config's values. See control/options/config_check.h. */
#include "control/options/config_check.h"

#include "base/checked.h"
#include "control/options/parse.h"
#include "vmm/config.h"

#include <errno.h>
#include <string.h>

int config_check_memory(uint64_t bytes, struct err *err)
{
	char text[PARSE_SIZE_TEXT_MAX], limit[PARSE_SIZE_TEXT_MAX];

	parse_size_text(bytes, text);
	if (bytes < MACHINE_MEMORY_MIN)
		return err_set(err, EINVAL, "'%s' is less than %s", text,
			       parse_size_text(MACHINE_MEMORY_MIN, limit));
	if (bytes > CONFIG_MEMORY_MAX)
		return err_set(err, EINVAL, "'%s' is more than %s", text,
			       parse_size_text(CONFIG_MEMORY_MAX, limit));
	if (bytes % MIB)
		return err_set(err, EINVAL, "'%s' is not a whole number of MiB", text);
	return 0;
}

int config_check_cmdline(const char *words, struct err *err)
{
	size_t len = strlen(words);

	if (len > MACHINE_CMDLINE_MAX)
		return err_set(err, EINVAL, "%zu bytes; a kernel takes %d", len,
			       MACHINE_CMDLINE_MAX);
	return 0;
}

int config_check_init(const char *program, struct err *err)
{
	if (*program != '/')
		return err_set(err, EINVAL,
			       "'%s' is no absolute path; name a program of the root, such as "
			       "/bin/sh",
			       program);
	for (const char *p = program; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "spaces and control characters cannot be used");
	}
	return 0;
}

int config_check_serial(const char *serial, struct err *err)
{
	const size_t max = sizeof(((struct machine_disk *)NULL)->serial) - 1;
	size_t len = strlen(serial);

	if (!len || len > max)
		return err_set(err, EINVAL, "'%s' has %zu characters; 1 to %zu are possible",
			       serial, len, max);
	for (const char *p = serial; *p; p++) {
		if (*p <= ' ' || *p > '~')
			return err_set(err, EINVAL, "'%s': only printable ASCII without spaces",
				       serial);
	}
	return 0;
}

int config_check_fstype(const char *type, struct err *err)
{
	size_t len = strspn(type, "abcdefghijklmnopqrstuvwxyz0123456789_");

	if (!len || type[len] || len > CONFIG_FSTYPE_MAX)
		return err_set(err, EINVAL, "'%s' is no file system type; say for example ext4",
			       type);
	return 0;
}

int config_check_mount_point(const char *path, struct err *err)
{
	if (*path != '/' || !path[1])
		return err_set(err, EINVAL,
			       "'%s' is no absolute path below /; say for example /data", path);
	for (const char *p = path; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "control characters cannot be used");
	}
	return 0;
}

int config_check_label(const char *label, struct err *err)
{
	size_t len = strlen(label);

	if (!len || len > CONFIG_LABEL_MAX)
		return err_set(err, EINVAL, "a label has 1 to %d bytes", CONFIG_LABEL_MAX);
	for (const char *p = label; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "spaces and control characters cannot be used");
	}
	return 0;
}
