/* ListFiles and MakeEntry: directories, for who copies trees of files. See proto/agent.proto. */
#include "guest/agent/calls.h"

#include "base/cleanup.h"
#include "guest/agent/copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S     INT64_C(1000000000)
#define MODE_BITS    07777
#define MODE_DEFAULT 0755

/* Of one answer: what they take stays within the budget of pb_unpack() however short they are. */
#define ENTRIES_MAX 300

/* ---- ListFiles ----------------------------------------------------------------------------------
 */

static Lodge__Agent__V1__FileEntry *entry_new(const struct stat *st, const char *name)
{
	Lodge__Agent__V1__FileEntry *e = calloc(1, sizeof(*e));
	Lodge__Agent__V1__FileAttributes *a = calloc(1, sizeof(*a));
	char *copy = strdup(name);

	if (!e || !a || !copy)
		return NULL;
	lodge__agent__v1__file_entry__init(e);
	lodge__agent__v1__file_attributes__init(a);
	e->name = (ProtobufCBinaryData){.len = strlen(copy), .data = (uint8_t *)copy};
	e->attributes = a;
	if (S_ISREG(st->st_mode))
		e->type = LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_REGULAR;
	else if (S_ISDIR(st->st_mode))
		e->type = LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY;
	else if (S_ISLNK(st->st_mode))
		e->type = LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_LINK;
	a->mode = st->st_mode & MODE_BITS;
	a->uid = st->st_uid;
	a->gid = st->st_gid;
	a->mtime_ns = (int64_t)st->st_mtim.tv_sec * NS_PER_S + st->st_mtim.tv_nsec;
	a->size_bytes = (uint64_t)st->st_size;
	return e;
}

/* NULL: no memory, or it is gone meanwhile. */
static Lodge__Agent__V1__FileEntry *entry_of(int dir, const char *name)
{
	Lodge__Agent__V1__FileEntry *e;
	struct stat st;
	char target[PATH_MAX];
	ssize_t n;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return NULL;
	e = entry_new(&st, name);
	if (!e || !S_ISLNK(st.st_mode))
		return e;
	n = readlinkat(dir, name, target, sizeof(target));
	if (n < 0)
		return NULL;
	e->link_target.data = malloc((size_t)n + 1);
	if (!e->link_target.data)
		return NULL;
	memcpy(e->link_target.data, target, (size_t)n);
	e->link_target.len = (size_t)n;
	return e;
}

static int list_entries(const Lodge__Agent__V1__ListFilesRequest *r,
			Lodge__Agent__V1__ListFilesResponse *ret, struct err *err)
{
	uint64_t skip = r->skip_entries;
	const struct dirent *d;
	DIR *dir = opendir(r->path);

	ret->entries = calloc(ENTRIES_MAX, sizeof(Lodge__Agent__V1__FileEntry *));
	if (!dir || !ret->entries)
		return err_sys(err, dir ? ENOMEM : errno, "%s", r->path);
	errno = 0;
	while ((d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if (skip) {
			skip--;
			continue;
		}
		if (ret->n_entries == ENTRIES_MAX) {
			ret->more = true;
			return 0;
		}
		ret->entries[ret->n_entries] = entry_of(dirfd(dir), d->d_name);
		if (ret->entries[ret->n_entries]) {
			ret->n_entries++;
		} else if (errno != ENOENT) {
			err_sys(err, errno, "%s", d->d_name);
			err_prefix(err, "%s", r->path);
			return -err->code;
		}
		errno = 0;
	}
	return errno ? err_sys(err, errno, "reading %s", r->path) : 0;
}

int call_list_files(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__ListFilesRequest *r =
	    (const Lodge__Agent__V1__ListFilesRequest *)message;
	Lodge__Agent__V1__ListFilesResponse *ret = (Lodge__Agent__V1__ListFilesResponse *)reply;
	struct stat st;

	if (r->path[0] != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", r->path);
	if (stat(r->path, &st) < 0)
		return err_sys(err, errno, "%s", r->path);
	ret->self = entry_new(&st, "");
	if (!ret->self)
		return err_set(err, ENOMEM, "out of memory");
	return S_ISDIR(st.st_mode) && !r->no_entries ? list_entries(r, ret, err) : 0;
}

/* ---- MakeEntry ----------------------------------------------------------------------------------
 */

static int make_directory(const Lodge__Agent__V1__MakeEntryRequest *r, struct err *err)
{
	autofd int fd = -1;
	int res;

	if (mkdir(r->path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "making %s", r->path);
	fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "%s", r->path);
	res = copy_set_attributes(fd, r->attributes, MODE_DEFAULT, err);
	err_prefix(err, "%s", r->path);
	return res;
}

/* The link has another name first: what has its name is there until it is. */
static int make_link(const Lodge__Agent__V1__MakeEntryRequest *r, struct err *err)
{
	char temporary[PATH_MAX];
	int error;

	if (symlink(r->link_target, r->path) == 0)
		return 0;
	if (errno != EEXIST)
		return err_sys(err, errno, "making %s", r->path);
	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.lodge-agent.%d", r->path,
			     getpid()) >= sizeof(temporary))
		return err_set(err, ENAMETOOLONG, "the path is too long");
	if (symlink(r->link_target, temporary) < 0)
		return err_sys(err, errno, "making %s", temporary);
	if (rename(temporary, r->path) == 0)
		return 0;
	error = errno;
	unlink(temporary);
	return err_sys(err, error, "making %s", r->path);
}

static int make_above(const char *path, struct err *err)
{
	char above[PATH_MAX];
	char *slash;

	strcpy(above, path);
	slash = strrchr(above, '/');
	if (slash == above)
		return 0;
	*slash = '\0';
	return copy_make_directories(above, err);
}

int call_make_entry(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__MakeEntryRequest *r =
	    (const Lodge__Agent__V1__MakeEntryRequest *)message;
	int res = 0;

	(void)reply;
	if (r->path[0] != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", r->path);
	if (strlen(r->path) >= PATH_MAX)
		return err_set(err, ENAMETOOLONG, "the path is too long");
	if (r->make_directories)
		res = make_above(r->path, err);
	if (res)
		return res;
	if (r->type == LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_DIRECTORY)
		return make_directory(r, err);
	if (r->type == LODGE__AGENT__V1__FILE_TYPE__FILE_TYPE_LINK)
		return make_link(r, err);
	return err_set(err, EINVAL, "%s: only directories and links are made", r->path);
}
