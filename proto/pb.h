/*
 * protobuf-c with bounds: messages from outside are checked before they are unpacked.
 *
 * protobuf-c cuts a string at a NUL inside it, takes any bytes for text and allocates as much as
 * the wire provokes (a two-byte field becomes a hundred bytes of memory). So the wire is walked
 * first: strings are UTF-8 without NUL, as proto3 has it, and memory stays within a budget.
 *
 * Threads: none of their own.
 */
#ifndef PROTO_PB_H
#define PROTO_PB_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Memory that a message of `len` bytes may take: honest ones need less than twice their length and
 * some hundred bytes for each part.
 */
#define PB_BUDGET_BASE	 (64 * 1024)
#define PB_BUDGET_FACTOR 4

/*
 * Unpacks into memory that pb_free() frees. -EBADMSG: does not parse, a string is not UTF-8 or has
 * a NUL; -E2BIG: takes more than the budget. The message names the field where there is one.
 */
int pb_unpack(const ProtobufCMessageDescriptor *desc, const void *data, size_t len_bytes,
	      ProtobufCMessage **ret_msg, struct err *err);

/* NULL is accepted. */
void pb_free(ProtobufCMessage *msg);

/* Is this text as proto3 has it? */
int pb_text_valid(const void *text, size_t len_bytes);

/* Replaces each byte that is not part of UTF-8 by '?', so that every reader takes the text. */
void pb_text_clean(char *text);

#endif
