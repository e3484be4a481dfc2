/* disk/raw: a failing host, and a long random run against a flat model, in every mode. */
#include "tests/unit/raw_fixture.h"

/*
 * A scenario of everything, whose n-th I/O operation fails. Each request either succeeds and did
 * what it should, or fails with just that error; afterwards the image works on.
 */

struct outcome {
	int res[7];
	unsigned failed;
};

static struct outcome scenario(struct fixture *f)
{
	struct outcome o = {0};
	char out[196608], in[sizeof(out)];
	struct iovec v = {out + 1, sizeof(out) - 4096}; /* unaligned: three bounces */
	size_t len = v.iov_len;

	fill_random(out, sizeof(out), 9);
	memset(in, 0, sizeof(in));
	o.res[0] = run_iov(f, IMAGE_WRITE, 0, 8192, len, &v, 1);
	o.res[1] = run_op(f, IMAGE_FLUSH, 0, 0, 0);
	v.iov_base = in + 1;
	o.res[2] = run_iov(f, IMAGE_READ, 0, 8192, len, &v, 1);
	if (!o.res[0] && !o.res[2])
		assert_memory_equal(in + 1, out + 1, len);
	o.res[3] = run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, 8192, 65536);
	o.res[4] = run_op(f, IMAGE_DISCARD, 0, MIB, MIB);
	v = (struct iovec){out, 4096};
	o.res[5] = run_iov(f, IMAGE_WRITE, IMAGE_FUA, 0, 4096, &v, 1);
	v = (struct iovec){in, 8192 + 65536};
	o.res[6] = run_iov(f, IMAGE_READ, 0, 0, 8192 + 65536, &v, 1);
	if (!o.res[5] && !o.res[6])
		assert_memory_equal(in, out, 4096);
	if (!o.res[3] && !o.res[6]) {
		for (size_t i = 8192; i < 8192 + 65536; i++)
			assert_int_equal(in[i], 0);
	}
	for (int i = 0; i < 7; i++)
		o.failed += o.res[i] != 0;
	return o;
}

/* Runs it with each operation failing in turn; returns how many operations there are. */
static unsigned at_every_operation(struct fixture *f, int errnum, bool is_fatal)
{
	for (unsigned n = 1;; n++) {
		struct err err = ERR_INIT;
		struct outcome o;
		bool hit;

		/* fresh: a failed flush is remembered as long as the image is open */
		fixture_close(f);
		assert_int_equal(fixture_open(f, (struct image_opts){0}, &err), 0);
		image_inject_fault(f->img, n, errnum);
		o = scenario(f);
		image_inject_fault(f->img, 0, 0);
		for (int i = 0; i < 7; i++)
			assert_true(!o.res[i] || o.res[i] == -errnum);
		hit = o.failed > 0;
		if (!is_fatal) {
			assert_false(hit);
			if (n == 40) /* more than there are operations */
				return n;
			continue;
		}
		if (!hit)
			return n - 1;
		/* one request, or with a failed flush also the next that flushes */
		assert_int_equal(o.failed, o.res[1] ? 2 : 1);
	}
}

static void each_operation_fails(void **state)
{
	struct fixture *f = fixture_of(state);
	unsigned n = at_every_operation(f, EIO, true);

	assert_in_range(n, 7, 20);
	assert_int_equal(at_every_operation(f, ENOSPC, true), n);
}

static void each_operation_is_interrupted_or_cut_short(void **state)
{
	struct fixture *f = fixture_of(state);

	at_every_operation(f, EINTR, false);
	at_every_operation(f, EAGAIN, false);
	at_every_operation(f, 0, false);
}

/* Data that the host lost must never be covered by a flush that succeeds. */
static void failed_flush_is_not_forgotten(void **state)
{
	enum { N = 6 };
	struct fixture *f = fixture_of(state);
	struct waited w[N];
	struct err err = ERR_INIT;
	char b[4096] = "x";
	struct iovec v = {b, sizeof(b)};
	int left = N;

	image_inject_fault(f->img, 1, EIO);
	for (int i = 0; i < N; i++) {
		w[i] = waited_new(f, IMAGE_FLUSH, 0, 0, NULL, 0);
		w[i].left = &left;
		image_submit(f->img, &w[i].req);
	}
	assert_int_equal(loop_run(f->loop), 0);
	for (int i = 0; i < N; i++)
		assert_int_equal(w[i].res, -EIO); /* all that waited, not only the first */

	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), -EIO);
	assert_int_equal(run_iov(f, IMAGE_WRITE, IMAGE_FUA, 0, sizeof(b), &v, 1), -EIO);
	assert_int_equal(run_write(f, b, 0, sizeof(b)), 0); /* promises nothing */
	assert_int_equal(run_read(f, b, 0, sizeof(b)), 0);

	fixture_close(f);
	assert_int_equal(fixture_open(f, (struct image_opts){0}, &err), 0);
	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
}

static void endless_interruption_ends(void **state)
{
	struct fixture *f = fixture_of(state);
	struct waited w = waited_new(f, IMAGE_WRITE, 0, 4096, NULL, 0);
	char b[4096] = "";
	struct iovec v = {b, sizeof(b)};

	w.req.iov = &v;
	w.req.niov = 1;
	image_inject_fault(f->img, 1, EAGAIN);
	image_submit(f->img, &w.req);
	/* one more in every round: no request may go round for ever */
	for (int i = 0; i < 1000 && !w.calls; i++) {
		image_inject_fault(f->img, 1, EAGAIN);
		loop_stop(f->loop);
		assert_int_equal(loop_run(f->loop), 0);
	}
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.res, -EAGAIN);
	image_inject_fault(f->img, 0, 0);
}

/*
 * The model: the disk as one array. Requests in flight never overlap, so that the model is exact;
 * a discarded block may be old or zero until it is written.
 */

#define BLOCK	   4096u
#define BLOCKS	   ((unsigned)(DISK_BYTES / BLOCK))
#define SLOTS	   24
#define MAX_BLOCKS 40u
#define REQUESTS   6000

struct torture;

struct slot {
	struct image_req req;
	struct torture *t;
	bool busy;
	unsigned first, count;
	uint8_t *mem;
	struct iovec iov[8];
};

struct torture {
	struct fixture *f;
	uint64_t seed;
	uint8_t *model;
	bool *maybe; /* block: old data or zeroes */
	bool *taken; /* block: of a request in flight */
	struct slot slots[SLOTS];
	unsigned begun, ended;
};

static void torture_more(struct torture *t);

/* Cuts the memory into a few pieces at random places. */
static unsigned cut(struct torture *t, struct slot *s, size_t len)
{
	unsigned n = 1 + next_random(&t->seed) % ARRAY_LEN(s->iov);
	size_t at = 0, align = next_random(&t->seed) % 2 ? 1 : 512;

	for (unsigned i = 0; i < n; i++) {
		size_t piece = i == n - 1 ? len - at : next_random(&t->seed) % (len - at + 1);

		if (i < n - 1)
			piece = align_down(piece, align);
		s->iov[i] = (struct iovec){s->mem + at, piece};
		at += piece;
	}
	return n;
}

static bool is_zero(const uint8_t *b, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (b[i])
			return false;
	}
	return true;
}

static void check_block(struct torture *t, unsigned block, const uint8_t *got)
{
	uint8_t *want = t->model + (size_t)block * BLOCK;

	if (t->maybe[block] && is_zero(got, BLOCK)) {
		memset(want, 0, BLOCK);
		t->maybe[block] = false;
		return;
	}
	assert_memory_equal(got, want, BLOCK);
}

static void slot_done(struct image_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);
	struct torture *t = s->t;

	assert_true(s->busy);
	assert_int_equal(res, 0);
	for (unsigned i = 0; i < s->count; i++) {
		t->taken[s->first + i] = false;
		if (req->op == IMAGE_READ)
			check_block(t, s->first + i, s->mem + (size_t)i * BLOCK);
	}
	s->busy = false;
	t->ended++;
	torture_more(t);
	if (t->ended == REQUESTS)
		loop_stop(t->f->loop);
}

static bool take_range(struct torture *t, struct slot *s)
{
	s->count = 1 + next_random(&t->seed) % MAX_BLOCKS;
	s->first = next_random(&t->seed) % (BLOCKS - s->count + 1);
	for (unsigned i = 0; i < s->count; i++) {
		if (t->taken[s->first + i])
			return false;
	}
	for (unsigned i = 0; i < s->count; i++)
		t->taken[s->first + i] = true;
	return true;
}

static void slot_submit(struct torture *t, struct slot *s)
{
	static const enum image_op ops[] = {
	    IMAGE_READ,	 IMAGE_READ,  IMAGE_READ,    IMAGE_WRITE,	 IMAGE_WRITE,
	    IMAGE_WRITE, IMAGE_FLUSH, IMAGE_DISCARD, IMAGE_WRITE_ZEROES,
	};
	size_t len = (size_t)s->count * BLOCK;
	uint8_t *model = t->model + (size_t)s->first * BLOCK;
	enum image_op op = ops[next_random(&t->seed) % ARRAY_LEN(ops)];

	s->req = (struct image_req){
	    .op = op,
	    .flags = next_random(&t->seed) % 8 ? 0 : IMAGE_FUA,
	    .offset_bytes = (uint64_t)s->first * BLOCK,
	    .len_bytes = len,
	    .iov = s->iov,
	    .niov = cut(t, s, len),
	    .done = slot_done,
	};
	if (op == IMAGE_WRITE) {
		fill_random(s->mem, len, t->seed);
		memcpy(model, s->mem, len);
	} else if (op == IMAGE_WRITE_ZEROES) {
		s->req.flags |= next_random(&t->seed) % 2 ? IMAGE_MAY_UNMAP : 0;
		memset(model, 0, len);
	}
	for (unsigned i = 0; i < s->count; i++) {
		if (op == IMAGE_DISCARD)
			t->maybe[s->first + i] = true;
		else if (op == IMAGE_WRITE || op == IMAGE_WRITE_ZEROES)
			t->maybe[s->first + i] = false;
	}
	s->busy = true;
	t->begun++;
	/* the host fails now and then in ways that no guest may notice */
	if (next_random(&t->seed) % 4 == 0)
		image_inject_fault(t->f->img, 1 + next_random(&t->seed) % 3,
				   (int[]){0, EINTR, EAGAIN}[next_random(&t->seed) % 3]);
	image_submit(t->f->img, &s->req);
}

static void torture_more(struct torture *t)
{
	for (unsigned i = 0; i < SLOTS && t->begun < REQUESTS; i++) {
		if (!t->slots[i].busy && take_range(t, &t->slots[i]))
			slot_submit(t, &t->slots[i]);
	}
}

static void torture_against_a_model(void **state)
{
	struct fixture *f = fixture_of(state);
	struct torture *t = calloc(1, sizeof(*t));
	uint8_t *mem = malloc((SLOTS + 1) * (MAX_BLOCKS + 1) * BLOCK), *file = malloc(DISK_BYTES);
	const char *seed = getenv("TEST_SEED");

	t->f = f;
	t->seed = seed ? strtoull(seed, NULL, 0) : 20240229;
	t->model = calloc(1, DISK_BYTES);
	t->maybe = calloc(BLOCKS, sizeof(*t->maybe));
	t->taken = calloc(BLOCKS, sizeof(*t->taken));
	for (unsigned i = 0; i < SLOTS; i++) {
		t->slots[i].t = t;
		t->slots[i].mem = mem + (size_t)i * (MAX_BLOCKS + 1) * BLOCK;
	}
	torture_more(t);
	assert_int_equal(loop_run(f->loop), 0);
	assert_int_equal(t->ended, REQUESTS);
	image_inject_fault(f->img, 0, 0);

	assert_int_equal(run_op(f, IMAGE_FLUSH, 0, 0, 0), 0);
	file_read(f->path, file, DISK_BYTES, 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		check_block(t, i, file + (size_t)i * BLOCK);
	free(t->model);
	free(t->maybe);
	free(t->taken);
	free(t);
	free(mem);
	free(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ALL_MODES(each_operation_fails),
	    ALL_MODES(each_operation_is_interrupted_or_cut_short),
	    ALL_MODES(failed_flush_is_not_forgotten),
	    ALL_MODES(endless_interruption_ends),
	    ALL_MODES(torture_against_a_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
