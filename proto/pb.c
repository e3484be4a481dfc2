/* protobuf-c with bounds. See proto/pb.h; the wire format is protobuf's encoding.md. */
#include "proto/pb.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Of message types within each other: ours are three deep. */
#define DEPTH_MAX 8

/* Bytes that are still to be read. */
struct wire {
	const uint8_t *at, *end;
};

/* ---- text ---------------------------------------------------------------------------------------
 */

/* Length of the UTF-8 sequence at `p` (Unicode 15, table 3-7); 0: there is none. */
static size_t sequence_len(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (n > left)
		return 0;
	if (p[0] == 0xe0)
		low = 0xa0; /* shorter forms exist */
	else if (p[0] == 0xed)
		high = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f; /* above U+10FFFF */
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

int pb_text_valid(const void *text, size_t len_bytes)
{
	const uint8_t *p = text;

	for (size_t i = 0; i < len_bytes;) {
		size_t n = p[i] ? sequence_len(p + i, len_bytes - i) : 0;

		if (!n)
			return 0;
		i += n;
	}
	return 1;
}

void pb_text_clean(char *text)
{
	size_t left = strlen(text);

	while (left) {
		size_t n = sequence_len((const uint8_t *)text, left);

		if (!n) {
			*text = '?';
			n = 1;
		}
		text += n;
		left -= n;
	}
}

/* ---- the walk along the wire --------------------------------------------------------------------
 */

static bool take_varint(struct wire *w, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64 && w->at < w->end; shift += 7) {
		uint8_t byte = *w->at++;

		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static bool take(struct wire *w, uint64_t len, struct wire *ret_part)
{
	if (len > (uint64_t)(w->end - w->at))
		return false;
	*ret_part = (struct wire){w->at, w->at + len};
	w->at += len;
	return true;
}

/* One value of the wire type; length-delimited ones are left in *ret_part. */
static bool take_value(struct wire *w, unsigned type, struct wire *ret_part)
{
	uint64_t v;

	switch (type) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		return take_varint(w, &v);
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		return take(w, 8, ret_part);
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		return take(w, 4, ret_part);
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
		return take_varint(w, &v) && take(w, v, ret_part);
	default: /* groups: gone since proto2 */
		return false;
	}
}

static const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *desc,
						  uint64_t id)
{
	for (unsigned i = 0; i < desc->n_fields; i++) {
		if (desc->fields[i].id == id)
			return &desc->fields[i];
	}
	return NULL;
}

static int malformed(const ProtobufCMessageDescriptor *desc, struct err *err)
{
	return err_set(err, EBADMSG, "the bytes are no %s", desc->short_name);
}

static int check(const ProtobufCMessageDescriptor *desc, struct wire w, unsigned depth,
		 struct err *err)
{
	if (depth == DEPTH_MAX)
		return malformed(desc, err);
	while (w.at < w.end) {
		const ProtobufCFieldDescriptor *field;
		struct wire part = {0};
		uint64_t key;
		int res = 0;

		if (!take_varint(&w, &key) || !take_value(&w, key & 7, &part))
			return malformed(desc, err);
		field = field_find(desc, key >> 3);
		if (!field || (key & 7) != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
			continue;
		if (field->type == PROTOBUF_C_TYPE_MESSAGE)
			res = check(field->descriptor, part, depth + 1, err);
		else if (field->type == PROTOBUF_C_TYPE_STRING &&
			 !pb_text_valid(part.at, (size_t)(part.end - part.at)))
			res = err_set(err, EBADMSG, "%s of %s is not UTF-8, or has a NUL in it",
				      field->name, desc->short_name);
		if (res)
			return res;
	}
	return 0;
}

/* ---- unpacking ----------------------------------------------------------------------------------
 */

struct budget {
	size_t left_bytes;
	bool spent;
};

static void *budget_alloc(void *data, size_t size)
{
	struct budget *b = data;

	if (size > b->left_bytes) {
		b->spent = true;
		return NULL;
	}
	b->left_bytes -= size;
	return malloc(size);
}

static void budget_free(void *data, void *pointer)
{
	(void)data;
	free(pointer);
}

int pb_unpack(const ProtobufCMessageDescriptor *desc, const void *data, size_t len_bytes,
	      ProtobufCMessage **ret_msg, struct err *err)
{
	const uint8_t *bytes = len_bytes ? data : (const uint8_t *)"";
	struct budget budget = {.left_bytes = PB_BUDGET_BASE + PB_BUDGET_FACTOR * len_bytes};
	ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
	ProtobufCMessage *msg;
	int res = check(desc, (struct wire){bytes, bytes + len_bytes}, 0, err);

	if (res)
		return res;
	msg = protobuf_c_message_unpack(desc, &allocator, len_bytes, bytes);
	if (!msg && budget.spent)
		return err_set(err, E2BIG, "the %s has too many fields", desc->short_name);
	if (!msg)
		return malformed(desc, err);
	*ret_msg = msg;
	return 0;
}

void pb_free(ProtobufCMessage *msg)
{
	/* the budget took its memory from malloc(), where the default allocator returns it */
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}
