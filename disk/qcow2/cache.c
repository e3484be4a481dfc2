/* A cache of metadata. See disk/qcow2/cache.h. */
#include "disk/qcow2/cache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int q2_cache_init(struct q2_cache *c, uint32_t unit_bytes, unsigned slots)
{
	void *p = mmap(NULL, (size_t)slots * unit_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	*c = (struct q2_cache){.unit_bytes = unit_bytes, .slots = slots, .memory = p};
	c->nbuckets = 64;
	while (c->nbuckets < slots)
		c->nbuckets *= 2;
	c->tables = calloc(slots, sizeof(*c->tables));
	c->buckets = calloc(c->nbuckets, sizeof(struct q2_table *));
	if (!c->tables || !c->buckets) {
		q2_cache_free(c);
		return -ENOMEM;
	}
	return 0;
}

void q2_cache_free(struct q2_cache *c)
{
	if (c->memory)
		munmap(c->memory, (size_t)c->slots * c->unit_bytes);
	free(c->tables);
	free(c->buckets);
	*c = (struct q2_cache){0};
}

static struct q2_table **bucket(struct q2_cache *c, uint64_t offset)
{
	uint64_t n = offset / c->unit_bytes;

	/* neighbours go to neighbouring buckets; tables of whole clusters still spread */
	return &c->buckets[(n ^ n >> 15) & (c->nbuckets - 1)];
}

struct q2_table *q2_cache_find(struct q2_cache *c, uint64_t offset)
{
	struct q2_table *t = *bucket(c, offset);

	while (t && t->offset != offset)
		t = t->hash_next;
	if (t)
		t->used = true;
	return t;
}

static void unhash(struct q2_cache *c, struct q2_table *t)
{
	struct q2_table **p = bucket(c, t->offset);

	while (*p != t)
		p = &(*p)->hash_next;
	*p = t->hash_next;
}

static void undirty(struct q2_cache *c, struct q2_table *t)
{
	struct q2_table *prev = NULL;

	for (struct q2_table *p = c->dirty; p != t; p = p->dirty_next)
		prev = p;
	if (prev)
		prev->dirty_next = t->dirty_next;
	else
		c->dirty = t->dirty_next;
	if (c->dirty_last == t)
		c->dirty_last = prev;
	t->dirty = false;
	c->ndirty--;
}

/* Second chance: goes round until it meets one that was not used since the last time. */
static struct q2_table *victim(struct q2_cache *c)
{
	if (c->fresh < c->slots) {
		struct q2_table *t = &c->tables[c->fresh];

		t->data = c->memory + (size_t)c->fresh++ * c->unit_bytes;
		return t;
	}
	for (unsigned i = 0; i < 2 * c->slots; i++) {
		struct q2_table *t = &c->tables[c->hand];

		c->hand = (c->hand + 1) % c->slots;
		if (t->state == Q2_TABLE_EMPTY)
			return t;
		if (t->state == Q2_TABLE_LOADING || t->dirty || t->pins)
			continue;
		if (!t->used)
			return t;
		t->used = false;
	}
	return NULL;
}

struct q2_table *q2_cache_take(struct q2_cache *c, uint64_t offset)
{
	struct q2_table *t, **b;

	/* otherwise a search among nothing but dirty ones, every time */
	if (c->ndirty == c->slots)
		return NULL;
	t = victim(c);
	if (!t)
		return NULL;
	if (t->state != Q2_TABLE_EMPTY)
		unhash(c, t);
	b = bucket(c, offset);
	t->offset = offset;
	t->state = Q2_TABLE_LOADING;
	t->used = true;
	t->hash_next = *b;
	*b = t;
	return t;
}

void q2_cache_drop(struct q2_cache *c, struct q2_table *t)
{
	assert(!t->pins && !t->waiting.head);
	if (t->dirty)
		undirty(c, t);
	unhash(c, t);
	t->state = Q2_TABLE_EMPTY;
}

void q2_cache_forget(struct q2_cache *c, uint64_t offset, uint64_t len)
{
	for (uint64_t at = 0; at < len; at += c->unit_bytes) {
		struct q2_table *t = q2_cache_find(c, offset + at);

		if (t && t->state == Q2_TABLE_VALID && !t->pins)
			q2_cache_drop(c, t);
	}
}

void q2_cache_set_dirty(struct q2_cache *c, struct q2_table *t)
{
	if (t->dirty)
		return;
	t->dirty = true;
	t->dirty_next = NULL;
	if (c->dirty_last)
		c->dirty_last->dirty_next = t;
	else
		c->dirty = t;
	c->dirty_last = t;
	c->ndirty++;
}

struct q2_table *q2_cache_pop_dirty(struct q2_cache *c)
{
	struct q2_table *t = c->dirty;

	if (t)
		undirty(c, t);
	return t;
}
