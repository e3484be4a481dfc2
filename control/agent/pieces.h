/*
 * A queue of packed messages in one piece of memory, which grows with them and is given back when
 * the queue is empty. Zeroed: empty.
 */
#ifndef CONTROL_AGENT_PIECES_H
#define CONTROL_AGENT_PIECES_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

struct pieces {
	uint8_t *data;
	size_t at, end, cap; /* [at, end) is queued: each its length, as a uint32_t, and itself */
};

static inline size_t pieces_bytes(const struct pieces *p)
{
	return p->end - p->at;
}

/* Appends it. 0, -ENOMEM. */
int pieces_push(struct pieces *p, const ProtobufCMessage *message);

/* The first one; there is one. NULL: no memory. pb_free() it. *ret_bytes: as it is packed. */
ProtobufCMessage *pieces_first(const struct pieces *p, const ProtobufCMessageDescriptor *type,
			       size_t *ret_bytes);
/* Takes it off. */
void pieces_pop(struct pieces *p);

void pieces_fini(struct pieces *p);

#endif
