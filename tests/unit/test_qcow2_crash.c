/*
 * disk/qcow2: the host dies between any two writes.
 *
 * What the driver does to the file is recorded between it and the raw driver. Then the file is put
 * together again as it may be found after a crash: everything up to a flush, and any selection of
 * what came after it, in any order. Each time the image opens, is not corrupt, and holds what was
 * flushed.
 */
#include "disk/qcow2/qcow2_priv.h"
#include "tests/unit/qcow2_fixture.h"

#define CLUSTER	   4096u
#define CLUSTERS   96u
#define EVENTS_MAX 20000
#define SEEDS	   4

enum kind { EV_WRITE, EV_ZERO, EV_FLUSH_END, EV_MARK };

struct event {
	enum kind kind;
	uint64_t offset;
	size_t len;
	uint8_t *data;
};

static struct event *events;
static unsigned nevents;
static uint8_t marks[64][CLUSTERS]; /* contents that are durable from each mark on */
static bool touched[64][CLUSTERS];  /* written again after the mark, before the next */
static unsigned nmarks;

static struct image_driver recorder;

static struct event *record(enum kind kind, uint64_t offset, size_t len)
{
	struct event *e = &events[nevents++];

	assert_true(nevents < EVENTS_MAX);
	*e = (struct event){.kind = kind, .offset = offset, .len = len};
	return e;
}

/* A write is recorded when it is submitted: from then on any part of it may be on the disk. */
static void recorder_submit(struct image *img, struct image_req *req)
{
	struct event *e;
	size_t at = 0;

	if (req->op == IMAGE_WRITE) {
		e = record(EV_WRITE, req->offset_bytes, req->len_bytes);
		e->data = malloc(req->len_bytes);
		for (unsigned i = 0; i < req->niov; i++) {
			memcpy(e->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
			at += req->iov[i].iov_len;
		}
	} else if (req->op == IMAGE_DISCARD || req->op == IMAGE_WRITE_ZEROES) {
		record(EV_ZERO, req->offset_bytes, req->len_bytes);
	} else if (req->op == IMAGE_FLUSH) {
		/* one request at a time is made below, so nothing but data that nobody refers to
		 * can be in flight here */
		record(EV_FLUSH_END, 0, 0);
	}
	image_raw_driver.submit(img, req);
}

/* `unknown`: discarded, may be old or zero. */
static void mark(const uint8_t *contents, const bool *unknown)
{
	record(EV_MARK, nmarks, 0);
	memcpy(touched[nmarks], unknown, CLUSTERS);
	memcpy(marks[nmarks++], contents, CLUSTERS);
}

static void work(struct fixture *f, uint64_t seed)
{
	uint8_t now[CLUSTERS] = {0}, *buf = malloc(16 * CLUSTER);
	bool unknown[CLUSTERS] = {0};

	mark(now, unknown);
	for (unsigned i = 0; i < 60; i++) {
		unsigned n = 1 + next_random(&seed) % 12,
			 first = next_random(&seed) % (CLUSTERS - n);
		unsigned what = next_random(&seed) % 10;
		uint8_t value = (uint8_t)next_random(&seed);

		memset(touched[nmarks - 1] + first, true, n);
		if (what < 6) {
			memset(buf, value, n * CLUSTER);
			assert_int_equal(run_write(f, buf, first * CLUSTER, n * CLUSTER), 0);
			memset(now + first, value, n);
			memset(unknown + first, false, n);
		} else if (what < 8) {
			assert_int_equal(run_op(f, IMAGE_WRITE_ZEROES,
						what & 1 ? IMAGE_MAY_UNMAP : 0, first * CLUSTER,
						n * CLUSTER),
					 0);
			memset(now + first, 0, n);
			memset(unknown + first, false, n);
		} else if (what < 9) {
			assert_int_equal(run_op(f, IMAGE_DISCARD, 0, first * CLUSTER, n * CLUSTER),
					 0);
			memset(unknown + first, true, n);
		}
		if (next_random(&seed) % 4 == 0 && nmarks < 60) {
			assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
			mark(now, unknown);
		}
	}
	free(buf);
}

static void apply(int fd, const struct event *e)
{
	static const uint8_t zeroes[CLUSTER];

	if (e->kind == EV_WRITE)
		assert_int_equal(pwrite(fd, e->data, e->len, (off_t)e->offset), e->len);
	for (size_t at = 0; e->kind == EV_ZERO && at < e->len; at += CLUSTER)
		(void)!pwrite(fd, zeroes, MIN(e->len - at, CLUSTER), (off_t)(e->offset + at));
}

/* Events [0, flushed) are on the disk; of those up to `cut` a selection is, in any order. */
static void check_cut(struct fixture *f, const char *base, unsigned flushed, unsigned cut,
		      int last_mark, uint64_t *seed)
{
	char cmd[600];
	uint8_t buf[CLUSTER];
	unsigned order[256], n = 0;
	int fd;

	snprintf(cmd, sizeof(cmd), "cp --sparse=always %s %s", base, f->path);
	assert_int_equal(system(cmd), 0);
	fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < flushed; i++)
		apply(fd, &events[i]);
	for (unsigned i = flushed; i < cut && n < ARRAY_LEN(order); i++) {
		if (next_random(seed) % 3)
			order[n++] = i;
	}
	for (unsigned i = n; i > 1; i--) {
		unsigned k = next_random(seed) % i, t = order[i - 1];

		order[i - 1] = order[k];
		order[k] = t;
	}
	for (unsigned i = 0; i < n; i++)
		apply(fd, &events[order[i]]);
	close(fd);

	qcow2_assert_sound(f, true);
	qcow2_open(f, (struct image_opts){0});
	for (unsigned i = 0; last_mark >= 0 && i < CLUSTERS; i++) {
		if (touched[last_mark][i])
			continue;
		assert_int_equal(run_read(f, buf, i * CLUSTER, CLUSTER), 0);
		for (unsigned k = 0; k < CLUSTER; k++) {
			if (buf[k] != marks[last_mark][i])
				fail_msg("cut %u after %u: cluster %u is %u, not %u", cut, flushed,
					 i, buf[k], marks[last_mark][i]);
		}
	}
	fixture_close(f);
}

static void every_cut(struct fixture *f, struct qcow2_create_opts o, uint64_t seed)
{
	struct image_driver *const shim = &recorder;
	char base[300];
	char cmd[700];
	unsigned flushed = 0;
	int last_mark = -1;

	events = calloc(EVENTS_MAX, sizeof(*events));
	nevents = nmarks = 0;
	memset(touched, 0, sizeof(touched));
	qcow2_make(f, o);
	snprintf(base, sizeof(base), "%s/base", f->dir);
	snprintf(cmd, sizeof(cmd), "cp --sparse=always %s %s", f->path, base);
	assert_int_equal(system(cmd), 0);

	qcow2_open(f, (struct image_opts){.cache_bytes = 1});
	recorder = image_raw_driver;
	recorder.submit = recorder_submit;
	qcow2_of(f->img)->file.img->driver = shim;
	work(f, seed);
	qcow2_of(f->img)->file.img->driver = &image_raw_driver;
	fixture_close(f);

	for (unsigned i = 0; i < nevents; i++) {
		if (events[i].kind == EV_MARK)
			last_mark = (int)events[i].offset;
		if (events[i].kind == EV_FLUSH_END)
			flushed = i;
		check_cut(f, base, flushed, i + 1, last_mark, &seed);
	}
	for (unsigned i = 0; i < nevents; i++)
		free(events[i].data);
	free(events);
}

static void standard_clusters(void **state)
{
	struct qcow2_create_opts o = {.size_bytes = CLUSTERS * CLUSTER, .cluster_bytes = CLUSTER};

	for (uint64_t seed = 1; seed <= SEEDS; seed++)
		every_cut(*state, o, seed);
}

static void tiny_clusters_and_tables(void **state)
{
	struct qcow2_create_opts o = {
	    .size_bytes = CLUSTERS * CLUSTER, .cluster_bytes = 512, .refcount_bits = 64};

	every_cut(*state, o, 21);
}

static void subclusters(void **state)
{
	struct qcow2_create_opts o = {
	    .size_bytes = CLUSTERS * CLUSTER, .cluster_bytes = 16384, .extended_l2 = true};

	every_cut(*state, o, 31);
	every_cut(*state, o, 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(standard_clusters),
	    QCOW2_TEST(tiny_clusters_and_tables),
	    QCOW2_TEST(subclusters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
