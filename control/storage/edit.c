/*
 * Disk images that are there: looked at, resized, checked. See control/storage/storage.h.
 *
 * The image is opened below the root as storage.c does it; the tools of disk/ then open that file
 * again through /proc/self/fd, with the rights of who asks, and lock it.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/storage/priv.h"
#include "disk/lock.h"
#include "disk/raw_tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define QCOW2 VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_QCOW2
#define RAW   VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_RAW

#define SELF_MAX 32

struct edit {
	char path[PATH_MAX]; /* that the caller knows */
	char self[SELF_MAX]; /* by which it can be opened again */
	int fd;
	struct stat st;
};

static int edit_open(const struct storage *storage, const struct storage_name *name, int flags,
		     struct edit *e, struct err *err)
{
	struct place place = {.name = "", .dir_fd = -1};
	int res;

	if (name->image_type != QCOW2 && name->image_type != RAW)
		return err_set(err, EINVAL, "unknown image type %d", name->image_type);
	res = place_open(storage, name->id, name->disk_path, name->location, &place, err);
	if (res)
		return res;
	place_path(storage, &place, e->path);
	res = place_open_file(&place, flags, &e->fd, &e->st, err);
	if (res)
		err_prefix(err, "%s", e->path);
	else
		snprintf(e->self, sizeof(e->self), "/proc/self/fd/%d", e->fd);
	close(place.dir_fd);
	return res;
}

/* Puts the path that the caller knows where a message has ours. */
static void rename_in(const struct edit *e, struct err *err)
{
	size_t len = strlen(e->self);
	const char *at = strstr(err->msg, e->self);
	char text[ERR_MSG_MAX];

	if (!at) {
		err_prefix(err, "%s", e->path);
		return;
	}
	memcpy(text, at + len, strlen(at + len) + 1);
	snprintf(err->msg + (at - err->msg), sizeof(err->msg) - (size_t)(at - err->msg), "%s%s",
		 e->path, text);
}

static int edit_close(struct edit *e, int res, struct err *err)
{
	close(e->fd);
	if (res && err->code)
		rename_in(e, err);
	return res;
}

static int look(const char *path, int image_type, uint64_t *ret_size, uint64_t *ret_allocated,
		bool *ret_backing, struct err *err)
{
	struct qcow2_info info;
	struct raw_facts facts;
	int res;

	if (image_type == RAW) {
		res = raw_facts(path, &facts, err);
		if (!res) {
			*ret_size = facts.size_bytes;
			*ret_allocated = facts.allocated_bytes;
			*ret_backing = false;
		}
		return res;
	}
	res = qcow2_info(path, &info, err);
	if (!res) {
		*ret_size = info.size_bytes;
		*ret_allocated = info.allocated_bytes;
		*ret_backing = info.has_backing;
	}
	return res;
}

int storage_info(const struct storage *storage, const struct storage_name *name,
		 const struct storage_user *users, size_t nusers, struct storage_info *ret_info,
		 struct err *err)
{
	struct edit e = {.fd = -1};
	bool backing;
	int res = edit_open(storage, name, O_RDONLY, &e, err);

	if (res)
		return res;
	res = look(e.self, name->image_type, &ret_info->size_bytes, &ret_info->allocated_bytes,
		   &backing, err);
	memcpy(ret_info->path, e.path, sizeof(e.path));
	/* a reader may not come where somebody writes */
	ret_info->in_use = place_check_users(&e.st, users, nusers, NULL) ||
			   image_lock(e.fd, true, NULL) == -EAGAIN;
	image_unlock(e.fd);
	return edit_close(&e, res, err);
}

static int resize(const struct edit *e, int image_type, uint64_t size_bytes, bool shrink,
		  uint64_t *ret_old_bytes, struct err *err)
{
	uint64_t allocated;
	bool backing;
	int res = look(e->self, image_type, ret_old_bytes, &allocated, &backing, err);

	if (res)
		return res;
	if (backing)
		return err_set(err, EINVAL,
			       "it has a backing file, which only `lodge disk resize` opens");
	if (image_type == RAW)
		return raw_resize(e->self, size_bytes, shrink, RAW_PREALLOC_OFF, NULL, err);
	return qcow2_resize(e->self, size_bytes, shrink, QCOW2_PREALLOC_OFF, NULL, err);
}

int storage_resize(const struct storage *storage, const struct storage_name *name,
		   const struct identity *identity, const struct storage_user *users, size_t nusers,
		   uint64_t size_bytes, bool shrink, uint64_t *ret_old_bytes, struct err *err)
{
	struct identity before;
	struct edit e = {.fd = -1};
	int res;

	if (!size_bytes || size_bytes % IMAGE_SECTOR_BYTES || size_bytes > INT64_MAX)
		return err_set(err, EINVAL,
			       "size_bytes %llu: a whole number of sectors of %d bytes is needed",
			       (unsigned long long)size_bytes, IMAGE_SECTOR_BYTES);
	res = edit_open(storage, name, O_RDWR, &e, err);
	if (res)
		return res;
	res = place_check_rights(e.fd, identity, err);
	if (!res)
		res = place_check_users(&e.st, users, nusers, err);
	if (!res && identity) {
		res = identity_assume(identity, &before, err);
		if (!res)
			res = resize(&e, name->image_type, size_bytes, shrink, ret_old_bytes, err);
		identity_resume(&before);
	} else if (!res) {
		res = resize(&e, name->image_type, size_bytes, shrink, ret_old_bytes, err);
	}
	return edit_close(&e, res, err);
}

/* A raw image has no structure that could be wrong; only its length can be. */
static int check_raw(const struct edit *e, struct err *err)
{
	if (!e->st.st_size || e->st.st_size % IMAGE_SECTOR_BYTES)
		return err_set(err, EINVAL, "its %lld bytes are no whole number of sectors",
			       (long long)e->st.st_size);
	return image_lock(e->fd, true, err);
}

int storage_check(const struct storage *storage, const struct storage_name *name,
		  const struct identity *identity, const struct storage_user *users, size_t nusers,
		  bool repair, const struct qcow2_check_ops *ops,
		  struct qcow2_check_result *ret_result, struct err *err)
{
	const unsigned repairs = repair ? QCOW2_REPAIR_LEAKS | QCOW2_REPAIR_ALL : 0;
	struct edit e = {.fd = -1};
	int res = edit_open(storage, name, repair ? O_RDWR : O_RDONLY, &e, err);

	if (res)
		return res;
	if (repair)
		res = place_check_rights(e.fd, identity, err);
	if (!res)
		res = place_check_users(&e.st, users, nusers, err);
	if (!res && name->image_type == RAW)
		res = check_raw(&e, err);
	else if (!res)
		res = qcow2_check(e.self, repairs, ops, ret_result, err);
	return edit_close(&e, res, err);
}
