/* From the host into a guest. See control/remote/copy.h. */
#include "control/remote/copy.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "proto/pb.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

/* proto/agent.proto, WriteFileRequest.data */
#define WINDOW	    (256 * 1024)
#define PIECE_BYTES (32 * 1024)

static void fill_attributes(Lodge__Agent__V1__FileAttributes *a, const struct stat *st)
{
	lodge__agent__v1__file_attributes__init(a);
	a->mode = st->st_mode & COPY_MODE_BITS;
	a->mtime_ns = (int64_t)st->st_mtim.tv_sec * NS_PER_S + st->st_mtim.tv_nsec;
}

/* ---- a file -------------------------------------------------------------------------------------
 */

struct upload {
	struct copy *c;
	struct lodge_error error;
	uint64_t ahead_bytes, done_bytes;
};

static int upload_send(struct upload *u, Lodge__Agent__V1__WriteFileRequest *inner)
{
	Lodge__V1__WriteGuestFileRequest request = LODGE__V1__WRITE_GUEST_FILE_REQUEST__INIT;

	request.name = remote_borrow(u->c->vm);
	request.request = inner;
	return lodge_send(u->c->r->client, &request.base, &u->error);
}

/* Hears what was taken; waits for more as long as the window has no room for `bytes`. */
static int upload_hear(struct upload *u, size_t bytes)
{
	for (;;) {
		int wait_ms = u->ahead_bytes + bytes > WINDOW ? -1 : 0;
		ProtobufCMessage *message;

		switch (lodge_next(u->c->r->client, wait_ms, &message, &u->error)) {
		case LODGE_NEXT_MESSAGE: {
			uint64_t n = ((Lodge__Agent__V1__WriteFileResponse *)message)->taken_bytes;

			u->ahead_bytes -= MIN(n, u->ahead_bytes);
			lodge_free(message);
			break;
		}
		case LODGE_NEXT_NONE:
			return 0;
		case LODGE_NEXT_END: /* before all was sent */
			u->error = (struct lodge_error){LODGE_STATUS_INTERNAL, "ended early"};
			return LODGE_STATUS_INTERNAL;
		case LODGE_NEXT_FAILED:
			return u->error.status;
		}
	}
}

/* 0; a status; -errno of reading. */
static int upload_data(struct upload *u, int fd)
{
	Lodge__Agent__V1__WriteFileRequest inner = LODGE__AGENT__V1__WRITE_FILE_REQUEST__INIT;
	uint8_t piece[PIECE_BYTES];
	ssize_t n;
	int res;

	while ((n = read(fd, piece, sizeof(piece))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		res = upload_hear(u, (size_t)n);
		if (res)
			return res;
		inner.data = (ProtobufCBinaryData){.len = (size_t)n, .data = piece};
		res = upload_send(u, &inner);
		if (res)
			return res;
		u->ahead_bytes += (size_t)n;
		u->done_bytes += (size_t)n;
		progress_at(&u->c->progress, u->done_bytes);
	}
	return 0;
}

static int upload_end(struct upload *u)
{
	int res = lodge_send_end(u->c->r->client, &u->error);
	ProtobufCMessage *message;

	while (!res) {
		switch (lodge_next(u->c->r->client, -1, &message, &u->error)) {
		case LODGE_NEXT_MESSAGE:
			lodge_free(message);
			break;
		case LODGE_NEXT_NONE:
			break;
		case LODGE_NEXT_END:
			return 0;
		case LODGE_NEXT_FAILED:
			res = u->error.status;
			break;
		}
	}
	return res;
}

/* `st` NULL: standard input, whose attributes are nobody's. 0 or an exit status. */
static int put_file(struct copy *c, int fd, const struct stat *st, const char *from, const char *to,
		    const char *name)
{
	Lodge__Agent__V1__WriteFileRequest inner = LODGE__AGENT__V1__WRITE_FILE_REQUEST__INIT;
	Lodge__Agent__V1__WriteFileOpen open = LODGE__AGENT__V1__WRITE_FILE_OPEN__INIT;
	Lodge__Agent__V1__FileAttributes attributes;
	struct upload u = {.c = c};
	int res;

	inner.open = &open;
	open.path = remote_borrow(to);
	open.name = remote_borrow(name);
	if (st) {
		fill_attributes(&attributes, st);
		open.attributes = &attributes;
		progress_begin(&c->progress, "cp", (uint64_t)st->st_size, false, c->quiet);
	}
	res = lodge_begin(c->r->client, "WriteGuestFile", NULL, 0, &u.error);
	if (!res)
		res = upload_send(&u, &inner);
	if (!res)
		res = upload_data(&u, fd);
	if (!res)
		res = upload_end(&u);
	progress_end(&c->progress, u.done_bytes);
	if (res)
		lodge_abandon(c->r->client); /* what is there already is of no use */
	if (res < 0)
		return remote_fail(c->r, LODGE_FAILED, "reading %s: %s", from, strerror(-res));
	return res ? remote_failed(c->r, &u.error) : 0;
}

/* ---- a tree -------------------------------------------------------------------------------------
 */

static int make_entry(struct copy *c, const char *to, Lodge__Agent__V1__FileType type,
		      const struct stat *st, const char *target)
{
	Lodge__V1__MakeGuestEntryRequest request = LODGE__V1__MAKE_GUEST_ENTRY_REQUEST__INIT;
	Lodge__Agent__V1__MakeEntryRequest inner = LODGE__AGENT__V1__MAKE_ENTRY_REQUEST__INIT;
	Lodge__Agent__V1__FileAttributes attributes;
	ProtobufCMessage *reply;

	request.name = remote_borrow(c->vm);
	request.request = &inner;
	inner.path = remote_borrow(to);
	inner.type = type;
	inner.link_target = remote_borrow(target);
	if (st) {
		fill_attributes(&attributes, st);
		inner.attributes = &attributes;
	}
	reply = remote_call(c->r, "MakeGuestEntry", &request.base);
	lodge_free(reply);
	return reply ? 0 : c->r->status;
}

static int put_link(struct copy *c, int dir, const char *name, const char *to)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);

	if (n < 0) {
		copy_say(c, "%s: %s", to, strerror(errno));
		return 0;
	}
	target[n] = '\0';
	if (!pb_text_valid(target, (size_t)n)) {
		copy_say(c, "%s: where it points to is not UTF-8", to);
		return 0;
	}
	return make_entry(c, to, LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_LINK, NULL, target);
}

static int put_entries(struct copy *c, int fd, const char *from, const char *to, unsigned depth);

/* A directory, a link or a file in the folder `dir`. 0, also where it was left out with a word; or
 * an exit status. */
static int put_entry(struct copy *c, int dir, const char *name, const char *from, const char *to,
		     unsigned depth)
{
	Lodge__Agent__V1__FileType type = LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY;
	autofd int fd = -1;
	struct stat st;
	int status;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) {
		copy_say(c, "%s: %s", from, strerror(errno));
		return 0;
	}
	if (S_ISLNK(st.st_mode))
		return put_link(c, dir, name, to);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		copy_say(c, "%s is no file, directory or link; left out", from);
		return 0;
	}
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st)) {
		copy_say(c, "%s: %s", from, strerror(errno));
		return 0;
	}
	if (!S_ISDIR(st.st_mode))
		return put_file(c, fd, &st, from, to, "");
	status = make_entry(c, to, type, NULL, "");
	if (!status)
		status = put_entries(c, fd, from, to, depth + 1);
	/* its time, which each entry changes, and a mode that might forbid them */
	return status ? status : make_entry(c, to, type, &st, "");
}

static int put_entries(struct copy *c, int fd, const char *from, const char *to, unsigned depth)
{
	int copy_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0), status = 0;
	DIR *dir = copy_fd >= 0 ? fdopendir(copy_fd) : NULL;
	const struct dirent *d;

	if (!dir || depth > COPY_DEPTH_MAX) {
		copy_say(c, "%s: %s", from, dir ? "too many directories deep" : strerror(errno));
		if (dir)
			closedir(dir);
		else
			cleanup_fd(&copy_fd);
		return 0;
	}
	while (!status && (d = readdir(dir))) {
		char *below_from = malloc(PATH_MAX), *below_to = malloc(PATH_MAX);

		if (!below_from || !below_to)
			status = remote_fail(c->r, LODGE_FAILED, "out of memory");
		else if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			;
		else if (!pb_text_valid(d->d_name, strlen(d->d_name)))
			copy_say(c, "%s/%s: its name is not UTF-8; left out", from, d->d_name);
		else if (copy_join(c, below_from, from, d->d_name) &&
			 copy_join(c, below_to, to, d->d_name))
			status = put_entry(c, fd, d->d_name, below_from, below_to, depth);
		free(below_from);
		free(below_to);
	}
	closedir(dir);
	return status;
}

/* ---- all of it ----------------------------------------------------------------------------------
 */

/* Where a directory goes: into one that is there, or to be it. */
static int find_place(struct copy *c, const char *from, const char *to, char ret[static PATH_MAX])
{
	struct lodge_error error = {.status = 0};
	Lodge__Agent__V1__ListFilesResponse *there = copy_list(c, to, false, 0, &error);
	char name[NAME_MAX + 1];
	bool into;

	if (!there && error.status != LODGE_STATUS_NOT_FOUND)
		return remote_failed(c->r, &error);
	into = there && there->self->type == LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY;
	if (there)
		lodge_free(&there->base);
	if (into && !copy_join(c, ret, to, copy_base(from, name)))
		return LODGE_FAILED;
	if (!into)
		snprintf(ret, PATH_MAX, "%s", to);
	return 0;
}

static int put_tree(struct copy *c, int fd, const struct stat *st, const char *from, const char *to)
{
	Lodge__Agent__V1__FileType type = LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY;
	char place[PATH_MAX];
	int status = find_place(c, from, to, place);

	if (!status)
		status = make_entry(c, place, type, NULL, "");
	if (!status)
		status = put_entries(c, fd, from, place, 0);
	return status ? status : make_entry(c, place, type, st, "");
}

int copy_in(struct copy *c, const char *from, const char *to)
{
	char name[NAME_MAX + 1];
	autofd int fd = -1;
	struct stat st;

	if (!strcmp(from, "-"))
		return put_file(c, STDIN_FILENO, NULL, "standard input", to, "");
	fd = open(from, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return remote_fail(c->r, LODGE_FAILED, "%s: %s", from, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return put_tree(c, fd, &st, from, to);
	return put_file(c, fd, &st, from, to, copy_base(from, name));
}
