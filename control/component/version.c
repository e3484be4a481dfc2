/* Versions: numbers with dots between, of any size. See control/component/component.h. */
#include "control/component/component.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DIGITS "0123456789"

bool version_valid(const char *text)
{
	size_t len = strlen(text);

	if (!len || len > COMPONENT_VERSION_MAX)
		return false;
	for (;;) {
		size_t digits = strspn(text, DIGITS);

		if (!digits)
			return false;
		text += digits;
		if (!*text)
			return true;
		if (*text++ != '.')
			return false;
	}
}

/* Two numbers, without their leading zeros: the longer is the larger. */
static int compare_numbers(const char *a, size_t a_len, const char *b, size_t b_len)
{
	for (; a_len > 1 && *a == '0'; a_len--)
		a++;
	for (; b_len > 1 && *b == '0'; b_len--)
		b++;
	if (a_len != b_len)
		return a_len < b_len ? -1 : 1;
	return memcmp(a, b, a_len);
}

int version_compare(const char *a, const char *b)
{
	const char *p = a, *q = b;

	for (;;) {
		size_t p_len = strspn(p, DIGITS), q_len = strspn(q, DIGITS);
		int res = compare_numbers(p, p_len, q, q_len);

		if (res)
			return res;
		p += p_len;
		q += q_len;
		if (!*p || !*q)
			break;
		p++;
		q++;
	}
	if (*p || *q)
		return *p ? 1 : -1;
	/* but for leading zeros the same */
	if (strlen(a) != strlen(b))
		return strlen(a) < strlen(b) ? -1 : 1;
	return strcmp(a, b);
}

int version_next(const char *version, char ret_next[COMPONENT_VERSION_MAX + 1])
{
	char next[COMPONENT_VERSION_MAX + 2];
	const char *dot = strrchr(version, '.');
	size_t first = dot ? (size_t)(dot + 1 - version) : 0, len = strlen(version), i = len;

	if (len > COMPONENT_VERSION_MAX)
		return -ERANGE;
	memcpy(next, version, len + 1);
	while (i > first && next[i - 1] == '9')
		next[--i] = '0';
	if (i > first) {
		next[i - 1]++;
	} else {
		memmove(next + first + 1, next + first, len + 1 - first);
		next[first] = '1';
		len++;
	}
	if (len > COMPONENT_VERSION_MAX)
		return -ERANGE;
	memcpy(ret_next, next, len + 1);
	return 0;
}
