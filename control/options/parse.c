#include "control/options/parse.h"

#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Digits at the start of `text`; *ret_end is what follows. */
static int parse_digits(const char *text, uint64_t *ret_value, const char **ret_end)
{
	uint64_t value = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (!ck_mul(value, 10, &value) || !ck_add(value, (uint64_t)(*p - '0'), &value))
			return -ERANGE;
	}
	if (p == text)
		return -EINVAL;
	*ret_value = value;
	*ret_end = p;
	return 0;
}

int parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "kmgt";
	const char *end;
	uint64_t value;
	int rc = parse_digits(text, &value, &end);

	if (rc)
		return rc;
	if (*end) {
		const char *unit = strchr(units, *end | 0x20);

		if (!unit || end[1])
			return -EINVAL;
		if (!ck_mul(value, UINT64_C(1) << (10 * (unit - units + 1)), &value))
			return -ERANGE;
	}
	*ret_bytes = value;
	return 0;
}

int parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret_value)
{
	const char *end;
	uint64_t value;
	int rc = parse_digits(text, &value, &end);

	if (rc)
		return rc;
	if (*end)
		return -EINVAL;
	if (value < min || value > max)
		return -ERANGE;
	*ret_value = (unsigned)value;
	return 0;
}

int parse_switch(const char *text, bool *ret_on)
{
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return -EINVAL;
	*ret_on = text[1] == 'n';
	return 0;
}

const char *parse_size_text(uint64_t bytes, char text[PARSE_SIZE_TEXT_MAX])
{
	static const char units[][2] = {"", "K", "M", "G", "T"};
	unsigned u = 0;

	while (bytes && bytes % 1024 == 0 && u + 1 < ARRAY_LEN(units)) {
		bytes /= 1024;
		u++;
	}
	snprintf(text, PARSE_SIZE_TEXT_MAX, "%" PRIu64 "%s", bytes, units[u]);
	return text;
}

/* Copies up to the first single comma, doubled ones as one; *ret_end is where it stopped. */
static void copy_unescaped(char *to, const char *from, const char **ret_end)
{
	for (; *from && (*from != ',' || from[1] == ','); from++) {
		from += *from == ',';
		*to++ = *from;
	}
	*to = '\0';
	*ret_end = from;
}

int parse_pair(const char **cursor, char **ret_key, char **ret_value, struct err *err)
{
	char *key, *equals, *value = NULL;
	const char *end;

	if (!*cursor)
		return 0;
	key = malloc(strlen(*cursor) + 1);
	if (!key)
		return err_set(err, ENOMEM, "out of memory");
	copy_unescaped(key, *cursor, &end);
	equals = strchr(key, '=');
	if (equals) {
		*equals = '\0';
		value = strdup(equals + 1);
	}
	if (!*key || (equals && !value)) {
		int rc = *key ? ENOMEM : EINVAL;

		free(key);
		free(value);
		return err_set(err, rc,
			       rc == ENOMEM ? "out of memory"
					    : "a key is missing: expected key=value,... (a comma "
					      "within a value is written twice)");
	}
	*cursor = *end ? end + 1 : NULL;
	*ret_key = key;
	*ret_value = value;
	return 1;
}

#define WORD_MAX 32 /* a longer word is no mistyped name of ours */

/* Optimal string alignment: insertions, deletions, substitutions, swaps of neighbours. */
static unsigned parse_distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t la = strlen(a), lb = strlen(b);

	if (la > WORD_MAX || lb > WORD_MAX)
		return UINT_MAX;
	for (size_t i = 0; i <= la; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= lb; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		for (size_t j = 1; j <= lb; j++) {
			unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

			best = MIN(best, d[i - 1][j] + 1);
			best = MIN(best, d[i][j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, d[i - 2][j - 2] + 1);
			d[i][j] = best;
		}
	}
	return d[la][lb];
}

const char *parse_suggest(const char *word, const char *const *names)
{
	unsigned best = (unsigned)strlen(word) / 3 + 1;
	size_t len = strlen(word);
	const char *found = NULL;

	for (; *names; names++) {
		unsigned distance = parse_distance(word, *names);

		/* the beginning of a name is a wish for that name */
		if (len >= 3 && !strncasecmp(word, *names, len))
			distance = MIN(distance, 1);
		if (distance < best) {
			best = distance;
			found = *names;
		}
	}
	return found;
}
