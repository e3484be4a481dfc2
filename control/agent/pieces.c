/* A queue of packed messages. See control/agent/pieces.h. */
#include "control/agent/pieces.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CAP_FIRST ((size_t)4096)

static int pieces_reserve(struct pieces *p, size_t more)
{
	size_t cap = MAX(p->cap, CAP_FIRST);
	uint8_t *data;

	if (p->at && p->cap - p->end < more) {
		memmove(p->data, p->data + p->at, p->end - p->at);
		p->end -= p->at;
		p->at = 0;
	}
	if (p->data && p->cap - p->end >= more)
		return 0;
	while (cap - p->end < more)
		cap *= 2;
	data = realloc(p->data, cap);
	if (!data)
		return -ENOMEM;
	p->data = data;
	p->cap = cap;
	return 0;
}

int pieces_push(struct pieces *p, const ProtobufCMessage *message)
{
	uint32_t len = (uint32_t)protobuf_c_message_get_packed_size(message);
	int res = pieces_reserve(p, sizeof(len) + len);

	if (res)
		return res;
	memcpy(p->data + p->end, &len, sizeof(len));
	protobuf_c_message_pack(message, p->data + p->end + sizeof(len));
	p->end += sizeof(len) + len;
	return 0;
}

static uint32_t first_len(const struct pieces *p)
{
	uint32_t len;

	memcpy(&len, p->data + p->at, sizeof(len));
	return len;
}

ProtobufCMessage *pieces_first(const struct pieces *p, const ProtobufCMessageDescriptor *type,
			       size_t *ret_bytes)
{
	uint32_t len = first_len(p);

	*ret_bytes = len;
	return protobuf_c_message_unpack(type, NULL, len, p->data + p->at + sizeof(len));
}

void pieces_pop(struct pieces *p)
{
	p->at += sizeof(uint32_t) + first_len(p);
	if (p->at == p->end)
		pieces_fini(p);
}

void pieces_fini(struct pieces *p)
{
	free(p->data);
	*p = (struct pieces){0};
}
