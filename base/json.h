/*
 * A writer of JSON (RFC 8259) onto a stdio stream.
 *
 * Containers nest to JSON_DEPTH_MAX. A member of an object has a key, an element of an array has
 * NULL instead. Each value of a block container stands on a line of its own; an inline container
 * stands on one line, which suits long arrays of small objects. Strings are UTF-8: what of them is
 * not (names of files may be anything) becomes U+FFFD. Whether all could be written is the stream's
 * to say, at the end.
 *
 * Threads: a writer belongs to one.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH_MAX 8

struct json {
	FILE *out;
	unsigned depth;
	struct {
		char close;
		bool is_inline;
		bool filled;
	} level[JSON_DEPTH_MAX];
};

#define JSON_INIT(stream)        \
	{                        \
		.out = (stream), \
	}

void json_object(struct json *j, const char *key);
void json_object_inline(struct json *j, const char *key);
void json_array(struct json *j, const char *key);

/* Ends the innermost container; the outermost ends with a newline. */
void json_end(struct json *j);

/* `text` may be NULL: null. */
void json_string(struct json *j, const char *key, const char *text);
void json_u64(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);
void json_null(struct json *j, const char *key);

/* A string literal alone, quotes included. */
void json_write_string(FILE *out, const char *text);

#endif
