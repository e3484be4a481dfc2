/* A file that is removed at the end. See control/kept_file.h. */
#include "control/kept_file.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int kept_file_open(struct kept_file *kept, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	autofree char *dir = slash == path ? strdup("/")
			     : slash	   ? strndup(path, (size_t)(slash - path))
					   : strdup(".");

	if (!dir)
		return err_set(err, ENOMEM, "out of memory");
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
