/*
 * Raw images: the file or block device is the disk, byte for byte.
 *
 * Opening, closing and the binding to a loop; the I/O is in disk/raw_io.c and disk/raw_sync.c.
 */
#include "base/cleanup.h"
#include "disk/lock.h"
#include "disk/raw_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void raw_free(struct raw *raw)
{
	if (raw->file.fd >= 0) {
		image_unlock(raw->file.fd);
		close(raw->file.fd);
	}
	free(raw->img.path);
	free(raw);
}

/*
 * What a container may reach to: past every file, and a multiple of every block size, so that sums
 * of an offset and a length below it do not overflow.
 */
#define CONTAINER_BYTES (UINT64_C(1) << 62)

static int open_raw(const struct image_opts *opts, bool container, struct raw **ret_raw,
		    struct err *err)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	int r;

	if (!raw)
		return err_set(err, ENOMEM, "no memory");
	raw->file.fd = -1;
	raw->img.path = strdup(opts->path);
	if (!raw->img.path) {
		r = err_set(err, ENOMEM, "no memory");
		goto fail;
	}
	r = raw_probe(opts, &raw->file, err);
	if (!r && !container)
		r = raw_probe_size(&raw->file, opts->path, err);
	if (r)
		goto fail;
	if (!opts->no_lock) {
		r = image_lock(raw->file.fd, opts->read_only, err);
		if (r)
			goto fail;
	}
	raw->container = container;
	raw->img.info = raw->file.info;
	if (container)
		raw->img.info.size_bytes = CONTAINER_BYTES;
	raw->no_discard = opts->no_discard;
	raw->can_punch = raw->file.can_punch;
	raw->can_zero_range = true;
	raw_io_init(raw);
	*ret_raw = raw;
	return 0;

fail:
	raw_free(raw);
	return r;
}

static int raw_open(const struct image_opts *opts, struct image **ret_img, struct err *err)
{
	struct raw *raw = NULL;
	int r = open_raw(opts, false, &raw, err);

	if (!r && raw)
		*ret_img = &raw->img;
	return r;
}

int image_file_open(const struct image_opts *opts, struct image_file *ret_file, struct err *err)
{
	struct image_file f;
	struct stat st;
	struct raw *raw = NULL;
	int r = open_raw(opts, true, &raw, err);

	if (r || !raw)
		return r;
	if (fstat(raw->file.fd, &st)) {
		r = err_sys(err, errno, "cannot be examined");
		raw_free(raw);
		return r;
	}
	image_init(&raw->img, &image_raw_driver);
	f.img = &raw->img;
	f.fd = raw->file.fd;
	f.size_bytes = raw->file.info.size_bytes;
	f.is_regular = S_ISREG(st.st_mode);
	f.align_bytes = MAX(raw->file.dio_offset_align, raw->file.dio_mem_align);
	f.dev = S_ISREG(st.st_mode) ? st.st_dev : st.st_rdev;
	f.ino = S_ISREG(st.st_mode) ? st.st_ino : 0;
	*ret_file = f;
	return 0;
}

static void raw_close(struct image *img)
{
	raw_free(raw_of(img));
}

static int raw_attach(struct image *img, struct loop *loop, struct err *err)
{
	struct raw *raw = raw_of(img);
	void *p;

	(void)loop;
	if (!raw->file.dio_mem_align)
		return 0;
	p = mmap(NULL, RAW_BOUNCE_COUNT * RAW_BOUNCE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_sys(err, errno, "no memory for direct I/O");
	raw->bounce = p;
	raw->bounce_nfree = RAW_BOUNCE_COUNT;
	for (size_t i = 0; i < RAW_BOUNCE_COUNT; i++)
		raw->bounce_free[i] = raw->bounce + i * RAW_BOUNCE_BYTES;
	return 0;
}

static void raw_detach(struct image *img)
{
	struct raw *raw = raw_of(img);

	if (!raw->bounce)
		return;
	assert(raw->bounce_nfree == RAW_BOUNCE_COUNT);
	munmap(raw->bounce, RAW_BOUNCE_COUNT * RAW_BOUNCE_BYTES);
	raw->bounce = NULL;
}

static int raw_grow_begin(struct image *img, uint64_t size_bytes, uint64_t *ret_from,
			  uint64_t *ret_to, struct err *err)
{
	const struct raw *raw = raw_of(img);
	struct stat st;

	(void)ret_from; /* a file's new part reads as zeroes */
	(void)ret_to;
	if (fstat(raw->file.fd, &st))
		return err_sys(err, errno, "cannot be examined");
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL,
			       "is a block device, which is as large as it is; resize what it "
			       "stands for and start the VM again");
	/* nothing that is there is cut off, whoever has made the file longer */
	if (size_bytes > INT64_MAX)
		return err_set(err, EFBIG, "no file is that long");
	if ((uint64_t)st.st_size < size_bytes && ftruncate(raw->file.fd, (off_t)size_bytes))
		return err_sys(err, errno, "cannot be made longer");
	return 0;
}

static int raw_grow_end(struct image *img, uint64_t old_bytes, int failed, struct err *err)
{
	(void)old_bytes;
	if (failed || !fdatasync(raw_of(img)->file.fd))
		return -failed;
	return err_sys(err, errno, "cannot be written");
}

static void raw_inject_fault(struct image *img, unsigned n, int errnum)
{
	struct raw *raw = raw_of(img);

	raw->fault_in = n;
	raw->fault_errnum = errnum;
}

const struct image_driver image_raw_driver = {
    .name = "raw",
    .format = IMAGE_RAW,
    .open = raw_open,
    .close = raw_close,
    .attach = raw_attach,
    .detach = raw_detach,
    .submit = raw_submit,
    .inject_fault = raw_inject_fault,
    .map = raw_map,
    .grow_begin = raw_grow_begin,
    .grow_end = raw_grow_end,
};
