/*
 * Writes a flattened device tree (Devicetree Specification 0.4 §5) through libfdt, from its root
 * on, node by node.
 *
 * Errors stick: whatever comes after the first does nothing, and dt_finish() tells.
 *
 * Threads: one.
 */
#ifndef VMM_FDT_DT_H
#define VMM_FDT_DT_H

#include <stddef.h>
#include <stdint.h>

struct dt {
	void *buf;	/* the caller's */
	int error;	/* libfdt's; 0: none */
	unsigned depth; /* nodes that are open */
};

/* Begins the tree and its root node. */
void dt_init(struct dt *dt, void *buf, size_t cap);

/* Ends the root. -ENOSPC: `cap` is too small; -EINVAL: the tree is not one. */
int dt_finish(struct dt *dt, size_t *ret_len);

/* Nodes: "name", "name@address" (§2.2.1). */
void dt_node(struct dt *dt, const char *name);
void dt_node_at(struct dt *dt, const char *name, uint64_t address);
void dt_end(struct dt *dt);

/* Properties of the node that is open (§2.2.4). */
void dt_empty(struct dt *dt, const char *name);
void dt_text(struct dt *dt, const char *name, const char *text);
/* "one\0two": `len` counts all but the last NUL; of a literal, DT_TEXTS(). */
void dt_texts(struct dt *dt, const char *name, const char *texts, size_t len);
#define DT_TEXTS(dt, name, literal) dt_texts(dt, name, literal, sizeof(literal) - 1)
void dt_bytes(struct dt *dt, const char *name, const void *bytes, size_t len);
void dt_u32(struct dt *dt, const char *name, uint32_t value);
void dt_u64(struct dt *dt, const char *name, uint64_t value);
void dt_cells(struct dt *dt, const char *name, const uint32_t *cells, size_t n);
#define DT_CELLS(dt, name, ...)                             \
	dt_cells(dt, name, (const uint32_t[]){__VA_ARGS__}, \
		 sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* A value of 64 bits as two cells. */
#define DT_U64(value) (uint32_t)((uint64_t)(value) >> 32), (uint32_t)(value)

#endif
