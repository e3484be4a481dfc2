/*
 * A raw image in a temporary directory, attached to a loop: what the tests of disk/raw share.
 *
 * Every test runs in four modes: io_uring or epoll, through the page cache or O_DIRECT.
 */
#ifndef TESTS_UNIT_RAW_FIXTURE_H
#define TESTS_UNIT_RAW_FIXTURE_H

#include "base/checked.h"
#include "base/loop.h"
#include "disk/image.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define WATCHDOG_S 240
#define DISK_BYTES (4 * MIB)

struct mode {
	enum loop_backend backend;
	bool direct;
};

struct fixture {
	struct mode mode;
	struct loop *loop;
	struct image *img;
	char dir[200];
	char path[256];
	const char *skip; /* why this mode is not possible here */
};

static inline void make_file(const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static inline void file_read(const char *path, void *buf, size_t len, uint64_t offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, (off_t)offset), len);
	close(fd);
}

static inline uint64_t file_blocks(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks;
}

static inline int temp_dir(char *dir, size_t len)
{
	const char *base = getenv("TMPDIR");

	snprintf(dir, len, "%s/lodge-raw-XXXXXX", base ? base : "/var/tmp");
	return mkdtemp(dir) ? 0 : -1;
}

static inline int fixture_open(struct fixture *f, struct image_opts opts, struct err *err)
{
	int r;

	opts.path = opts.path ? opts.path : f->path;
	opts.direct = f->mode.direct;
	r = image_open(&opts, &f->img, err);
	if (r)
		return r;
	return image_attach(f->img, f->loop, err);
}

static inline void fixture_close(struct fixture *f)
{
	if (!f->img)
		return;
	assert_int_equal(image_inflight(f->img), 0);
	image_detach(f->img);
	image_close(f->img);
	f->img = NULL;
}

static inline int setup_mode(void **state, struct mode mode)
{
	/* a ring of 8 makes requests wait for room, too */
	struct loop_opts lo = {.backend = mode.backend, .entries = 8};
	static struct fixture f;
	struct err err = ERR_INIT;
	int r;

	f = (struct fixture){.mode = mode};
	*state = &f;
	alarm(WATCHDOG_S);
	if (temp_dir(f.dir, sizeof(f.dir)))
		return -1;
	snprintf(f.path, sizeof(f.path), "%s/disk.img", f.dir);
	make_file(f.path, DISK_BYTES);
	if (loop_new(&lo, &f.loop, &err)) {
		f.skip = "this kernel refuses io_uring";
		return mode.backend == LOOP_URING ? 0 : -1;
	}
	r = fixture_open(&f, (struct image_opts){0}, &err);
	if (r == -EINVAL && mode.direct) {
		f.skip = "the temporary directory has no O_DIRECT";
		return 0;
	}
	if (r)
		print_error("%s\n", err.msg);
	return r;
}

static inline int setup_uring(void **state)
{
	return setup_mode(state, (struct mode){LOOP_URING, false});
}

static inline int setup_uring_direct(void **state)
{
	return setup_mode(state, (struct mode){LOOP_URING, true});
}

static inline int setup_epoll(void **state)
{
	return setup_mode(state, (struct mode){LOOP_EPOLL, false});
}

static inline int setup_epoll_direct(void **state)
{
	return setup_mode(state, (struct mode){LOOP_EPOLL, true});
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	loop_free(f->loop);
	unlink(f->path);
	rmdir(f->dir);
	alarm(0);
	return 0;
}

static inline struct fixture *fixture_of(void **state)
{
	struct fixture *f = *state;

	if (f->skip) {
		print_message("SKIP: %s\n", f->skip);
		skip();
	}
	return f;
}

/* A request that is waited for. */

struct waited {
	struct image_req req;
	struct loop *loop;
	int calls;
	int res;
	int *left;
};

static inline void waited_done(struct image_req *req, int res)
{
	struct waited *w = container_of(req, struct waited, req);

	w->calls++;
	w->res = res;
	if (!w->left || --*w->left == 0)
		loop_stop(w->loop);
}

static inline struct waited waited_new(struct fixture *f, enum image_op op, uint64_t offset,
				       uint64_t len, const struct iovec *iov, unsigned niov)
{
	return (struct waited){
	    .loop = f->loop,
	    .req = {.op = op,
		    .offset_bytes = offset,
		    .len_bytes = len,
		    .iov = iov,
		    .niov = niov,
		    .done = waited_done},
	};
}

static inline int run_iov(struct fixture *f, enum image_op op, unsigned flags, uint64_t offset,
			  uint64_t len, const struct iovec *iov, unsigned niov)
{
	struct waited w = waited_new(f, op, offset, len, iov, niov);

	w.req.flags = flags;
	image_submit(f->img, &w.req);
	assert_int_equal(w.calls, 0); /* never from inside image_submit() */
	assert_int_equal(image_inflight(f->img), 1);
	assert_int_equal(loop_run(f->loop), 0);
	assert_int_equal(w.calls, 1);
	assert_int_equal(image_inflight(f->img), 0);
	return w.res;
}

static inline int run_op(struct fixture *f, enum image_op op, unsigned flags, uint64_t offset,
			 uint64_t len)
{
	return run_iov(f, op, flags, offset, len, NULL, 0);
}

static inline int run_write(struct fixture *f, const void *buf, uint64_t offset, size_t len)
{
	char *copy = malloc(len); /* iovecs are not const, and malloc is not aligned for O_DIRECT */
	struct iovec v = {copy, len};
	int r;

	memcpy(copy, buf, len);
	r = run_iov(f, IMAGE_WRITE, 0, offset, len, &v, 1);
	free(copy);
	return r;
}

static inline int run_read(struct fixture *f, void *buf, uint64_t offset, size_t len)
{
	struct iovec v = {buf, len};

	return run_iov(f, IMAGE_READ, 0, offset, len, &v, 1);
}

/* A small generator of our own: the same numbers everywhere for one seed. */
static inline uint32_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33);
}

static inline void fill_random(void *buf, size_t len, uint64_t seed)
{
	uint8_t *b = buf;

	for (size_t i = 0; i < len; i++)
		b[i] = (uint8_t)next_random(&seed);
}

#define ALL_MODES(fn)                                                         \
	{#fn "/io_uring", fn, setup_uring, teardown, NULL},                   \
	    {#fn "/io_uring+direct", fn, setup_uring_direct, teardown, NULL}, \
	    {#fn "/epoll", fn, setup_epoll, teardown, NULL},                  \
	{                                                                     \
#fn "/epoll+direct", fn, setup_epoll_direct, teardown, NULL   \
	}

#endif
