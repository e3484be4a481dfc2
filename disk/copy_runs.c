/* What of a piece of data is zero, equal or neither. See disk/copy.h. */
#include "base/checked.h"
#include "disk/copy.h"

#include <string.h>

bool copy_is_zero(const void *data, size_t len)
{
	const uint8_t *b = data;
	size_t head = MIN(len, (size_t)16);

	/* the first bytes by hand; if they are zero, each byte equals the one 16 before it */
	for (size_t i = 0; i < head; i++) {
		if (b[i])
			return false;
	}
	return len == head || !memcmp(b, b + head, len - head);
}

static enum copy_run_kind unit_kind(const uint8_t *data, const uint8_t *compare, size_t len)
{
	if (compare && !memcmp(data, compare, len))
		return COPY_RUN_EQUAL;
	return copy_is_zero(data, len) ? COPY_RUN_ZERO : COPY_RUN_DATA;
}

enum copy_run_kind copy_next_run(const uint8_t *data, const uint8_t *compare, size_t at, size_t len,
				 size_t unit, size_t *ret_len)
{
	enum copy_run_kind kind = COPY_RUN_EQUAL;
	size_t end = at;

	while (end < len) {
		size_t n = MIN(unit, len - end);
		enum copy_run_kind next = unit_kind(data + end, compare ? compare + end : NULL, n);

		if (end > at && next != kind)
			break;
		kind = next;
		end += n;
	}
	*ret_len = end - at;
	return kind;
}
