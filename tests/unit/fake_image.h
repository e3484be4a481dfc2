/*
 * A disk image in memory for tests of what stands on images: it records what it is asked for, can
 * keep requests in flight until the test lets them go, and fails on demand.
 *
 * Threads: requests on the loop's thread; the functions below on the test's.
 */
#ifndef TESTS_UNIT_FAKE_IMAGE_H
#define TESTS_UNIT_FAKE_IMAGE_H

#include "disk/image_priv.h"

#include <pthread.h>

#define FAKE_IMAGE_LOG 4096

struct fake_image_op {
	enum image_op op;
	unsigned flags;
	uint64_t offset_bytes, len_bytes;
	unsigned niov;
};

struct fake_image {
	struct image img; /* hand &fi->img to the device */
	uint8_t *data;

	pthread_mutex_t lock; /* all below */
	pthread_cond_t cond;
	struct image_queue waiting;
	unsigned nwaiting;
	bool hold;
	bool posted;
	struct loop_msg release;
	int error;	/* positive: what every request fails with */
	unsigned fails; /* how many more fail; counts down */
	struct fake_image_op log[FAKE_IMAGE_LOG];
	unsigned nlog;
};

void fake_image_init(struct fake_image *fi, uint64_t size_bytes, const struct image_info *info);
void fake_image_fini(struct fake_image *fi);

/* Requests stay in flight from now on. */
void fake_image_hold(struct fake_image *fi);
/* Waits until `n` are in flight. False: the deadline passed. */
bool fake_image_wait_held(struct fake_image *fi, unsigned n);
/* Completes them, last in first out, and those to come at once. */
void fake_image_release(struct fake_image *fi);

/* The next `n` requests fail. */
void fake_image_fail(struct fake_image *fi, unsigned n, int errnum);

/* Takes the log of what was submitted since the last call. */
unsigned fake_image_take_log(struct fake_image *fi, struct fake_image_op *ops, unsigned max);

#endif
