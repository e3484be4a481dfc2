/*
 * A cache of metadata: pieces of tables of one file, all of one size.
 *
 *   empty --take--> loading --ready--> valid <--> dirty (in the list of dirty ones, too)
 *
 * Invariants
 *  1. A piece that is dirty, loading or pinned stays; any other may go when room is needed.
 *  2. Memory is bounded by the number of slots and taken from the host as slots are first used.
 *
 * Pure; the caller does the I/O. Threads: the image's.
 */
#ifndef DISK_QCOW2_CACHE_H
#define DISK_QCOW2_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct q2_op;

/* Requests that wait, in order, linked through q2_op.next; zeroed: empty. */
struct q2_ops {
	struct q2_op *head, *tail;
};

enum q2_table_state {
	Q2_TABLE_EMPTY,
	Q2_TABLE_LOADING,
	Q2_TABLE_VALID,
};

struct q2_table {
	uint64_t offset; /* in the file */
	uint8_t *data;
	struct q2_table *hash_next;
	struct q2_table *dirty_next;
	struct q2_ops waiting; /* for it to be loaded */
	uint32_t pins;
	uint8_t state;
	bool dirty;
	bool used; /* since the hand last passed */
};

struct q2_cache {
	uint32_t unit_bytes;
	unsigned slots, fresh; /* tables[fresh..] were never used */
	unsigned hand;
	unsigned nbuckets;
	struct q2_table *tables;
	struct q2_table **buckets;
	uint8_t *memory;
	struct q2_table *dirty, *dirty_last; /* in the order in which they became so */
	unsigned ndirty;
};

/* -ENOMEM. `unit_bytes` is a power of two. */
int q2_cache_init(struct q2_cache *c, uint32_t unit_bytes, unsigned slots);
void q2_cache_free(struct q2_cache *c);

/* The piece at this offset in whatever state it is, or NULL. */
struct q2_table *q2_cache_find(struct q2_cache *c, uint64_t offset);

/* A slot for the piece at this offset, which is not there yet: loading. NULL: none is free. */
struct q2_table *q2_cache_take(struct q2_cache *c, uint64_t offset);

/* Its contents are wrong or no longer wanted: forgets them, written or not. No pins, not loading
 * for anyone else. */
void q2_cache_drop(struct q2_cache *c, struct q2_table *t);

/* Drops all pieces of a range of the file that has been given up. */
void q2_cache_forget(struct q2_cache *c, uint64_t offset, uint64_t len);

void q2_cache_set_dirty(struct q2_cache *c, struct q2_table *t);

/* Takes the one that is dirty for the longest time off the list, or NULL. */
struct q2_table *q2_cache_pop_dirty(struct q2_cache *c);

#endif
