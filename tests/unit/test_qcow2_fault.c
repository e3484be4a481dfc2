/* disk/qcow2: each I/O operation of a scenario fails in turn. */
#include "tests/unit/qcow2_fixture.h"

#define CLUSTER 4096u
#define BYTES	(64 * CLUSTER)

/* What the disk must read as: a byte for each cluster, or unknown after a failure. */
struct model {
	int now[64];	 /* as it reads while it is open */
	int durable[64]; /* at the last flush that succeeded; -1: may be anything */
	bool changed[64];
	bool lost; /* a flush failed */
	unsigned failed;
};

enum { ANY = -1, OPERATIONS = 90 };

static void note(struct model *m, int res, int errnum, unsigned first, unsigned n, int value)
{
	if (res)
		assert_int_equal(res, -errnum);
	m->failed += res != 0;
	for (unsigned i = first; i < first + n; i++) {
		m->now[i] = res ? ANY : value;
		m->changed[i] = true;
	}
}

static void write_clusters(struct fixture *f, struct model *m, int errnum, unsigned first,
			   unsigned n, int value)
{
	uint8_t *buf = malloc(n * CLUSTER);

	memset(buf, value, n * CLUSTER);
	note(m, run_write(f, buf, first * CLUSTER, n * CLUSTER), errnum, first, n, value);
	free(buf);
}

static void flush(struct fixture *f, struct model *m, int errnum)
{
	int res = run_op(f, IMAGE_FLUSH, 0, 0, 0);

	if (res) {
		m->failed++;
		m->lost = true;
		assert_true(res == -errnum || res == -EIO);
		return;
	}
	for (unsigned i = 0; i < 64; i++) {
		m->durable[i] = m->now[i];
		m->changed[i] = false;
	}
}

static void scenario(struct fixture *f, struct model *m, int errnum)
{
	char small[512];

	memset(small, 9, sizeof(small));
	write_clusters(f, m, errnum, 0, 8, 1);
	flush(f, m, errnum);
	/* part of a cluster: the rest is zeroes */
	note(m, run_write(f, small, 20 * CLUSTER, sizeof(small)), errnum, 20, 1, ANY);
	write_clusters(f, m, errnum, 4, 8, 2);
	note(m, run_op(f, IMAGE_WRITE_ZEROES, IMAGE_MAY_UNMAP, 0, 2 * CLUSTER), errnum, 0, 2, 0);
	flush(f, m, errnum);
	note(m, run_op(f, IMAGE_DISCARD, 0, 4 * CLUSTER, 4 * CLUSTER), errnum, 4, 4, ANY);
	flush(f, m, errnum);
	write_clusters(f, m, errnum, 30, 20, 3);
	write_clusters(f, m, errnum, 0, 4, 4);
	note(m, run_op(f, IMAGE_WRITE_ZEROES, 0, 32 * CLUSTER, 4 * CLUSTER), errnum, 32, 4, 0);
	write_clusters(f, m, errnum, 33, 1, 5);
	flush(f, m, errnum);
}

static void check_contents(struct fixture *f, const int *want, const bool *skip)
{
	uint8_t buf[CLUSTER];

	for (unsigned i = 0; i < 64; i++) {
		if (want[i] == ANY || (skip && skip[i]))
			continue;
		assert_int_equal(run_read(f, buf, i * CLUSTER, CLUSTER), 0);
		for (unsigned k = 0; k < CLUSTER; k++) {
			if (buf[k] != want[i])
				fail_msg("cluster %u reads as %u, not %d", i, buf[k], want[i]);
		}
	}
}

static void each_operation_fails(struct fixture *f, struct qcow2_create_opts o, int errnum)
{
	/* more than there are operations; one that may fail unnoticed (a hole) is no end */
	for (unsigned n = 1; n < OPERATIONS; n++) {
		struct model m = {0};

		qcow2_make(f, o);
		qcow2_open(f, (struct image_opts){0});
		image_inject_fault(f->img, n, errnum);
		scenario(f, &m, errnum);
		image_inject_fault(f->img, 0, 0);
		if (m.failed || !m.lost)
			check_contents(f, m.now, NULL);
		fixture_close(f);
		qcow2_assert_sound(f, m.failed != 0);
		qcow2_open(f, (struct image_opts){0});
		if (m.lost) /* what was flushed and not touched since */
			check_contents(f, m.durable, m.changed);
		else
			check_contents(f, m.now, NULL);
		/* and the image works on */
		write_clusters(f, &m, errnum, 50, 14, 7);
		fixture_close(f);
		qcow2_assert_sound(f, m.failed != 0);
	}
}

static void v3_fails(void **state)
{
	struct qcow2_create_opts o = {.size_bytes = BYTES, .cluster_bytes = CLUSTER};

	each_operation_fails(*state, o, EIO);
	each_operation_fails(*state, o, ENOSPC);
}

static void v2_with_tiny_clusters_fails(void **state)
{
	struct qcow2_create_opts o = {.size_bytes = BYTES, .cluster_bytes = 512, .version = 2};

	each_operation_fails(*state, o, EIO);
}

static void subclusters_fail(void **state)
{
	struct qcow2_create_opts o = {
	    .size_bytes = BYTES, .cluster_bytes = 16384, .extended_l2 = true, .refcount_bits = 64};

	each_operation_fails(*state, o, EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    QCOW2_TEST(v3_fails),
	    QCOW2_TEST(v2_with_tiny_clusters_fails),
	    QCOW2_TEST(subclusters_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
