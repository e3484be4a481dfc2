/* Names of backing files. See control/disk/backing.h. */
#include "control/disk/backing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int backing_resolve(const char *image_path, const char *name, char **ret_path, struct err *err)
{
	const char *slash = strrchr(image_path, '/');
	char *path;

	if (*name == '/' || !slash)
		path = strdup(name);
	else if (asprintf(&path, "%.*s%s", (int)(slash + 1 - image_path), image_path, name) < 0)
		path = NULL;
	if (!path)
		return err_set(err, ENOMEM, "out of memory");
	*ret_path = path;
	return 0;
}

bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}
