/* Configuration files. See control/serve/config_file.h. */
#include "control/serve/config_file.h"

#include "base/cleanup.h"
#include "control/options/parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACE " \t\r"

/* Without the spaces around it. */
static char *trim(char *text)
{
	size_t len;

	text += strspn(text, SPACE);
	len = strlen(text);
	while (len && strchr(SPACE, text[len - 1]))
		len--;
	text[len] = '\0';
	return text;
}

static int set_switch(const struct option_setting *s, const struct config_target *t,
		      const char *value, struct err *err)
{
	bool on;

	if (parse_switch(value, &on))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return on ? s->set(t->target, NULL, err) : 0;
}

static int read_line(char *line, const struct config_target *t, struct err *err)
{
	const struct option_setting *s;
	char *name = trim(line), *value;
	int res;

	if (!*name || *name == '#')
		return 0;
	value = strchr(name, '=');
	if (!value)
		return err_set(err, EINVAL, "'%s' is no `name = value`", name);
	*value++ = '\0';
	name = trim(name);
	value = trim(value);
	s = option_setting_find(t->settings, t->nsettings, name);
	if (!s)
		return option_setting_unknown(t->settings, t->nsettings, "setting", name, err);
	if (!*value)
		return err_set(err, EINVAL, "%s has no value", name);
	res = s->arg ? s->set(t->target, value, err) : set_switch(s, t, value, err);
	if (res)
		err_prefix(err, "%s", name);
	return res;
}

static int read_text(const char *path, char **ret_text, struct err *err)
{
	FILE *file = fopen(path, "re");
	char *text = malloc(CONFIG_FILE_MAX + 1);
	size_t len;
	int res = 0;

	if (!file || !text) {
		res = err_sys(err, file ? ENOMEM : errno, "%s", path);
	} else {
		len = fread(text, 1, CONFIG_FILE_MAX + 1, file);
		if (ferror(file))
			res = err_sys(err, errno, "%s", path);
		else if (len > CONFIG_FILE_MAX)
			res = err_set(err, EFBIG, "%s: more than %d bytes", path, CONFIG_FILE_MAX);
		else if (memchr(text, '\0', len))
			res = err_set(err, EINVAL, "%s: is no text", path);
		else
			text[len] = '\0';
	}
	if (file)
		fclose(file);
	if (res)
		free(text);
	else
		*ret_text = text;
	return res;
}

int config_file_read(struct config_file *file, const char *path, const struct config_target *t,
		     struct err *err)
{
	char *line, *rest;
	unsigned number = 0;
	int res = read_text(path, &file->text, err);

	if (res)
		return res;
	rest = file->text;
	while (!res && (line = strsep(&rest, "\n"))) {
		number++;
		res = read_line(line, t, err);
	}
	if (res)
		err_prefix(err, "%s:%u", path, number);
	return res;
}

void config_file_free(struct config_file *file)
{
	free(steal_ptr(&file->text));
}
