/*
 * The chain of backing files below an image.
 *
 * Opened only where the caller allows it, read-only, with shared locks; formats are stated, never
 * guessed; its length is bounded and no file comes twice.
 */
#include "base/cleanup.h"
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Files of a chain. A bound, not a tuning: each costs a descriptor and tables. */
#define CHAIN_MAX 64

struct chain {
	unsigned count;
	struct {
		dev_t dev;
		ino_t ino;
	} files[CHAIN_MAX];
};

int q2_backing_resolve(const char *image_path, const char *name, char **ret_path, struct err *err)
{
	const char *slash = strrchr(image_path, '/'), *colon;
	size_t dir, size;
	char *path;

	if (!strncmp(name, "file:", 5))
		name += 5;
	colon = strchr(name, ':');
	if (colon && !memchr(name, '/', (size_t)(colon - name)))
		return err_set(err, ENOTSUP,
			       "the backing file is '%s'; only local files are supported", name);
	if (!*name)
		return err_set(err, EINVAL, "the backing file's name is empty");
	dir = *name == '/' || !slash ? 0 : (size_t)(slash - image_path) + 1;
	size = dir + strlen(name) + 1;
	path = malloc(size);
	if (!path)
		return err_set(err, ENOMEM, "no memory");
	memcpy(path, image_path, dir);
	memcpy(path + dir, name, size - dir);
	*ret_path = path;
	return 0;
}

static int find_format(const struct qcow2 *q, const struct image_opts *opts, bool first,
		       enum image_format *ret_format, struct err *err)
{
	if (first && opts->has_backing_format) {
		*ret_format = opts->backing_format;
		return 0;
	}
	if (!q->h.backing_format[0])
		return err_set(
		    err, EINVAL,
		    "does not state the format of its backing file '%s', and that is never "
		    "guessed; state it with lodge disk rebase",
		    q->h.backing);
	if (image_format_parse(q->h.backing_format, ret_format))
		return err_set(err, ENOTSUP,
			       "the format of its backing file is '%s'; raw and qcow2 "
			       "are supported",
			       q->h.backing_format);
	return 0;
}

static int chain_add(struct chain *c, dev_t dev, ino_t ino, struct err *err)
{
	for (unsigned i = 0; i < c->count; i++) {
		if (c->files[i].dev == dev && c->files[i].ino == ino)
			return err_set(err, ELOOP, "is in the chain of backing files already");
	}
	if (c->count == CHAIN_MAX)
		return err_set(err, EMLINK, "more than %d backing files", CHAIN_MAX);
	c->files[c->count].dev = dev;
	c->files[c->count].ino = ino;
	c->count++;
	return 0;
}

/* Looks before it opens: the lock of a file that comes again would say something else. */
static int check_path(struct chain *c, const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st))
		return err_sys(err, errno, "cannot be examined");
	if (!S_ISREG(st.st_mode))
		return chain_add(c, st.st_rdev, 0, err);
	return chain_add(c, st.st_dev, st.st_ino, err);
}

static int open_below(struct qcow2 *q, const struct image_opts *opts, enum image_format format,
		      struct qcow2 **ret_next, struct err *err)
{
	static const struct q2_open_how how = {0};
	struct image_file file;
	int r;

	*ret_next = NULL;
	if (format == IMAGE_RAW) {
		r = image_file_open(opts, &file, err);
		if (r)
			return r;
		q->backing = file.img;
		q->backing_bytes = align_up(file.size_bytes, IMAGE_SECTOR_BYTES);
		return 0;
	}
	r = q2_open_one(opts, &how, ret_next, err);
	if (r)
		return r;
	q->backing = &(*ret_next)->img;
	q->backing_bytes = q->backing->info.size_bytes;
	return 0;
}

static int open_next(struct qcow2 *q, const struct image_opts *opts, bool first, struct chain *c,
		     struct qcow2 **ret_next, struct err *err)
{
	struct image_opts below = {
	    .read_only = true,
	    .direct = opts->direct,
	    .no_lock = opts->no_lock,
	    .cache_bytes = opts->cache_bytes,
	};
	autofree char *path = NULL;
	int r;

	if (!opts->backing)
		return err_set(err, EINVAL,
			       "has the backing file '%s'; add backing=on to allow that",
			       q->h.backing);
	r = find_format(q, opts, first, &below.format, err);
	if (!r)
		r = q2_backing_resolve(q->img.path, q->h.backing, &path, err);
	if (r || !path)
		return r;
	below.path = path;
	r = check_path(c, path, err);
	if (!r)
		r = open_below(q, &below, below.format, ret_next, err);
	if (r)
		err_prefix(err, "backing file %s", path);
	return r;
}

/* Blocks that every image of the chain can be read in. */
static void widen_blocks(struct qcow2 *top)
{
	struct image_info *info = &top->img.info;

	for (struct image *b = top->backing; b; b = image_backing(b))
		info->logical_block_bytes =
		    MAX(info->logical_block_bytes, b->info.logical_block_bytes);
	info->physical_block_bytes = MAX(info->physical_block_bytes, info->logical_block_bytes);
	info->size_bytes = align_down(info->size_bytes, info->logical_block_bytes);
}

int q2_backing_open(struct qcow2 *top, const struct image_opts *opts, struct err *err)
{
	struct chain chain = {0};
	struct qcow2 *q = top;
	int r = chain_add(&chain, top->file.dev, top->file.ino, err);

	while (!r && q && q->h.backing[0]) {
		struct qcow2 *next = NULL;

		r = open_next(q, opts, q == top, &chain, &next, err);
		q = next;
	}
	if (!r)
		widen_blocks(top);
	return r;
}
