/* What the checks stand on. See control/doctor/check.h. */
#include "control/doctor/check.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct doctor_item *doctor_add(struct doctor *doctor, const char *name)
{
	struct doctor_item *item;

	assert(doctor->nitems < DOCTOR_ITEMS_MAX);
	item = &doctor->items[doctor->nitems++];
	memset(item, 0, sizeof(*item));
	item->name = name;
	return item;
}

void doctor_found(struct doctor_item *item, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(item->found, sizeof(item->found), fmt, ap);
	va_end(ap);
}

void doctor_cure(struct doctor_item *item, enum doctor_status status, const char *fmt, ...)
{
	va_list ap;

	item->status = status;
	va_start(ap, fmt);
	vsnprintf(item->cure, sizeof(item->cure), fmt, ap);
	va_end(ap);
}

int doctor_read(const struct doctor *doctor, const char *path, char *ret_text, size_t size)
{
	char full[PATH_MAX];
	autofd int fd = -1;
	ssize_t n;

	if (snprintf(full, sizeof(full), "%s%s", doctor->root, path) >= (int)sizeof(full))
		return -ENAMETOOLONG;
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, ret_text, size - 1);
	if (n < 0)
		return -errno;
	ret_text[n] = '\0';
	ret_text[strcspn(ret_text, "\n")] = '\0';
	return 0;
}

int doctor_read_number(const struct doctor *doctor, const char *path, uint64_t *ret_value)
{
	char text[64], *end;
	unsigned long long value;
	int rc = doctor_read(doctor, path, text, sizeof(text));

	if (rc)
		return rc;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text)
		return -EINVAL;
	*ret_value = value;
	return 0;
}
