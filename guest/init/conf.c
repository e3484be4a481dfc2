/* /lodge.conf: see init.h. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* The VMM writes it, with a handful of short lines. */
#define CONF_BYTES_MAX 16384

static const struct {
	const char *key;
	size_t offset;
} keys[] = {
    {"root", offsetof(struct conf, root)},
    {"rootlabel", offsetof(struct conf, rootlabel)},
    {"rootfstype", offsetof(struct conf, rootfstype)},
    {"rootflags", offsetof(struct conf, rootflags)},
    {"init", offsetof(struct conf, init)},
    {"exec", offsetof(struct conf, exec)},
    {"agent", offsetof(struct conf, agent)},
    {"ready", offsetof(struct conf, ready)},
    {"token", offsetof(struct conf, token)},
    {"net0", offsetof(struct conf, net[0])},
    {"net1", offsetof(struct conf, net[1])},
    {"net2", offsetof(struct conf, net[2])},
    {"net3", offsetof(struct conf, net[3])},
};

static void take_line(struct conf *conf, char *line)
{
	char *value = strchr(line, '=');

	if (line[0] == '#' || !value)
		return;
	*value++ = '\0';
	if (!*value)
		return;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!strcmp(line, keys[i].key))
			memcpy((char *)conf + keys[i].offset, &value, sizeof(value));
}

bool conf_read(const char *path, struct conf *ret_conf)
{
	static char text[CONF_BYTES_MAX + 1]; /* the strings of the conf point into it */
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t r = fd < 0 ? -1 : 1;

	while (r > 0 && n < CONF_BYTES_MAX) {
		r = read(fd, text + n, CONF_BYTES_MAX - n);
		if (r > 0)
			n += (size_t)r;
	}
	if (r < 0) {
		say("cannot read ", path, ": ", strerror(errno));
		return false;
	}
	close(fd);
	text[n] = '\0';
	for (char *line = text, *next; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		take_line(ret_conf, line);
	}
	return true;
}
