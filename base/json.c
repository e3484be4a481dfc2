/* A writer of JSON. See base/json.h. */
#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>

/*
 * Length of the well-formed UTF-8 sequence at `s` (RFC 3629: no surrogates, nothing longer than
 * needed, nothing above U+10FFFF); 0: there is none.
 */
static size_t utf8_len(const unsigned char *s)
{
	unsigned char low = 0x80, high = 0xbf; /* of the second byte */
	size_t len;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (s[1] < low || s[1] > high)
		return 0;
	/* a NUL is no continuation: this stops at the end of the text */
	for (size_t i = 2; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

void json_write_string(FILE *out, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	fputc('"', out);
	while (*s) {
		size_t len = utf8_len(s);

		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < ' ' || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else if (len)
			fwrite(s, 1, len, out);
		else
			fputs("\\ufffd", out);
		s += len ? len : 1;
	}
	fputc('"', out);
}

static void new_line(struct json *j)
{
	fprintf(j->out, "\n%*s", (int)(2 * j->depth), "");
}

/* What stands before a value: comma, line, key. */
static void begin_value(struct json *j, const char *key)
{
	if (j->depth) {
		bool is_inline = j->level[j->depth - 1].is_inline;
		bool filled = j->level[j->depth - 1].filled;

		assert(!key == (j->level[j->depth - 1].close == ']'));
		if (filled)
			fputc(',', j->out);
		if (!is_inline)
			new_line(j);
		else if (filled)
			fputc(' ', j->out);
		j->level[j->depth - 1].filled = true;
	}
	if (key) {
		json_write_string(j->out, key);
		fputs(": ", j->out);
	}
}

static void begin_container(struct json *j, const char *key, char open, char close, bool is_inline)
{
	assert(j->depth < JSON_DEPTH_MAX);
	begin_value(j, key);
	fputc(open, j->out);
	/* what stands on one line stays there */
	is_inline = is_inline || (j->depth && j->level[j->depth - 1].is_inline);
	j->level[j->depth].close = close;
	j->level[j->depth].is_inline = is_inline;
	j->level[j->depth].filled = false;
	j->depth++;
}

void json_object(struct json *j, const char *key)
{
	begin_container(j, key, '{', '}', false);
}

void json_object_inline(struct json *j, const char *key)
{
	begin_container(j, key, '{', '}', true);
}

void json_array(struct json *j, const char *key)
{
	begin_container(j, key, '[', ']', false);
}

void json_end(struct json *j)
{
	assert(j->depth);
	j->depth--;
	if (j->level[j->depth].filled && !j->level[j->depth].is_inline)
		new_line(j);
	fputc(j->level[j->depth].close, j->out);
	if (!j->depth)
		fputc('\n', j->out);
}

void json_string(struct json *j, const char *key, const char *text)
{
	begin_value(j, key);
	if (text)
		json_write_string(j->out, text);
	else
		fputs("null", j->out);
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
	begin_value(j, key);
	fprintf(j->out, "%" PRIu64, value);
}

void json_bool(struct json *j, const char *key, bool value)
{
	begin_value(j, key);
	fputs(value ? "true" : "false", j->out);
}

void json_null(struct json *j, const char *key)
{
	json_string(j, key, NULL);
}
