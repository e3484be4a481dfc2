/* Disk images below a storage root. See control/storage/storage.h. */
#include "control/storage/priv.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/new_file.h"
#include "disk/image.h"
#include "disk/lock.h"
#include "disk/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ID_MAX 128 /* hexadecimal digits: twice what a SHA-256 has */

#define FAILED	       VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_FAILED
#define CREATED	       VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_CREATED
#define EXISTS	       VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_EXISTS
#define DOES_NOT_EXIST VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_DOES_NOT_EXIST
#define DESTROYED      VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_DESTROYED

int storage_open(struct storage *storage, const char *root, struct err *err)
{
	char *path = realpath(root, NULL);
	int fd;

	if (!path && errno == ENOENT)
		return err_set(
		    err, ENOENT,
		    "storage root %s does not exist; make it (mkdir -p), or name another "
		    "with --storage-root",
		    root);
	if (!path)
		return err_sys(err, errno, "storage root %s", root);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		free(path);
		return err_sys(err, errno, "storage root %s", root);
	}
	storage->root = path;
	storage->root_fd = fd;
	return 0;
}

void storage_close(struct storage *storage)
{
	free(steal_ptr(&storage->root));
	cleanup_fd(&storage->root_fd);
	storage->root_fd = -1;
}

/* ---- names --------------------------------------------------------------------------------------
 */

static int check_id(const char *id, struct err *err)
{
	size_t len = strlen(id);

	if (!len || len > ID_MAX || strspn(id, "0123456789abcdefABCDEF") != len)
		return err_set(err, EINVAL, "cryptohome_id '%s' is not 1 to %d hexadecimal digits",
			       id, ID_MAX);
	return 0;
}

static int check_disk_path(const char *path, struct err *err)
{
	const char *part = path;

	if (!*path)
		return err_set(err, EINVAL, "disk_path is empty");
	if (*path == '/')
		return err_set(err, EINVAL, "disk_path '%s' is absolute; it must be relative",
			       path);
	for (const char *p = path; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "disk_path '%s' has a control character", path);
	}
	for (;;) {
		size_t len = strcspn(part, "/");

		if (!len || (len == 1 && part[0] == '.') ||
		    (len == 2 && part[0] == '.' && part[1] == '.'))
			return err_set(err, EINVAL,
				       "disk_path '%s' has a part that is empty, '.' or '..'",
				       path);
		if (len > NAME_MAX)
			return err_set(err, ENAMETOOLONG,
				       "disk_path: a part has %zu bytes, at most %d are possible",
				       len, NAME_MAX);
		if (!part[len])
			return 0;
		part += len + 1;
	}
}

static int open_beneath(int dir_fd, const char *path, int flags)
{
	struct open_how how = {
	    .flags = (uint64_t)(flags | O_CLOEXEC),
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
}

int place_open(const struct storage *storage, const char *id, const char *disk_path, int location,
	       struct place *ret_place, struct err *err)
{
	static const char *const forms[] = {
	    [VM_TOOLS__CONCIERGE__STORAGE_LOCATION__STORAGE_CRYPTOHOME_ROOT] =
		"home/root/%s/crosvm/%s",
	    [VM_TOOLS__CONCIERGE__STORAGE_LOCATION__STORAGE_CRYPTOHOME_DOWNLOADS] =
		"home/user/%s/Downloads/%s",
	};
	struct place *p = ret_place;
	char *slash;
	int res, len;

	if (storage->root_fd < 0)
		return err_set(err, ENOTSUP,
			       "no storage root is set: the server was started without "
			       "--storage-root");
	res = check_id(id, err);
	if (!res)
		res = check_disk_path(disk_path, err);
	if (res)
		return res;
	if (location < 0 || (size_t)location >= ARRAY_LEN(forms))
		return err_set(err, EINVAL, "storage_location %d is unknown", location);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	len = snprintf(p->path, sizeof(p->path), forms[location], id, disk_path);
#pragma GCC diagnostic pop
	if ((size_t)len + strlen(storage->root) + 2 > sizeof(p->path))
		return err_set(err, ENAMETOOLONG, "disk_path has too many bytes");
	slash = strrchr(p->path, '/');
	*slash = '\0';
	p->name = slash + 1;
	p->dir_fd = open_beneath(storage->root_fd, p->path, O_RDONLY | O_DIRECTORY);
	if (p->dir_fd >= 0)
		return 0;
	switch (errno) {
	case ELOOP:
	case EXDEV:
		return err_set(err, ELOOP,
			       "%s/%s: a symbolic link is in the way; none is followed below the "
			       "storage root",
			       storage->root, p->path);
	case ENOENT:
		return err_set(err, ENOENT,
			       "the directory %s/%s does not exist; make it (mkdir -p)",
			       storage->root, p->path);
	default:
		return err_sys(err, errno, "the directory %s/%s", storage->root, p->path);
	}
}

/* place_open() has seen to it that the path fits. */
void place_path(const struct storage *storage, const struct place *place, char ret_path[PATH_MAX])
{
	const char *const parts[] = {storage->root, "/", place->path, "/", place->name};
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		size_t len = MIN(strlen(parts[i]), PATH_MAX - 1 - at);

		memcpy(ret_path + at, parts[i], len);
		at += len;
	}
	ret_path[at] = '\0';
}

int place_open_file(const struct place *place, int flags, int *ret_fd, struct stat *ret_st,
		    struct err *err)
{
	autofd int fd = openat(place->dir_fd, place->name,
			       flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return err_set(err, ENOENT, "it does not exist");
	if (fd < 0 && errno == ELOOP)
		return err_set(err, ELOOP, "it is a symbolic link");
	if (fd < 0)
		return err_sys(err, errno, "it cannot be opened");
	if (fstat(fd, ret_st))
		return err_sys(err, errno, "it cannot be examined");
	if (!S_ISREG(ret_st->st_mode))
		return err_set(err, EINVAL, "it is no file");
	*ret_fd = steal_fd(&fd);
	return 0;
}

int place_check_users(const struct stat *st, const struct storage_user *users, size_t n,
		      struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		struct stat other = {0};

		if (!stat(users[i].path, &other) && other.st_dev == st->st_dev &&
		    other.st_ino == st->st_ino)
			return err_set(err, EBUSY, "it is in use by the VM '%s'; stop that first",
				       users[i].vm);
	}
	return 0;
}

int place_check_rights(int fd, const struct identity *identity, struct err *err)
{
	struct identity before;
	char self[64];
	int res, again;

	if (!identity)
		return 0;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	res = identity_assume(identity, &before, err);
	if (!res) {
		again = open(self, O_RDWR | O_CLOEXEC);
		if (again < 0)
			res = err_set(err, EACCES, "user %u may not write it", identity->uid);
		cleanup_fd(&again);
	}
	identity_resume(&before);
	return res;
}

/* ---- creating -----------------------------------------------------------------------------------
 */

static int create_raw(int fd, uint64_t size_bytes, struct err *err)
{
	if (size_bytes > INT64_MAX)
		return err_set(err, EFBIG, "a size of %llu bytes is more than a file can have",
			       (unsigned long long)size_bytes);
	if (ftruncate(fd, (off_t)size_bytes))
		return err_sys(err, errno, "a size of %llu bytes", (unsigned long long)size_bytes);
	return 0;
}

/* As concierge's clients know it: version 3, clusters of 64 KiB, 16-bit refcounts, header only. */
static int create_qcow2(int fd, uint64_t size_bytes, struct err *err)
{
	char self[64];
	const struct qcow2_create_opts opts = {
	    .path = self, .into_empty = true, .size_bytes = size_bytes, .has_size = true};

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return qcow2_create(&opts, err);
}

/* Writes a new image of this size into an empty file. */
static const struct creator {
	const char *name;
	int type;
	int (*create)(int fd, uint64_t size_bytes, struct err *err);
} creators[] = {
    {"raw", VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_RAW, create_raw},
    {"qcow2", VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_QCOW2, create_qcow2},
};

static const struct creator *find_creator(int type, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(creators); i++) {
		if (creators[i].type == type)
			return &creators[i];
	}
	err_set(err, EINVAL, "unknown image type %d", type);
	return NULL;
}

/* 1: there is something of that name; 0: not; -errno: it is no image. */
static int look(const struct place *place, struct err *err)
{
	struct stat st;

	if (fstatat(place->dir_fd, place->name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : err_sys(err, errno, "it cannot be looked up");
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "there is something of that name that is no file");
	return 1;
}

static int fill_new(int fd, const struct creator *creator, uint64_t size_bytes,
		    const struct identity *identity, struct err *err)
{
	int res;

	if (fchmod(fd, 0600)) /* whatever the umask */
		return err_sys(err, errno, "its mode cannot be set");
	if (identity && fchown(fd, identity->uid, identity->gid))
		return err_sys(err, errno, "it cannot be given to user %u", identity->uid);
	res = creator->create(fd, size_bytes, err);
	if (!res && fsync(fd))
		return err_sys(err, errno, "it cannot be written");
	return res;
}

/* 1: someone else's has the name meanwhile. */
static int create_at(const struct place *place, const struct creator *creator, uint64_t size_bytes,
		     const struct identity *identity, struct err *err)
{
	struct new_file f;
	int res = new_file_begin(&f, place->dir_fd, place->name, err);

	if (res)
		return res;
	res = fill_new(f.fd, creator, size_bytes, identity, err);
	res = new_file_end(&f, res, false, err);
	if (res == -EEXIST) {
		*err = (struct err)ERR_INIT;
		return 1;
	}
	if (res)
		return res;
	if (fsync(place->dir_fd)) {
		res = err_sys(err, errno, "its directory cannot be written");
		unlinkat(place->dir_fd, place->name, 0);
		return res;
	}
	return 0;
}

void storage_create(const struct storage *storage,
		    const VmTools__Concierge__CreateDiskImageRequest *r,
		    const struct identity *identity, struct storage_result *result)
{
	struct place place = {.name = "", .dir_fd = -1};
	const struct creator *creator;
	int res;

	*result = (struct storage_result){.status = FAILED};
	creator = find_creator((int)r->image_type, &result->err);
	if (!creator)
		return;
	if (!r->disk_size) {
		err_set(&result->err, EINVAL, "disk_size is 0");
		return;
	}
	if (place_open(storage, r->cryptohome_id, r->disk_path, (int)r->storage_location, &place,
		       &result->err))
		return;
	place_path(storage, &place, result->path);
	res = look(&place, &result->err);
	if (!res)
		res = create_at(&place, creator, r->disk_size, identity, &result->err);
	if (res >= 0)
		result->status = res ? EXISTS : CREATED;
	else
		err_prefix(&result->err, "%s", result->path);
	close(place.dir_fd);
}

/* ---- destroying ---------------------------------------------------------------------------------
 */

/* 0: it is gone; 1: it was never there. The lock holds off whoever would open it meanwhile. */
static int destroy_at(const struct place *place, const struct identity *identity,
		      const struct storage_user *users, size_t nusers, struct err *err)
{
	struct stat st = {0}, again;
	autofd int fd = -1;
	int res = place_open_file(place, O_RDWR, &fd, &st, err);

	if (!res)
		res = place_check_rights(fd, identity, err);
	if (!res)
		res = place_check_users(&st, users, nusers, err);
	if (res)
		return res;
	if (image_lock(fd, false, err))
		return -err->code;
	/* what is removed is what was locked */
	if (fstatat(place->dir_fd, place->name, &again, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 1 : err_sys(err, errno, "it cannot be examined");
	if (again.st_dev != st.st_dev || again.st_ino != st.st_ino)
		return err_set(err, EAGAIN, "it was replaced meanwhile; try again");
	if (unlinkat(place->dir_fd, place->name, 0))
		return err_sys(err, errno, "it cannot be removed");
	(void)fsync(place->dir_fd);
	return 0;
}

void storage_destroy(const struct storage *storage,
		     const VmTools__Concierge__DestroyDiskImageRequest *r,
		     const struct identity *identity, const struct storage_user *users,
		     size_t nusers, struct storage_result *result)
{
	struct place place = {.name = "", .dir_fd = -1};
	int res;

	*result = (struct storage_result){.status = FAILED};
	res = place_open(storage, r->cryptohome_id, r->disk_path, (int)r->storage_location, &place,
			 &result->err);
	if (res == -ENOENT) {
		result->status = DOES_NOT_EXIST;
		result->err = (struct err)ERR_INIT;
	}
	if (res)
		return;
	place_path(storage, &place, result->path);
	res = destroy_at(&place, identity, users, nusers, &result->err);
	if (res == -ENOENT)
		result->err = (struct err)ERR_INIT;
	if (res >= 0)
		result->status = res ? DOES_NOT_EXIST : DESTROYED;
	else if (res == -ENOENT)
		result->status = DOES_NOT_EXIST;
	else
		err_prefix(&result->err, "%s", result->path);
	close(place.dir_fd);
}
