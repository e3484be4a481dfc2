/*
 * Threads that write patterns to a disk, read them back and check every byte.
 *
 *   blkio:vda,START,LENGTH,THREADS,OPERATIONS,SEED[,UNBINDS]
 *
 * Each thread owns a part of the range and runs on a processor of its own, so that each of the
 * disk's queues is used. Sizes are from one block to 1.5 MiB, some scattered over many buffers;
 * flushes, discards and zeroing are mixed in. With UNBINDS, the driver is taken off the device that
 * many times in the midst of it. At the end the range is flushed, read whole, and its digest said.
 *
 *   blkverify:vda,START,LENGTH     reads a range that must hold patterns, and says its digest
 *
 * Threads: a worker touches only its struct; `run` is shared under its lock.
 */
#include "guest.h"
#include "pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/fs.h>

#define THREADS_MAX  16
#define IO_MAX_BYTES (3u << 19)
#define SEGMENTS_MAX 64
#define SLACK_BYTES  (64u << 10) /* gaps between the buffers of a scattered request */
#define REAPPEAR_MS  30000
/* An expected tag of this bit: the sector may also be zero (discarded), or as it was. */
#define MAYBE	    (UINT64_C(1) << 63)
#define NOT_DEFINED (UINT64_MAX - 1) /* a write failed: anything */

struct run {
	const char *disk;
	uint32_t block; /* logical block size, bytes */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned operations; /* done by all, under lock */
	unsigned parked;     /* workers that lost the disk and wait, under lock */
	unsigned bound;	     /* how often the driver was bound, under lock */
	unsigned finished;   /* workers that have ended, under lock */
	bool unbinding;	     /* errors are expected */
};

struct worker {
	struct run *run;
	pthread_t thread;
	unsigned id, operations;
	uint64_t start, sectors; /* the part of the disk that it owns */
	uint64_t *expected;	 /* tag of each of its sectors */
	uint64_t random;
	uint32_t generation;
	int fd;
	unsigned char *buf;
	char error[160]; /* "": none */
};

static int give_up(struct worker *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int give_up(struct worker *w, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(w->error, sizeof(w->error), format, ap);
	va_end(ap);
	return -1;
}

static int disk_open(const char *disk, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/%s", disk);
	return open(path, flags | O_CLOEXEC);
}

/* The disk is gone: waits until the driver is back. */
static int park(struct worker *w)
{
	struct run *run = w->run;
	unsigned bound;

	close(w->fd);
	pthread_mutex_lock(&run->lock);
	bound = run->bound;
	run->parked++;
	pthread_cond_broadcast(&run->changed);
	while (run->bound == bound)
		pthread_cond_wait(&run->changed, &run->lock);
	run->parked--;
	pthread_mutex_unlock(&run->lock);
	w->fd = disk_open(run->disk, O_RDWR | O_DIRECT);
	return w->fd < 0 ? give_up(w, "open again: %s", strerror(errno)) : 0;
}

/* A random range of blocks within the worker's part, in its sectors; small ones are more frequent.
 */
static void choose(struct worker *w, uint64_t *ret_first, uint64_t *ret_count)
{
	uint64_t per_block = w->run->block / SECTOR;
	uint64_t blocks = w->sectors / per_block, count, max;

	max = UINT64_C(1) << random_next(&w->random) % 13; /* in blocks */
	if (max > IO_MAX_BYTES / w->run->block)
		max = IO_MAX_BYTES / w->run->block;
	if (max > blocks)
		max = blocks;
	count = 1 + random_next(&w->random) % max;
	*ret_first = random_next(&w->random) % (blocks - count + 1) * per_block;
	*ret_count = count * per_block;
}

/* Splits `bytes` into segments of whole blocks with gaps between them; they start at w->buf. */
static unsigned scatter(struct worker *w, size_t bytes, struct iovec *iov)
{
	uint32_t block = w->run->block;
	unsigned char *at = w->buf, *end = w->buf + IO_MAX_BYTES + SLACK_BYTES;
	unsigned n = 0, want = 1 + (unsigned)(random_next(&w->random) % SEGMENTS_MAX);

	while (bytes) {
		size_t len = bytes, gap = block * (random_next(&w->random) % 3);

		if (n + 1 < want && bytes > block)
			len = block * (1 + random_next(&w->random) % (bytes / block));
		iov[n++] = (struct iovec){.iov_base = at, .iov_len = len};
		at += len;
		bytes -= len;
		if (at + gap + bytes <= end)
			at += gap;
	}
	return n;
}

static unsigned char *segment_at(const struct iovec *iov, size_t offset)
{
	while (offset >= iov->iov_len)
		offset -= iov++->iov_len;
	return (unsigned char *)iov->iov_base + offset;
}

/* preadv or pwritev to the end; errno of a failure, ENODATA where the disk gives nothing. */
static int transfer(struct worker *w, bool writing, struct iovec *iov, unsigned n, uint64_t first,
		    size_t bytes)
{
	off_t offset = (off_t)((w->start + first) * SECTOR);

	while (bytes) {
		ssize_t done = writing ? pwritev(w->fd, iov, (int)n, offset)
				       : preadv(w->fd, iov, (int)n, offset);

		if (done <= 0)
			return done ? errno : ENODATA;
		offset += done;
		bytes -= (size_t)done;
		while (done && (size_t)done >= iov->iov_len) {
			done -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (done) {
			iov->iov_base = (unsigned char *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

/* An error that unbinding explains: the disk is gone for a while. */
static int lost(struct worker *w, const char *what, uint64_t first, uint64_t count, int error)
{
	if (w->run->unbinding &&
	    (error == EIO || error == ENODEV || error == ENXIO || error == ENODATA ||
	     error == ENOSPC || error == EINVAL)) /* its size is 0 then */
		return park(w);
	return give_up(w, "%s of %llu sectors at %llu: %s", what, (unsigned long long)count,
		       (unsigned long long)(w->start + first), strerror(error));
}

static int do_write(struct worker *w, uint64_t first, uint64_t count)
{
	struct iovec iov[SEGMENTS_MAX], copy[SEGMENTS_MAX];
	unsigned n = scatter(w, count * SECTOR, iov);
	int error;

	w->generation++;
	for (uint64_t i = 0; i < count; i++) {
		w->expected[first + i] = pattern_tag(w->start + first + i, w->generation);
		pattern_fill(segment_at(iov, i * SECTOR), w->expected[first + i]);
	}
	memcpy(copy, iov, sizeof(iov));
	error = transfer(w, true, copy, n, first, count * SECTOR);
	if (!error)
		return 0;
	for (uint64_t i = 0; i < count; i++)
		w->expected[first + i] = NOT_DEFINED;
	return lost(w, "write", first, count, error);
}

/* Whether `found` is what sector `i` may hold; what was open is settled by it. */
static bool settle(struct worker *w, uint64_t i, uint64_t found)
{
	uint64_t *expected = &w->expected[i];

	if (found == PATTERN_NOTHING)
		return false;
	if (*expected == NOT_DEFINED || ((*expected & MAYBE) && !found))
		*expected = found;
	else if (*expected & MAYBE)
		*expected &= ~MAYBE;
	return found == *expected;
}

static int do_read(struct worker *w, uint64_t first, uint64_t count)
{
	struct iovec iov[SEGMENTS_MAX], copy[SEGMENTS_MAX];
	unsigned n = scatter(w, count * SECTOR, iov);
	int error;

	memset(w->buf, 0xee, IO_MAX_BYTES + SLACK_BYTES);
	memcpy(copy, iov, sizeof(iov));
	error = transfer(w, false, copy, n, first, count * SECTOR);
	if (error)
		return lost(w, "read", first, count, error);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t expected = w->expected[first + i];
		uint64_t found = pattern_read(segment_at(iov, i * SECTOR));

		if (!settle(w, first + i, found))
			return give_up(w, "sector %llu holds %llx, not %llx (read of %llu at %llu)",
				       (unsigned long long)(w->start + first + i),
				       (unsigned long long)found, (unsigned long long)expected,
				       (unsigned long long)count,
				       (unsigned long long)(w->start + first));
	}
	return 0;
}

static int do_range(struct worker *w, bool discard, uint64_t first, uint64_t count)
{
	uint64_t range[2] = {(w->start + first) * SECTOR, count * SECTOR};
	int res = ioctl(w->fd, discard ? BLKDISCARD : BLKZEROOUT, range), error = errno;

	if (res && discard && error == EOPNOTSUPP)
		return 0;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t *expected = &w->expected[first + i];

		if (res)
			*expected = NOT_DEFINED;
		else if (!discard)
			*expected = 0;
		else if (*expected && *expected != NOT_DEFINED)
			*expected |= MAYBE;
	}
	return res ? lost(w, discard ? "discard" : "zeroing", first, count, error) : 0;
}

static int operation(struct worker *w)
{
	unsigned kind = (unsigned)(random_next(&w->random) % 100);
	uint64_t first, count;

	choose(w, &first, &count);
	if (kind < 45)
		return do_write(w, first, count);
	if (kind < 88)
		return do_read(w, first, count);
	if (kind < 92)
		return do_range(w, true, first, count);
	if (kind < 96)
		return do_range(w, false, first, count);
	return fdatasync(w->fd) ? lost(w, "flush", 0, 0, errno) : 0;
}

static int verify_all(struct worker *w)
{
	uint64_t step = IO_MAX_BYTES / SECTOR;

	if (fsync(w->fd))
		return give_up(w, "flush: %s", strerror(errno));
	for (uint64_t first = 0; first < w->sectors; first += step)
		if (do_read(w, first, w->sectors - first < step ? w->sectors - first : step))
			return -1;
	return 0;
}

static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *worker_main(void *ctx)
{
	struct worker *w = ctx;
	struct run *run = w->run;
	int res = 0;

	pin(w->id);
	for (unsigned i = 0; !res && i < w->operations; i++) {
		res = operation(w);
		pthread_mutex_lock(&run->lock);
		run->operations++;
		pthread_cond_broadcast(&run->changed);
		pthread_mutex_unlock(&run->lock);
	}
	/* A worker that has ended holds the disk no longer, or the driver's number would change. */
	if (run->unbinding)
		close(w->fd);
	pthread_mutex_lock(&run->lock);
	run->finished++;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	return NULL;
}

/* Takes the driver away while requests run, waits until every worker has noticed, and brings it
 * back. */
static int unbind_once(struct run *run, const char *device, unsigned threads, unsigned after)
{
	static const char driver[] = "/sys/bus/virtio/drivers/virtio_blk";
	char path[128];
	uint64_t deadline;
	int res = 0, fd;

	pthread_mutex_lock(&run->lock);
	while (run->operations < after && run->finished < threads)
		pthread_cond_wait(&run->changed, &run->lock);
	pthread_mutex_unlock(&run->lock);

	snprintf(path, sizeof(path), "%s/unbind", driver);
	if (write_file(path, device))
		res = fail("unbind %s: %s", device, strerror(errno));
	pthread_mutex_lock(&run->lock);
	while (!res && run->parked + run->finished < threads)
		pthread_cond_wait(&run->changed, &run->lock);
	pthread_mutex_unlock(&run->lock);
	snprintf(path, sizeof(path), "%s/bind", driver);
	if (!res && write_file(path, device))
		res = fail("bind %s: %s", device, strerror(errno));
	for (deadline = now_ms() + REAPPEAR_MS; !res;) {
		fd = disk_open(run->disk, O_RDONLY);
		if (fd >= 0) {
			close(fd);
			break;
		}
		if (now_ms() > deadline)
			res = fail("%s does not come back", run->disk);
		usleep(1000);
	}
	pthread_mutex_lock(&run->lock);
	run->bound++;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	return res;
}

static int unbind_all(struct run *run, unsigned threads, unsigned operations, unsigned times)
{
	char path[64], target[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/block/%s/device", run->disk);
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return fail("%s: %s", path, strerror(errno));
	target[n] = 0;
	for (unsigned i = 1; i <= times; i++)
		if (unbind_once(run, strrchr(target, '/') + 1, threads,
				threads * operations * i / (times + 1)))
			return -1;
	return 0;
}

static int worker_new(struct worker *w, uint64_t seed)
{
	w->random = seed * 1000003 + w->id + 1;
	w->expected = calloc(w->sectors, sizeof(*w->expected));
	if (!w->expected || posix_memalign((void **)&w->buf, 4096, IO_MAX_BYTES + SLACK_BYTES))
		return fail("out of memory");
	w->fd = disk_open(w->run->disk, O_RDWR | O_DIRECT);
	if (w->fd < 0)
		return fail("open %s: %s", w->run->disk, strerror(errno));
	return 0;
}

static void say_digest(const struct run *run, const struct worker *workers, unsigned threads)
{
	uint64_t digest = 0, index = 1;

	for (unsigned t = 0; t < threads; t++)
		for (uint64_t i = 0; i < workers[t].sectors; i++)
			digest += workers[t].expected[i] * index++;
	say("digest %s %016llx operations=%u", run->disk, (unsigned long long)digest,
	    run->operations);
}

int cmd_blkio(const struct args *args)
{
	static struct worker workers[THREADS_MAX];
	struct run run = {.disk = args->n ? args->v[0] : "vda",
			  .lock = PTHREAD_MUTEX_INITIALIZER,
			  .changed = PTHREAD_COND_INITIALIZER};
	uint64_t start = arg_number(args, 1, 0) / SECTOR, length = arg_number(args, 2, 16 << 20);
	unsigned threads = (unsigned)arg_number(args, 3, 1);
	unsigned operations = (unsigned)arg_number(args, 4, 100);
	unsigned unbinds = (unsigned)arg_number(args, 6, 0);
	int fd = disk_open(run.disk, O_RDONLY), res = 0;

	if (fd < 0 || ioctl(fd, BLKSSZGET, &run.block))
		return fail("%s: %s", run.disk, strerror(errno));
	close(fd);
	if (!threads || threads > THREADS_MAX)
		return fail("%u threads", threads);
	run.unbinding = unbinds > 0;
	for (unsigned t = 0; t < threads; t++) {
		uint64_t part = length / threads / run.block * run.block / SECTOR;

		workers[t] = (struct worker){.run = &run,
					     .id = t,
					     .operations = operations,
					     .start = start + t * part,
					     .sectors = part};
		if (worker_new(&workers[t], arg_number(args, 5, 1)))
			return -1;
	}
	for (unsigned t = 0; t < threads; t++)
		if (pthread_create(&workers[t].thread, NULL, worker_main, &workers[t]))
			return fail("cannot start a thread");
	if (unbinds)
		res = unbind_all(&run, threads, operations, unbinds);
	for (unsigned t = 0; t < threads; t++)
		pthread_join(workers[t].thread, NULL);
	for (unsigned t = 0; t < threads; t++) {
		struct worker *w = &workers[t];

		run.unbinding = false; /* from here on, errors are errors */
		if (unbinds)
			w->fd = disk_open(run.disk, O_RDWR | O_DIRECT);
		if (w->error[0] || verify_all(w))
			res = fail("%s: thread %u: %s", run.disk, t, w->error);
		close(w->fd);
	}
	if (!res)
		say_digest(&run, workers, threads);
	for (unsigned t = 0; t < threads; t++) {
		free(workers[t].expected);
		free(workers[t].buf);
	}
	return res;
}

int cmd_blkverify(const struct args *args)
{
	uint64_t first = arg_number(args, 1, 0) / SECTOR,
		 count = arg_number(args, 2, 1 << 20) / SECTOR;
	const char *disk = args->n ? args->v[0] : "vda";
	int fd = disk_open(disk, O_RDONLY | O_DIRECT);
	uint64_t digest = 0;
	unsigned char *buf;

	if (fd < 0)
		return fail("%s: %s", disk, strerror(errno));
	if (posix_memalign((void **)&buf, 4096, IO_MAX_BYTES))
		return fail("out of memory");
	for (uint64_t done = 0; done < count;) {
		ssize_t n = pread(fd, buf, IO_MAX_BYTES, (off_t)((first + done) * SECTOR));

		if (n < SECTOR)
			return fail("read at sector %llu: %s", (unsigned long long)(first + done),
				    n < 0 ? strerror(errno) : "end of disk");
		for (ssize_t i = 0; i < n / SECTOR && done < count; i++, done++) {
			uint64_t tag = pattern_read(buf + i * SECTOR);

			if (tag == PATTERN_NOTHING || (tag && tag << 24 >> 24 != first + done))
				return fail("sector %llu holds %llx",
					    (unsigned long long)(first + done),
					    (unsigned long long)tag);
			digest += tag * (done + 1);
		}
	}
	close(fd);
	free(buf);
	say("verified %s %016llx", disk, (unsigned long long)digest);
	return 0;
}
