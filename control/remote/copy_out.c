/* From a guest to the host. See control/remote/copy.h. */
#include "control/remote/copy.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/new_file.h"
#include "proto/pb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

struct attributes {
	uint32_t mode;
	int64_t mtime_ns;
};

static struct attributes attributes_of(const Lodge__Agent__V1__FileAttributes *a)
{
	return a ? (struct attributes){a->mode, a->mtime_ns} : (struct attributes){.mode = 0700};
}

/* After all is in it, which changes the time. */
static void set_attributes(int fd, const struct attributes *a)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    {.tv_sec = (time_t)(a->mtime_ns / NS_PER_S),
				     .tv_nsec = (long)(a->mtime_ns % NS_PER_S)}};

	if (a->mtime_ns > 0)
		(void)futimens(fd, times);
	(void)fchmod(fd, a->mode & COPY_MODE_BITS);
}

/* ---- a file -------------------------------------------------------------------------------------
 */

struct download {
	struct copy *c;
	struct lodge_error error;
	int fd;
	bool begun;
	struct attributes attributes;
	uint64_t done_bytes;
	int res; /* -errno of writing */
};

static int download_write(const struct download *d, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(d->fd, data, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static int take_message(void *ctx, const ProtobufCMessage *message)
{
	const Lodge__Agent__V1__ReadFileResponse *r =
	    (const Lodge__Agent__V1__ReadFileResponse *)message;
	struct download *d = ctx;

	if (r->attributes && !d->begun) {
		d->begun = true;
		progress_begin(&d->c->progress, "cp", r->attributes->size_bytes, false,
			       d->c->quiet);
		d->attributes = attributes_of(r->attributes);
	}
	d->res = download_write(d, r->data.data, r->data.len);
	d->done_bytes += r->data.len;
	progress_at(&d->c->progress, d->done_bytes);
	return d->res;
}

/* The data into `fd`. 0, or an exit status; the failure has been printed. */
static int get_data(struct copy *c, const char *from, const char *to, int fd, bool keep)
{
	Lodge__V1__ReadGuestFileRequest request = LODGE__V1__READ_GUEST_FILE_REQUEST__INIT;
	Lodge__Agent__V1__ReadFileRequest inner = LODGE__AGENT__V1__READ_FILE_REQUEST__INIT;
	struct download d = {.c = c, .fd = fd};
	int status;

	request.name = remote_borrow(c->vm);
	request.request = &inner;
	inner.path = remote_borrow(from);
	status = lodge_begin(c->r->client, "ReadGuestFile", &request.base, 0, &d.error);
	if (!status)
		status = lodge_each(c->r->client, take_message, &d, &d.error);
	progress_end(&c->progress, d.done_bytes);
	if (d.res)
		return remote_fail(c->r, LODGE_FAILED, "writing %s: %s", to, strerror(-d.res));
	if (status)
		return remote_failed(c->r, &d.error);
	if (!d.begun)
		return remote_fail(c->r, LODGE_FAILED, "%s: the guest sends nothing of it", from);
	if (keep)
		set_attributes(fd, &d.attributes);
	return 0;
}

/* Into the folder `dir`, in place of what is there. */
static int get_file(struct copy *c, const char *from, int dir, const char *name)
{
	struct new_file file;
	struct err err = ERR_INIT;
	int status;

	if (new_file_begin(&file, dir, name, &err))
		return remote_fail(c->r, LODGE_FAILED, "%s", err.msg);
	status = get_data(c, from, name, file.fd, true);
	if (new_file_end(&file, status ? -ECANCELED : 0, true, &err) && !status)
		return remote_fail(c->r, LODGE_FAILED, "%s", err.msg);
	return status;
}

/* ---- a tree -------------------------------------------------------------------------------------
 */

/* The name of an entry; false: it is none, which is said. */
static bool entry_name(struct copy *c, const Lodge__Agent__V1__FileEntry *e, const char *from,
		       char ret[static NAME_MAX + 1])
{
	size_t len = e->name.len;

	if (!len || len > NAME_MAX || memchr(e->name.data, '\0', len) ||
	    memchr(e->name.data, '/', len)) {
		copy_say(c, "%s: the guest names something there that is no name", from);
		return false;
	}
	memcpy(ret, e->name.data, len);
	ret[len] = '\0';
	if (!strcmp(ret, ".") || !strcmp(ret, "..")) {
		copy_say(c, "%s: the guest names something there that is no name", from);
		return false;
	}
	if (!pb_text_valid(ret, len)) {
		copy_say(c, "%s/%s: its name is not UTF-8; left out", from, ret);
		return false;
	}
	return true;
}

static void get_link(struct copy *c, const Lodge__Agent__V1__FileEntry *e, const char *from,
		     int dir, const char *name)
{
	char target[PATH_MAX];
	struct err err = ERR_INIT;
	size_t len = e->link_target.len;

	if (!len || len >= sizeof(target) || memchr(e->link_target.data, '\0', len)) {
		copy_say(c, "%s: the guest says nothing proper of where it points to", from);
		return;
	}
	memcpy(target, e->link_target.data, len);
	target[len] = '\0';
	if (new_file_link(dir, name, target, &err))
		copy_say(c, "%s", err.msg);
}

static int get_entries(struct copy *c, const char *from, int fd, unsigned depth);

static int get_directory(struct copy *c, const Lodge__Agent__V1__FileEntry *e, const char *from,
			 int dir, const char *name, unsigned depth)
{
	struct attributes attributes = attributes_of(e->attributes);
	autofd int fd = -1;
	int status;

	if (mkdirat(dir, name, 0700) && errno != EEXIST)
		return remote_fail(c->r, LODGE_FAILED, "making %s: %s", name, strerror(errno));
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return remote_fail(c->r, LODGE_FAILED, "%s: %s", name, strerror(errno));
	status = get_entries(c, from, fd, depth);
	if (!status)
		set_attributes(fd, &attributes);
	return status;
}

static int get_entry(struct copy *c, const Lodge__Agent__V1__FileEntry *e, const char *from,
		     int dir, unsigned depth)
{
	char name[NAME_MAX + 1];
	autofree char *below = malloc(PATH_MAX);

	if (!below)
		return remote_fail(c->r, LODGE_FAILED, "out of memory");
	if (!entry_name(c, e, from, name) || !copy_join(c, below, from, name))
		return 0;
	switch (e->type) {
	case LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_REGULAR:
		return get_file(c, below, dir, name);
	case LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY:
		return get_directory(c, e, below, dir, name, depth + 1);
	case LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_LINK:
		get_link(c, e, below, dir, name);
		return 0;
	default:
		copy_say(c, "%s is no file, directory or link; left out", below);
		return 0;
	}
}

/* All that is in a directory of the guest, a page after the other. */
static int get_entries(struct copy *c, const char *from, int fd, unsigned depth)
{
	uint64_t skip = 0;
	bool more = true;
	int status = 0;

	if (depth > COPY_DEPTH_MAX) {
		copy_say(c, "%s: too many directories deep", from);
		return 0;
	}
	while (more && !status) {
		struct lodge_error error;
		Lodge__Agent__V1__ListFilesResponse *page = copy_list(c, from, true, skip, &error);

		if (!page)
			return remote_failed(c->r, &error);
		for (size_t i = 0; i < page->n_entries && !status; i++)
			status = get_entry(c, page->entries[i], from, fd, depth);
		skip += page->n_entries;
		more = page->more && page->n_entries;
		lodge_free(&page->base);
	}
	return status;
}

/* ---- all of it ----------------------------------------------------------------------------------
 */

/* The folder that gets it, and its name there: into a directory that is there, or as `to`. */
static int find_place(struct copy *c, const char *from, const char *to, int *ret_dir,
		      char ret_name[static NAME_MAX + 1])
{
	autofree char *above = strdup(to);
	struct stat st;
	char *slash;

	if (!above)
		return remote_fail(c->r, LODGE_FAILED, "out of memory");
	if (!stat(to, &st) && S_ISDIR(st.st_mode)) {
		copy_base(from, ret_name);
	} else {
		if (!*copy_base(to, ret_name))
			return remote_fail(c->r, LODGE_FAILED, "%s: %s", to, strerror(ENOENT));
		for (size_t n = strlen(above); n && above[n - 1] == '/'; n--)
			above[n - 1] = '\0';
		slash = strrchr(above, '/');
		if (slash)
			slash[slash == above] = '\0';
		else
			strcpy(above, ".");
	}
	*ret_dir = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_dir < 0)
		return remote_fail(c->r, LODGE_FAILED, "%s: %s", above, strerror(errno));
	return 0;
}

static int get_tree(struct copy *c, const Lodge__Agent__V1__FileEntry *self, const char *from,
		    const char *to)
{
	struct attributes attributes = attributes_of(self->attributes);
	char name[NAME_MAX + 1];
	autofd int dir = -1;
	int status = find_place(c, from, to, &dir, name);

	if (status)
		return status;
	if (*name)
		return get_directory(c, self, from, dir, name, 0);
	status = get_entries(c, from, dir, 0); /* what is in it, into one that is there */
	if (!status)
		set_attributes(dir, &attributes);
	return status;
}

/* To a device, a pipe: what has no contents of its own to be replaced. */
static int get_to_other(struct copy *c, const char *from, const char *to)
{
	autofd int fd = open(to, O_WRONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return remote_fail(c->r, LODGE_FAILED, "%s: %s", to, strerror(errno));
	return get_data(c, from, to, fd, false);
}

int copy_out(struct copy *c, const char *from, const char *to)
{
	struct lodge_error error;
	Lodge__Agent__V1__ListFilesResponse *there;
	char name[NAME_MAX + 1];
	autofd int dir = -1;
	struct stat st;
	int status;

	if (!strcmp(to, "-"))
		return get_data(c, from, "standard output", STDOUT_FILENO, false);
	there = copy_list(c, from, false, 0, &error);
	if (!there)
		return remote_failed(c->r, &error);
	if (there->self->type == LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY) {
		status = get_tree(c, there->self, from, to);
	} else if (!stat(to, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		status = get_to_other(c, from, to);
	} else {
		status = find_place(c, from, to, &dir, name);
		if (!status)
			status = get_file(c, from, dir, name);
	}
	lodge_free(&there->base);
	return status;
}
