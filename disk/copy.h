/*
 * Copying from image to image: many requests in flight, and nothing written that is there already.
 *
 * The range is worked on in batches. While nothing is in flight, the caller's plan says of each
 * part what it is (data to read, zeroes, nothing to do). Then each of several slots takes a piece
 * of it, and walks on by itself:
 *
 *   read the source -> read `compare` -> split into runs: zero, equal, data -> write each run
 *
 * At the end the target is flushed.
 *
 * Invariants
 *  1. Each unit (`unit_bytes`) is in one piece at most, so two writes never meet in a unit.
 *  2. What is equal to `compare` is not written; nor are zeroes where `skip_zeroes` says that the
 *     target has them.
 *  3. After the first error, or copy_cancel(), nothing more is submitted; copy_run() returns when
 *     all in flight has ended.
 *
 * Source and target may be one image.
 *
 * Threads: all on the thread that runs the loop.
 */
#ifndef DISK_COPY_H
#define DISK_COPY_H

#include "base/err.h"
#include "base/loop.h"
#include "disk/image.h"

#include <stdbool.h>
#include <stdint.h>

#define COPY_UNIT_MAX	  (2u << 20)
#define COPY_SLOTS	  16
#define COPY_PIECE_BYTES  (1u << 20) /* of one slot; a unit where that is larger */
#define COPY_BATCH_RANGES 4096

enum copy_kind {
	COPY_SKIP, /* nothing to do */
	COPY_DATA, /* to be read */
	COPY_ZERO, /* the source reads as zeroes there */
};

struct copy_opts {
	struct loop *loop;
	struct image *src; /* attached to the loop, as are the others */
	struct image *dst;
	/* Write only what differs from this; may be shorter, and reads as zeroes beyond. */
	struct image *compare;
	uint64_t len_bytes;   /* of the range from 0: within source and target */
	uint32_t unit_bytes;  /* of zero detection, comparison and writes; power of two */
	bool skip_zeroes;     /* zeroes need not be written */
	bool explicit_zeroes; /* zeroes are IMAGE_EXPLICIT */
	bool skip_data;	      /* data is not written: only zeroes are given back */

	/*
	 * What the source has at `offset_bytes`, and how far (at most `len_bytes`, not 0). No
	 * request is in flight. Need not be aligned to units.
	 */
	int (*plan)(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		    uint64_t *ret_len_bytes, struct err *err);
	/* Stores data in place of a write request; no other request of `dst` is in flight. NULL:
	 * write requests. A whole number of units, past the end of the disk zeroes. */
	int (*store)(void *ctx, uint64_t offset_bytes, const void *data, uint64_t len_bytes,
		     struct err *err);
	void *ctx;
	/* Everything up to there is done, roughly. May be NULL. */
	void (*progress)(void *ctx, uint64_t done_bytes);
	void *progress_ctx;
};

struct copy_stats {
	uint64_t written_bytes; /* data */
	uint64_t zeroed_bytes;	/* written as zeroes, or given back */
};

struct copy;

/* -ENOMEM. The options are copied. */
int copy_new(const struct copy_opts *opts, struct copy **ret_copy, struct err *err);

/* Runs the loop until all is copied and durable. -ECANCELED: copy_cancel(); -EIO, -ENOSPC, ... */
int copy_run(struct copy *c, struct copy_stats *ret_stats, struct err *err);

/* From a callback of the loop, or before copy_run(). */
void copy_cancel(struct copy *c);

/* Nothing is in flight. NULL is accepted. */
void copy_free(struct copy *c);

/* ---- disk/copy_runs.c: pure ---- */

enum copy_run_kind {
	COPY_RUN_EQUAL,
	COPY_RUN_ZERO,
	COPY_RUN_DATA,
};

/* Are these bytes all zero? */
bool copy_is_zero(const void *data, size_t len);

/*
 * The run that begins at `at` of `len` bytes: its kind, and *ret_len how many bytes, whole units
 * but for the last. `compare` may be NULL: then nothing is equal.
 */
enum copy_run_kind copy_next_run(const uint8_t *data, const uint8_t *compare, size_t at, size_t len,
				 size_t unit, size_t *ret_len);

#endif
