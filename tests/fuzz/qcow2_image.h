/*
 * A qcow2 image of any contents, in a file of memory, and requests to it: what the fuzzers of whole
 * images share.
 *
 * Input: one byte that says what is done, then the image. Half of the runs fill in a sound header
 * around the bytes, so that the tables behind it are reached.
 *
 *   0x01 read-only   0x02 clusters of 16 KiB   0x04 version 2   0x08 extended L2
 *   0x10 the file is longer   0x20 check   0x40 and repair   0x80 a sound header
 */
#ifndef TESTS_FUZZ_QCOW2_IMAGE_H
#define TESTS_FUZZ_QCOW2_IMAGE_H

#include "base/checked.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/image.h"
#include "disk/qcow2/qcow2.h"
#include "disk/qcow2/qcow2_format.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILE_MAX (1 << 20)
#define IO_BYTES (64 * 1024)

struct pending {
	struct image_req req;
	struct loop *loop;
	struct iovec iov;
};

static struct loop *loop;
static uint8_t memory[IO_BYTES];

static void done(struct image_req *req, int res)
{
	(void)res;
	loop_stop(container_of(req, struct pending, req)->loop);
}

static void request(struct image *img, enum image_op op, uint64_t offset, uint64_t len,
		    unsigned flags)
{
	uint64_t size = image_info(img)->size_bytes;
	struct pending p = {.loop = loop};

	offset = size ? align_down(offset % size, 512) : 0;
	len = MIN(len, size - offset);
	p.iov = (struct iovec){memory, MIN(len, (uint64_t)IO_BYTES)};
	if (op == IMAGE_READ || op == IMAGE_WRITE)
		len = p.iov.iov_len;
	p.req = (struct image_req){.op = op,
				   .flags = flags,
				   .offset_bytes = offset,
				   .len_bytes = len,
				   .iov = &p.iov,
				   .niov = 1,
				   .done = done};
	image_submit(img, &p.req);
	loop_run(loop);
}

static void use(const char *path, uint8_t how, const uint8_t *script, size_t len)
{
	struct image_opts opts = {
	    .path = path, .format = IMAGE_QCOW2, .read_only = how & 1, .cache_bytes = 1};
	struct err err = ERR_INIT;
	struct image *img;

	if (image_open(&opts, &img, &err))
		return;
	if (!image_attach(img, loop, &err)) {
		for (size_t i = 0; i + 4 <= len && i < 64; i += 4) {
			uint64_t offset = (uint64_t)script[i + 1] << (script[i + 2] % 40);

			request(img, (enum image_op)(script[i] % 5), offset,
				(uint64_t)(1 + script[i + 3]) * 512, script[i] >> 6);
		}
		for (uint64_t at = 0; at < 16; at++)
			request(img, IMAGE_READ, at * IO_BYTES, IO_BYTES, 0);
		image_detach(img);
	}
	image_close(img);
}

/* A header under which the rest of the file is tables. */
static void make_sound(uint8_t *file, size_t size, uint8_t how)
{
	unsigned bits = how & 2 ? 14 : 9;
	struct q2_header_disk h;

	memcpy(&h, file, sizeof(h));
	h.magic = be32_put(Q2_MAGIC);
	h.version = be32_put(how & 4 ? 2 : 3);
	h.cluster_bits = be32_put(bits);
	h.backing_offset = be64_put(0);
	h.crypt_method = be32_put(0);
	h.size = be64_put(be64_get(h.size) % (2 * MIB) + 512);
	h.l1_entries = be32_put(256);
	h.l1_offset = be64_put((be64_get(h.l1_offset) % 4 + 1) << bits);
	h.reftable_offset = be64_put((be64_get(h.reftable_offset) % 4 + 1) << bits);
	h.reftable_clusters = be32_put(1);
	h.snapshots = be32_put(be32_get(h.snapshots) % 3);
	h.snapshots_offset = be64_put((be64_get(h.snapshots_offset) % 4) << bits);
	h.incompatible =
	    be64_put(how & 8 && bits > 13 ? Q2_INCOMPAT_EXTL2 : be64_get(h.incompatible) & 1);
	h.refcount_order = be32_put(be32_get(h.refcount_order) % 7);
	h.header_len = be32_put(112);
	h.compression_type = 0;
	if (size >= sizeof(h))
		memcpy(file, &h, sizeof(h));
}

/* A file of memory with these bytes, as /proc/self/fd/N; -1: none to be had. */
static int memory_file(const void *data, size_t size, char *path, size_t path_len)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd >= 0 && write(fd, data, size) != (ssize_t)size) {
		close(fd);
		return -1;
	}
	snprintf(path, path_len, "/proc/self/fd/%d", fd);
	return fd;
}

static int run_image(const uint8_t *data, size_t size, uint8_t how)
{
	static uint8_t file[FILE_MAX];
	struct qcow2_check_result res;
	struct err err = ERR_INIT;
	char path[64];
	int fd;

	if (!loop) {
		log_init(-1, LOG_LEVEL_ERROR);
		loop_new(&(struct loop_opts){.entries = 8}, &loop, &err);
	}
	size = MIN(size, (size_t)FILE_MAX);
	memcpy(file, data, size);
	if (how & 0x80)
		make_sound(file, size, how);
	fd = memory_file(file, size, path, sizeof(path));
	if (fd < 0)
		return 0;
	if (how & 0x10)
		(void)!ftruncate(fd, (off_t)(size + 256 * KIB));
	if (how & 0x20)
		(void)qcow2_check(path, how & 0x40 ? QCOW2_REPAIR_ALL : 0, NULL, &res, &err);
	use(path, how, data + size - MIN(size, (size_t)64), MIN(size, (size_t)64));
	close(fd);
	return 0;
}

#endif
