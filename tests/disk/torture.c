/*
 * A qcow2 image under random requests, many at a time, against a flat model.
 *
 *   torture DIR SEED REQUESTS [epoll] [direct]
 *
 * makes DIR/top.qcow2, its backing files, and DIR/model.raw.
 *
 * Everything follows from the seed: cluster size, version, refcount width, subclusters, the chain
 * below, the size of the cache. Now and then the image is closed, checked, perhaps grown, and
 * opened again. At the end DIR/model.raw holds what the disk must read as; tests/disk/run has
 * qemu-img judge.
 *
 * Requests in flight never overlap, so that the model is exact; a discarded sector may be old or
 * zero until it is written.
 */
#include "base/checked.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/image.h"
#include "disk/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS	  24
#define DISK_MAX  (48 * MIB)
#define SECTOR	  IMAGE_SECTOR_BYTES
#define DEPTH_MAX 3
#define REOPENS	  6

#define REQUIRE(cond, ...)                                       \
	do {                                                     \
		if (!(cond)) {                                   \
			fprintf(stderr, "torture: %s: ", #cond); \
			fprintf(stderr, __VA_ARGS__);            \
			fputc('\n', stderr);                     \
			exit(1);                                 \
		}                                                \
	} while (0)

struct slot {
	struct image_req req;
	struct torture *t;
	bool busy;
	uint64_t first, count; /* sectors */
	uint8_t *mem;
	struct iovec iov[8];
};

struct torture {
	uint64_t seed;
	const char *dir;
	char path[512];
	struct qcow2_create_opts opts;
	uint64_t cache_bytes;
	unsigned depth;
	uint64_t size;
	struct loop *loop;
	struct image *img;
	uint8_t *model;
	uint8_t *maybe, *taken; /* by sector */
	struct slot slots[SLOTS];
	uint64_t begun, ended, goal;
	uint64_t max_sectors;
	bool no_faults;
	bool direct;
	struct loop_opts loop_opts;
};

static void more(struct torture *t);

static uint32_t rnd(struct torture *t)
{
	t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(t->seed >> 33);
}

static bool is_zero(const uint8_t *b)
{
	for (size_t i = 0; i < SECTOR; i++) {
		if (b[i])
			return false;
	}
	return true;
}

static void check_sector(struct torture *t, uint64_t sector, const uint8_t *got)
{
	uint8_t *want = t->model + sector * SECTOR;

	if (t->maybe[sector] && is_zero(got)) {
		memset(want, 0, SECTOR);
		t->maybe[sector] = 0;
		return;
	}
	REQUIRE(!memcmp(got, want, SECTOR),
		"sector %llu of %llu differs (request %llu): is %02x%02x, not %02x%02x",
		(unsigned long long)sector, (unsigned long long)(t->size / SECTOR),
		(unsigned long long)t->ended, got[0], got[1], want[0], want[1]);
}

static void slot_done(struct image_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct torture *t = s->t;

	REQUIRE(!res, "request %d at %llu + %llu: %s", req->op,
		(unsigned long long)req->offset_bytes, (unsigned long long)req->len_bytes,
		strerror(-res));
	for (uint64_t i = 0; i < s->count; i++) {
		t->taken[s->first + i] = 0;
		if (req->op == IMAGE_READ)
			check_sector(t, s->first + i, s->mem + i * SECTOR);
	}
	s->busy = false;
	t->ended++;
	more(t);
	if (t->ended == t->goal)
		loop_stop(t->loop);
}

static bool take(struct torture *t, struct slot *s)
{
	uint64_t sectors = t->size / SECTOR, kind = rnd(t) % 8;
	uint64_t align = kind < 3 ? qcow2_cluster_bytes(t->img) / SECTOR : kind < 5 ? 8 : 1;

	s->count = 1 + rnd(t) % (kind == 7 ? t->max_sectors : MIN(t->max_sectors, 4 * align + 8));
	s->count = MIN(align_up(s->count, align), t->max_sectors);
	s->count = MIN(s->count, sectors);
	s->first = rnd(t) % (sectors - s->count + 1);
	if (rnd(t) % 16)
		s->first = MIN(align_down(s->first, align), sectors - s->count);
	else
		s->first = sectors - s->count; /* the end of the disk */
	for (uint64_t i = 0; i < s->count; i++) {
		if (t->taken[s->first + i])
			return false;
	}
	memset(t->taken + s->first, 1, s->count);
	return true;
}

static unsigned cut(struct torture *t, struct slot *s, size_t len)
{
	unsigned n = 1 + rnd(t) % ARRAY_LEN(s->iov);
	size_t at = 0;

	for (unsigned i = 0; i < n; i++) {
		size_t piece = i == n - 1 ? len - at : rnd(t) % (len - at + 1);

		s->iov[i] = (struct iovec){s->mem + at, piece};
		at += piece;
	}
	return n;
}

static void submit(struct torture *t, struct slot *s)
{
	static const enum image_op ops[] = {IMAGE_READ,	 IMAGE_READ,	IMAGE_READ,
					    IMAGE_WRITE, IMAGE_WRITE,	IMAGE_WRITE,
					    IMAGE_WRITE, IMAGE_DISCARD, IMAGE_WRITE_ZEROES};
	size_t len = (size_t)s->count * SECTOR;
	enum image_op op = rnd(t) % 40 ? ops[rnd(t) % ARRAY_LEN(ops)] : IMAGE_FLUSH;
	uint8_t *model = t->model + s->first * SECTOR;

	s->req = (struct image_req){.op = op,
				    .flags = rnd(t) % 50 ? 0 : IMAGE_FUA,
				    .offset_bytes = s->first * SECTOR,
				    .len_bytes = len,
				    .iov = s->iov,
				    .niov = cut(t, s, len),
				    .done = slot_done};
	if (op == IMAGE_WRITE) {
		uint32_t pattern = rnd(t) | 1;

		for (size_t i = 0; i < len; i += 4)
			memcpy(s->mem + i, &(uint32_t){pattern + (uint32_t)i}, 4);
		memcpy(model, s->mem, len);
	} else if (op == IMAGE_WRITE_ZEROES) {
		s->req.flags |= rnd(t) % 2 ? IMAGE_MAY_UNMAP : 0;
		memset(model, 0, len);
	}
	if (op == IMAGE_DISCARD)
		memset(t->maybe + s->first, 1, s->count);
	else if (op == IMAGE_WRITE || op == IMAGE_WRITE_ZEROES)
		memset(t->maybe + s->first, 0, s->count);
	s->busy = true;
	t->begun++;
	if (!t->no_faults && rnd(t) % 8 == 0)
		image_inject_fault(t->img, 1 + rnd(t) % 5, (int[]){0, EINTR, EAGAIN}[rnd(t) % 3]);
	image_submit(t->img, &s->req);
}

static void more(struct torture *t)
{
	for (unsigned i = 0; i < SLOTS && t->begun < t->goal; i++) {
		if (!t->slots[i].busy && take(t, &t->slots[i]))
			submit(t, &t->slots[i]);
	}
}

static void must(int r, const struct err *err)
{
	REQUIRE(!r, "%s", err->msg);
}

static void open_top(struct torture *t)
{
	struct image_opts o = {.path = t->path,
			       .format = IMAGE_QCOW2,
			       .backing = true,
			       .direct = t->direct,
			       .cache_bytes = t->cache_bytes};
	struct err err = ERR_INIT;

	must(image_open(&o, &t->img, &err), &err);
	must(image_attach(t->img, t->loop, &err), &err);
	REQUIRE(image_info(t->img)->size_bytes == t->size, "size");
}

static void print_problem(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "%s\n", line);
}

static void check_top(struct torture *t)
{
	struct qcow2_check_ops ops = {.problem = print_problem};
	struct qcow2_check_result res;
	struct err err = ERR_INIT;

	must(qcow2_check(t->path, 0, &ops, &res, &err), &err);
	REQUIRE(!res.corruptions && !res.leaks, "%llu corruptions, %llu leaks",
		(unsigned long long)res.corruptions, (unsigned long long)res.leaks);
}

static void close_top(struct torture *t)
{
	image_inject_fault(t->img, 0, 0);
	image_detach(t->img);
	image_close(t->img);
	t->img = NULL;
	check_top(t);
}

/* Requests up to `goal` in all. */
static void run(struct torture *t, uint64_t goal)
{
	open_top(t);
	t->goal = goal;
	more(t);
	if (t->ended < t->goal)
		REQUIRE(!loop_run(t->loop), "loop");
	REQUIRE(t->ended == t->goal, "%llu", (unsigned long long)t->ended);
	close_top(t);
}

static void grow(struct torture *t)
{
	uint64_t cluster = t->opts.cluster_bytes;
	uint64_t size = align_up(t->size, cluster) + rnd(t) % 16 * cluster + SECTOR * (rnd(t) % 9);
	struct err err = ERR_INIT;
	int r;

	size = MIN(size, DISK_MAX);
	if (size <= t->size)
		return;
	r = qcow2_resize(t->path, size, false, QCOW2_PREALLOC_OFF, NULL, &err);
	if (r == -ENOTSUP && t->opts.version == 2) /* the backing file would show: it is said */
		return;
	must(r, &err);
	memset(t->model + t->size, 0, size - t->size);
	memset(t->maybe + t->size / SECTOR, 0, (size - t->size) / SECTOR);
	t->size = size;
	check_top(t);
}

static void config(struct torture *t, bool top)
{
	struct qcow2_create_opts *o = &t->opts;
	unsigned bits = 9 + rnd(t) % 13;

	if (t->direct) /* no cluster is smaller than a block of any disk */
		bits = MAX(bits, 12u);

	*o = (struct qcow2_create_opts){.path = t->path, .has_size = true};
	o->version = rnd(t) % 4 ? 3 : 2;
	o->extended_l2 = o->version == 3 && rnd(t) % 3 == 0;
	if (o->extended_l2)
		bits = MAX(bits, t->direct ? 17u : 14u);
	o->cluster_bytes = 1u << bits;
	o->refcount_bits = o->version == 3 ? 1u << rnd(t) % 7 : 16;
	o->lazy_refcounts = o->version == 3 && rnd(t) % 4 == 0;
	o->compression = o->version == 3 && rnd(t) % 2 ? QCOW2_ZSTD : QCOW2_ZLIB;
	o->prealloc = rnd(t) % 5 ? QCOW2_PREALLOC_OFF : (enum qcow2_prealloc)(rnd(t) % 4);
	t->size = SECTOR * (1 + rnd(t) % ((bits < 12 ? 4 : bits < 18 ? 12 : 40) * MIB / SECTOR));
	t->max_sectors = MIN(2 * MIB, 64u << bits) / SECTOR;
	t->cache_bytes = rnd(t) % 2 ? 0 : 1;
	if (top)
		printf("seed: clusters of %u, version %u, refcounts %u, extl2 %d, size %llu, depth "
		       "%u, "
		       "prealloc %d, cache %llu\n",
		       o->cluster_bytes, o->version, o->refcount_bits, o->extended_l2,
		       (unsigned long long)t->size, t->depth, o->prealloc,
		       (unsigned long long)t->cache_bytes);
}

/* Some compressed clusters, where there is nothing yet. */
static void compress_some(struct torture *t)
{
	uint8_t *cluster = calloc(1, t->opts.cluster_bytes);
	uint64_t n = t->size / t->opts.cluster_bytes;
	struct image_opts o = {.path = t->path, .format = IMAGE_QCOW2, .backing = true};
	struct err err = ERR_INIT;
	struct image *img;

	must(image_open(&o, &img, &err), &err);
	for (unsigned i = 0; n && i < 40; i++) {
		uint64_t at = rnd(t) % n * t->opts.cluster_bytes;
		size_t noise = rnd(t) % t->opts.cluster_bytes;
		struct err full = ERR_INIT;
		int r;

		for (size_t k = 0; k < noise; k += 1 + rnd(t) % 8)
			cluster[k] = (uint8_t)rnd(t);
		r = qcow2_write_compressed(img, at, cluster, &full);
		if (r == -EEXIST)
			continue;
		must(r, &full);
		memcpy(t->model + at, cluster, t->opts.cluster_bytes);
	}
	image_close(img);
	free(cluster);
	check_top(t);
}

/* The model as a file of its own, to stand at the bottom or to be compared with. */
static void write_model(struct torture *t, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	REQUIRE(fd >= 0 && pwrite(fd, t->model, t->size, 0) == (ssize_t)t->size, "%s", path);
	close(fd);
}

static void settle(struct torture *t)
{
	uint8_t *all = malloc(t->size);
	struct slot s = {.t = t, .mem = all, .count = t->size / SECTOR};

	open_top(t);
	t->goal = t->ended + 1;
	t->begun = t->goal;
	s.iov[0] = (struct iovec){all, t->size};
	s.req = (struct image_req){
	    .op = IMAGE_READ, .len_bytes = t->size, .iov = s.iov, .niov = 1, .done = slot_done};
	image_submit(t->img, &s.req);
	REQUIRE(!loop_run(t->loop), "loop");
	close_top(t);
	free(all);
}

static void build_chain(struct torture *t, unsigned requests)
{
	char below[600] = "";
	struct err err = ERR_INIT;

	for (unsigned level = 0; level <= t->depth; level++) {
		bool top = level == t->depth;
		uint64_t old = t->size;

		snprintf(t->path, sizeof(t->path), "%s/%s.qcow2", t->dir,
			 top ? "top" : (char[2]){(char)('a' + level)});
		config(t, top);
		if (level) {
			t->opts.backing_path = below;
			t->opts.backing_format =
			    level == 1 && t->depth == DEPTH_MAX ? "raw" : "qcow2";
			t->opts.prealloc = QCOW2_PREALLOC_OFF;
			if (t->size > old) /* the backing file is shorter */
				memset(t->model + old, 0, t->size - old);
		}
		t->opts.size_bytes = t->size;
		must(qcow2_create(&t->opts, &err), &err);
		memset(t->maybe, 0, DISK_MAX / SECTOR);
		if (t->opts.prealloc == QCOW2_PREALLOC_OFF)
			compress_some(t);
		if (!top) {
			run(t, t->ended + requests);
			settle(t);
			if (!level && t->depth == DEPTH_MAX) {
				char raw[600];

				snprintf(raw, sizeof(raw), "%s/base.raw", t->dir);
				write_model(t, raw);
				snprintf(below, sizeof(below), "base.raw");
				continue;
			}
			snprintf(below, sizeof(below), "%c.qcow2", 'a' + level);
		}
	}
}

int main(int argc, char **argv)
{
	static struct torture t;
	struct err err = ERR_INIT;
	uint64_t requests;
	char model[600];

	REQUIRE(argc >= 4, "usage: torture DIR SEED REQUESTS [epoll] [direct]");
	t.loop_opts.entries = 8;
	for (int i = 4; i < argc; i++) {
		if (!strcmp(argv[i], "epoll"))
			t.loop_opts.backend = LOOP_EPOLL;
		else if (!strcmp(argv[i], "direct"))
			t.direct = true;
		else
			REQUIRE(false, "%s", argv[i]);
	}
	t.dir = argv[1];
	t.seed = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15u + 77;
	requests = strtoull(argv[3], NULL, 0);
	t.model = calloc(1, DISK_MAX + 4 * MIB);
	t.maybe = calloc(1, DISK_MAX / SECTOR);
	t.taken = calloc(1, DISK_MAX / SECTOR);
	for (unsigned i = 0; i < SLOTS; i++) {
		t.slots[i].t = &t;
		t.slots[i].mem = malloc(2 * MIB + 1);
	}
	must(loop_new(&t.loop_opts, &t.loop, &err), &err);
	for (int i = 0; i < 3; i++)
		rnd(&t);
	t.depth = rnd(&t) % (DEPTH_MAX + 1);
	build_chain(&t, 60);
	for (unsigned i = 0; i < REOPENS; i++) {
		run(&t, t.ended + requests / REOPENS);
		if (rnd(&t) % 2)
			grow(&t);
	}
	settle(&t);
	snprintf(model, sizeof(model), "%s/model.raw", t.dir);
	write_model(&t, model);
	loop_free(t.loop);
	free(t.model);
	free(t.maybe);
	free(t.taken);
	for (unsigned i = 0; i < SLOTS; i++)
		free(t.slots[i].mem);
	return 0;
}
