/* /proc/self/mountinfo. See guest/agent/mounts.h. */
#include "guest/agent/mounts.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOUNTINFO      "/proc/self/mountinfo"
#define TEXT_BYTES_MAX (16 * MIB)
#define FIELDS_MAX     32 /* eleven, and one for each optional one */
#define FIELD_DEVICE   2
#define FIELD_ROOT     3
#define FIELD_TARGET   4
#define FIELD_OPTIONS  5
#define FIELD_OPTIONAL 6

static int read_text(char **ret_text, struct err *err)
{
	int fd = open(MOUNTINFO, O_RDONLY | O_CLOEXEC);
	size_t cap = 16384, len = 0;
	char *text = malloc(cap);
	ssize_t n = fd < 0 ? -1 : 1;

	while (text && n > 0) {
		n = read(fd, text + len, cap - len - 1);
		if (n > 0)
			len += (size_t)n;
		if (n > 0 && len == cap - 1) {
			char *more = cap < TEXT_BYTES_MAX ? realloc(text, cap * 2) : NULL;

			if (!more)
				free(text);
			text = more;
			cap *= 2;
		}
	}
	if (n < 0)
		err_sys(err, errno, "%s", MOUNTINFO);
	else if (!text)
		err_set(err, ENOMEM, "out of memory for %s", MOUNTINFO);
	if (fd >= 0)
		close(fd);
	if (n < 0 || !text) {
		free(text);
		return n < 0 ? -EIO : -ENOMEM;
	}
	text[len] = '\0';
	*ret_text = text;
	return 0;
}

/* "\040" is a blank. */
static void unescape(char *text)
{
	char *out = text;

	for (; *text; out++) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' &&
		    text[2] <= '7' && text[3] >= '0' && text[3] <= '7') {
			*out =
			    (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 4;
		} else {
			*out = *text++;
		}
	}
	*out = '\0';
}

static bool has_ro(const char *options)
{
	return !strncmp(options, "ro", 2) && (!options[2] || options[2] == ',');
}

static bool parse_line(char *line, struct mount_entry *m)
{
	char *field[FIELDS_MAX], *save = NULL;
	size_t n = 0, dash = FIELD_OPTIONAL;

	for (char *f = strtok_r(line, " ", &save); f && n < FIELDS_MAX;
	     f = strtok_r(NULL, " ", &save))
		field[n++] = f;
	while (dash < n && strcmp(field[dash], "-") != 0)
		dash++;
	if (dash + 3 >= n || sscanf(field[FIELD_DEVICE], "%u:%u", &m->major, &m->minor) != 2)
		return false;
	m->root = field[FIELD_ROOT];
	m->target = field[FIELD_TARGET];
	m->fstype = field[dash + 1];
	m->source = field[dash + 2];
	m->read_only = has_ro(field[FIELD_OPTIONS]) || has_ro(field[dash + 3]);
	unescape(m->root);
	unescape(m->target);
	unescape(m->source);
	return true;
}

int mounts_read(struct mounts *ret, struct err *err)
{
	size_t lines = 1;
	char *save = NULL;
	int res;

	*ret = (struct mounts){0};
	res = read_text(&ret->text, err);
	if (res)
		return res;
	for (const char *p = ret->text; *p; p++)
		lines += *p == '\n';
	ret->entries = calloc(lines, sizeof(*ret->entries));
	if (!ret->entries)
		return err_set(err, ENOMEM, "out of memory for %s", MOUNTINFO);
	for (char *line = strtok_r(ret->text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		ret->n += parse_line(line, &ret->entries[ret->n]);
	return 0;
}

void mounts_free(struct mounts *mounts)
{
	free(mounts->entries);
	free(mounts->text);
	*mounts = (struct mounts){0};
}

const struct mount_entry *mounts_find(const struct mounts *mounts, const char *target)
{
	for (size_t i = mounts->n; i-- > 0;)
		if (!strcmp(mounts->entries[i].target, target))
			return &mounts->entries[i];
	return NULL;
}

bool mount_on_device(const struct mount_entry *m)
{
	return m->major || !strcmp(m->fstype, "btrfs");
}
