/* The last output of a console. See control/vm/console_ring.h. */
#include "control/vm/console_ring.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int console_ring_init(struct console_ring *r)
{
	void *p = mmap(NULL, CONSOLE_RING_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	/* a guest that says little costs a page, not a huge one */
	madvise(p, CONSOLE_RING_BYTES, MADV_NOHUGEPAGE);
	r->data = p;
	r->end = 0;
	return 0;
}

void console_ring_fini(struct console_ring *r)
{
	if (r->data)
		munmap(r->data, CONSOLE_RING_BYTES);
	r->data = NULL;
}

void console_ring_put(struct console_ring *r, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len) {
		size_t at = r->end % CONSOLE_RING_BYTES;
		size_t n = MIN(len, CONSOLE_RING_BYTES - at);

		memcpy(r->data + at, from, n);
		r->end += n;
		from += n;
		len -= n;
	}
}

uint64_t console_ring_start(const struct console_ring *r)
{
	return r->end > CONSOLE_RING_BYTES ? r->end - CONSOLE_RING_BYTES : 0;
}

size_t console_ring_get(const struct console_ring *r, uint64_t pos, const uint8_t **ret_data)
{
	size_t at = pos % CONSOLE_RING_BYTES;

	*ret_data = r->data + at;
	return (size_t)MIN(r->end - pos, (uint64_t)(CONSOLE_RING_BYTES - at));
}
