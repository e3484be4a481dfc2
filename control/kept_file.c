/* A file that is removed at the end. See control/kept_file.h. */
#include "control/kept_file.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int kept_file_open(struct kept_file *kept, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX] = ".";

	/* with the slash, which is all there is of "/" */
	if (slash && (size_t)snprintf(dir, sizeof(dir), "%.*s", (int)(slash + 1 - path), path) >=
			 sizeof(dir))
		return err_set(err, ENAMETOOLONG, "%s", path);
	kept->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (kept->dir_fd < 0)
		return err_sys(err, errno, "%s", dir);
	kept->name = slash ? slash + 1 : path;
	return 0;
}

void kept_file_remove(const struct kept_file *kept)
{
	if (kept->dir_fd >= 0 && unlinkat(kept->dir_fd, kept->name, 0) && errno != ENOENT)
		log_warn("%s cannot be removed: %s", kept->name, strerror(errno));
}

void kept_file_close(struct kept_file *kept)
{
	cleanup_fd(&kept->dir_fd);
	kept->dir_fd = -1;
}
