/*
 * The host side of a disk without a guest: requests to an image as fast as they go.
 *
 *   disk_bench OPTION... PATH       prints the nanoseconds of the run
 *
 *   format=raw|qcow2  op=read|write|open  size=BYTES  step=BYTES|random  depth=N  count=N
 *   flush=N (after every N requests)  direct=on  epoll=on
 *
 * The offsets are those of `qemu-img bench`: each request begins `step` behind the last one, from
 * the start again at the end of the disk; `random` is any multiple of the size. `open` opens and
 * closes the image instead, `count` times.
 */
#include "base/checked.h"
#include "base/loop.h"
#include "disk/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 256

struct options {
	struct image_opts image;
	bool is_open, is_write, is_random;
	uint64_t size, step, depth, count, flush;
	enum loop_backend backend;
};

struct bench;

struct slot {
	struct image_req req;
	struct iovec iov;
	struct bench *b;
};

struct bench {
	struct options o;
	struct loop *loop;
	struct image *img;
	uint64_t disk_bytes, offset, seed;
	uint64_t begun, ended;
	unsigned inflight, idle_slots;
	char *memory;
	struct slot slots[DEPTH_MAX];
	struct slot *idle[DEPTH_MAX];
	struct image_req flush_req;
	bool flushing;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "disk_bench: %s: %s\n", what, why);
	exit(1);
}

static void more(struct bench *b);

static uint64_t next_offset(struct bench *b)
{
	uint64_t at = b->offset;

	if (b->o.is_random) {
		b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
		return (b->seed >> 20) % (b->disk_bytes / b->o.size) * b->o.size;
	}
	if (at > b->disk_bytes - b->o.size)
		at = 0;
	b->offset = (at + b->o.step) % b->disk_bytes;
	return at;
}

static void slot_done(struct image_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct bench *b = s->b;

	if (res)
		die(b->o.image.path, strerror(-res));
	b->inflight--;
	b->ended++;
	b->idle[b->idle_slots++] = s;
	more(b);
}

static void flush_done(struct image_req *req, int res)
{
	struct bench *b = container_of(req, struct bench, flush_req);

	if (res)
		die(b->o.image.path, strerror(-res));
	b->flushing = false;
	more(b);
}

/* As qemu-img bench has it: a flush waits for what came before, and what follows for the flush. */
static bool flush_is_due(struct bench *b)
{
	if (!b->o.flush || !b->begun || b->begun % b->o.flush ||
	    b->flush_req.offset_bytes == b->begun)
		return false;
	if (b->inflight)
		return true;
	/* a flush has no offset: it remembers when it was made */
	b->flush_req =
	    (struct image_req){.op = IMAGE_FLUSH, .offset_bytes = b->begun, .done = flush_done};
	b->flushing = true;
	image_submit(b->img, &b->flush_req);
	return true;
}

static void more(struct bench *b)
{
	while (!b->flushing && b->idle_slots && b->begun < b->o.count) {
		struct slot *s;

		if (flush_is_due(b))
			return;
		s = b->idle[--b->idle_slots];
		s->req.offset_bytes = next_offset(b);
		b->begun++;
		b->inflight++;
		image_submit(b->img, &s->req);
	}
	if (b->ended == b->o.count)
		loop_stop(b->loop);
}

static void prepare(struct bench *b)
{
	void *mem;

	/* all in one piece, as qemu-img bench has it: large pages make direct I/O cheaper */
	if (posix_memalign(&mem, 4096, b->o.depth * b->o.size))
		die(b->o.image.path, "no memory");
	memset(mem, 0xa5, b->o.depth * b->o.size);
	b->memory = mem;
	for (unsigned i = 0; i < b->o.depth; i++) {
		struct slot *s = &b->slots[i];

		s->b = b;
		s->iov = (struct iovec){b->memory + i * b->o.size, b->o.size};
		s->req = (struct image_req){.op = b->o.is_write ? IMAGE_WRITE : IMAGE_READ,
					    .len_bytes = b->o.size,
					    .iov = &s->iov,
					    .niov = 1,
					    .done = slot_done};
		b->idle[b->idle_slots++] = s;
	}
}

static void open_image(struct bench *b)
{
	struct err err = ERR_INIT;

	if (image_open(&b->o.image, &b->img, &err))
		die("open", err.msg);
}

static uint64_t transfer(struct bench *b)
{
	struct err err = ERR_INIT;
	uint64_t start;

	if (loop_new(&(struct loop_opts){.backend = b->o.backend}, &b->loop, &err))
		die("loop", err.msg);
	open_image(b);
	if (image_attach(b->img, b->loop, &err))
		die("attach", err.msg);
	b->disk_bytes = image_info(b->img)->size_bytes;
	if (b->disk_bytes < b->o.size)
		die(b->o.image.path, "smaller than one request");
	prepare(b);
	start = loop_now_ns();
	more(b);
	if (loop_run(b->loop))
		die(b->o.image.path, "the loop failed");
	start = loop_now_ns() - start;
	image_detach(b->img);
	image_close(b->img);
	loop_free(b->loop);
	free(b->memory);
	return start;
}

static uint64_t reopen(struct bench *b)
{
	uint64_t start = loop_now_ns();

	for (uint64_t i = 0; i < b->o.count; i++) {
		open_image(b);
		image_close(b->img);
	}
	return loop_now_ns() - start;
}

static void parse(struct options *o, const char *arg)
{
	const char *v = strchr(arg, '=');
	size_t n = v ? (size_t)(v - arg) : 0;

	if (!v) {
		o->image.path = arg;
		return;
	}
	v++;
	if (!strncmp(arg, "format=", n + 1) && !image_format_parse(v, &o->image.format))
		return;
	if (!strncmp(arg, "op=", n + 1)) {
		o->is_write = !strcmp(v, "write");
		o->is_open = !strcmp(v, "open");
	} else if (!strncmp(arg, "size=", n + 1)) {
		o->size = strtoull(v, NULL, 0);
	} else if (!strncmp(arg, "step=", n + 1)) {
		o->is_random = !strcmp(v, "random");
		o->step = strtoull(v, NULL, 0);
	} else if (!strncmp(arg, "depth=", n + 1)) {
		o->depth = strtoull(v, NULL, 0);
	} else if (!strncmp(arg, "count=", n + 1)) {
		o->count = strtoull(v, NULL, 0);
	} else if (!strncmp(arg, "flush=", n + 1)) {
		o->flush = strtoull(v, NULL, 0);
	} else if (!strncmp(arg, "direct=", n + 1)) {
		o->image.direct = !strcmp(v, "on");
	} else if (!strncmp(arg, "epoll=", n + 1)) {
		o->backend = !strcmp(v, "on") ? LOOP_EPOLL : LOOP_AUTO;
	} else {
		die("unknown option", arg);
	}
}

int main(int argc, char **argv)
{
	static struct bench b = {.o = {.size = 4096, .step = 4096, .depth = 1, .count = 1}};

	for (int i = 1; i < argc; i++)
		parse(&b.o, argv[i]);
	if (!b.o.image.path || !b.o.size || !b.o.count || !b.o.depth || b.o.depth > DEPTH_MAX)
		die("usage", "disk_bench OPTION... PATH, see the source");
	b.o.image.read_only = !b.o.is_write;
	b.o.image.backing = true;
	printf("%llu\n", (unsigned long long)(b.o.is_open ? reopen(&b) : transfer(&b)));
	return 0;
}
