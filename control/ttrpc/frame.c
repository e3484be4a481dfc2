/* ttrpc's frame codec. See control/ttrpc/frame.h. */
#include "control/ttrpc/frame.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CAP_FIRST 512
/* A buffer above this is given back after its frame: large messages are rare. */
#define CAP_KEPT (64 * 1024)

struct ttrpc_wire_header ttrpc_header_put(const struct ttrpc_header *h)
{
	return (struct ttrpc_wire_header){
	    .len = be32_put(h->len_bytes),
	    .stream = be32_put(h->stream),
	    .type = h->type,
	    .flags = h->flags,
	};
}

struct ttrpc_header ttrpc_header_get(const struct ttrpc_wire_header *w)
{
	return (struct ttrpc_header){
	    .len_bytes = be32_get(w->len),
	    .stream = be32_get(w->stream),
	    .type = w->type,
	    .flags = w->flags,
	};
}

/* Makes ready for the next header, once the last frame has been seen. */
static void reader_next(struct ttrpc_reader *r)
{
	r->have_header = r->have_data = 0;
	if (r->cap > CAP_KEPT) {
		free(r->data);
		r->data = NULL;
		r->cap = 0;
	}
}

static int reserve(struct ttrpc_reader *r, size_t need)
{
	size_t cap = MAX(r->cap, (size_t)CAP_FIRST);
	uint8_t *data;

	if (need <= r->cap)
		return 0;
	while (cap < need)
		cap *= 2;
	data = realloc(r->data, cap);
	if (!data)
		return -ENOMEM;
	r->data = data;
	r->cap = cap;
	return 0;
}

/* Up to `want` bytes of the input. */
static size_t take(const uint8_t **at, size_t *left, void *to, uint64_t want)
{
	size_t n = (size_t)MIN(want, (uint64_t)*left);

	if (to && n)
		memcpy(to, *at, n);
	*at += n;
	*left -= n;
	return n;
}

int ttrpc_reader_feed(struct ttrpc_reader *r, const void *buf, size_t len_bytes, size_t *ret_used)
{
	const uint8_t *at = buf;
	size_t left = len_bytes;
	int event = TTRPC_NEED_MORE;

	r->skip_bytes -= take(&at, &left, NULL, r->skip_bytes);
	if (r->have_header == sizeof(r->wire) && r->have_data == r->header.len_bytes)
		reader_next(r);
	if (r->have_header < sizeof(r->wire)) {
		r->have_header += take(&at, &left, (uint8_t *)&r->wire + r->have_header,
				       sizeof(r->wire) - r->have_header);
		if (r->have_header < sizeof(r->wire))
			goto out;
		r->header = ttrpc_header_get(&r->wire);
		if (r->header.len_bytes > TTRPC_DATA_MAX) {
			r->skip_bytes = r->header.len_bytes;
			r->have_header = 0;
			event = TTRPC_OVERSIZED;
			goto out;
		}
	}
	if (reserve(r, r->have_data + MIN(left, r->header.len_bytes - r->have_data)))
		return -ENOMEM;
	r->have_data += take(&at, &left, r->data ? r->data + r->have_data : NULL,
			     r->header.len_bytes - r->have_data);
	if (r->have_data == r->header.len_bytes)
		event = TTRPC_FRAME;
out:
	*ret_used = len_bytes - left;
	return event;
}

void ttrpc_reader_fini(struct ttrpc_reader *r)
{
	free(r->data);
	memset(r, 0, sizeof(*r));
}
