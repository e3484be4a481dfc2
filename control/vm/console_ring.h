/*
 * The last output of a console: a ring of bytes, addressed by how many came before.
 *
 *   0 ........ start ........ end
 *    forgotten        kept      to come
 *
 * Memory is taken from the host as the ring is first filled, and never grows above its size.
 *
 * Threads: one at a time.
 */
#ifndef CONTROL_VM_CONSOLE_RING_H
#define CONTROL_VM_CONSOLE_RING_H

#include <stddef.h>
#include <stdint.h>

#define CONSOLE_RING_BYTES (1u << 20) /* a power of two */

struct console_ring {
	uint8_t *data;
	uint64_t end; /* bytes that ever came */
};

/* 0 or -ENOMEM. */
int console_ring_init(struct console_ring *r);
void console_ring_fini(struct console_ring *r);

void console_ring_put(struct console_ring *r, const void *buf, size_t len);

/* The first byte that is kept. */
uint64_t console_ring_start(const struct console_ring *r);

/* The bytes from `pos` on, which is from start to end: as many as lie together. Good until the next
 * console_ring_put(). */
size_t console_ring_get(const struct console_ring *r, uint64_t pos, const uint8_t **ret_data);

#endif
