/* Loading of the kernel's modules, in the order that the VMM has found. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* 256 paths of up to 110 bytes: what the VMM writes at most */
#define ORDER_BYTES_MAX 32768

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		say("cannot load ", path, ": ", strerror(errno), " (going on without it)");
	if (fd >= 0)
		close(fd);
	unlink(path); /* its memory is the guest's again, early */
}

void modules_load(const char *list)
{
	static char text[ORDER_BYTES_MAX + 1];
	int fd = open(list, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		if (errno != ENOENT) /* a kernel without modules */
			say("cannot read ", list, ": ", strerror(errno));
		return;
	}
	n = read(fd, text, ORDER_BYTES_MAX);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	for (char *line = text, *next; *line; line = next) {
		next = strchr(line, '\n');
		if (!next)
			break;
		*next++ = '\0';
		load(line);
	}
}
