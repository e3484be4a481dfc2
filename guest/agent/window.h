/*
 * How far the messages of a call may be ahead of their client (window_bytes and taken_bytes of
 * proto/agent.proto). Zeroed: as far as its connection lets them.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_AGENT_WINDOW_H
#define GUEST_AGENT_WINDOW_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct window {
	uint64_t limit_bytes; /* 0: none */
	uint64_t ahead_bytes;
};

static inline void window_init(struct window *w, uint64_t limit_bytes)
{
	*w = (struct window){.limit_bytes = limit_bytes};
}

/* May one more message be sent? */
static inline bool window_is_open(const struct window *w)
{
	return !w->limit_bytes || w->ahead_bytes < w->limit_bytes;
}

static inline void window_sent(struct window *w, const ProtobufCMessage *message)
{
	if (w->limit_bytes)
		w->ahead_bytes += protobuf_c_message_get_packed_size(message);
}

static inline void window_taken(struct window *w, uint64_t bytes)
{
	w->ahead_bytes -= bytes < w->ahead_bytes ? bytes : w->ahead_bytes;
}

#endif
