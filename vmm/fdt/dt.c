#include "vmm/fdt/dt.h"

#include <errno.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 64

static void keep(struct dt *dt, int error)
{
	if (!dt->error)
		dt->error = error;
}

void dt_init(struct dt *dt, void *buf, size_t cap)
{
	*dt = (struct dt){.buf = buf};
	/* names twice cost bytes; looking for each takes longer than all else */
	keep(dt, fdt_create_with_flags(buf, (int)cap, FDT_CREATE_FLAG_NO_NAME_DEDUP));
	if (!dt->error)
		keep(dt, fdt_finish_reservemap(buf));
	dt_node(dt, "");
}

int dt_finish(struct dt *dt, size_t *ret_len)
{
	dt_end(dt);
	if (dt->depth)
		keep(dt, -FDT_ERR_BADSTRUCTURE);
	if (!dt->error)
		keep(dt, fdt_finish(dt->buf));
	if (dt->error)
		return dt->error == -FDT_ERR_NOSPACE ? -ENOSPC : -EINVAL;
	*ret_len = fdt_totalsize(dt->buf);
	return 0;
}

void dt_node(struct dt *dt, const char *name)
{
	if (!dt->error)
		keep(dt, fdt_begin_node(dt->buf, name));
	dt->depth++;
}

void dt_node_at(struct dt *dt, const char *name, uint64_t address)
{
	char full[NAME_MAX_BYTES];

	snprintf(full, sizeof(full), "%s@%" PRIx64, name, address);
	dt_node(dt, full);
}

void dt_end(struct dt *dt)
{
	if (!dt->error)
		keep(dt, fdt_end_node(dt->buf));
	dt->depth--;
}

void dt_bytes(struct dt *dt, const char *name, const void *bytes, size_t len)
{
	if (!dt->error)
		keep(dt, fdt_property(dt->buf, name, bytes, (int)len));
}

void dt_empty(struct dt *dt, const char *name)
{
	dt_bytes(dt, name, NULL, 0);
}

void dt_text(struct dt *dt, const char *name, const char *text)
{
	dt_bytes(dt, name, text, strlen(text) + 1);
}

void dt_texts(struct dt *dt, const char *name, const char *texts, size_t len)
{
	dt_bytes(dt, name, texts, len + 1);
}

void dt_u32(struct dt *dt, const char *name, uint32_t value)
{
	dt_cells(dt, name, &value, 1);
}

void dt_u64(struct dt *dt, const char *name, uint64_t value)
{
	DT_CELLS(dt, name, DT_U64(value));
}

void dt_cells(struct dt *dt, const char *name, const uint32_t *cells, size_t n)
{
	void *to;

	if (!dt->error)
		keep(dt, fdt_property_placeholder(dt->buf, name, (int)(n * sizeof(*cells)), &to));
	for (size_t i = 0; i < n && !dt->error; i++)
		fdt32_st((uint8_t *)to + i * sizeof(*cells), cells[i]);
}
