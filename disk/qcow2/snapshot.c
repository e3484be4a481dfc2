/* Internal snapshots: their table, and what they refer to. */
#include "base/cleanup.h"
#include "disk/qcow2/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One entry of the table, validated; `at` is where the next begins. */
struct entry {
	uint64_t l1_offset;
	uint32_t l1_entries;
	struct qcow2_snapshot s;
};

static void copy_text(char *to, size_t size, const uint8_t *from, size_t len)
{
	size_t n = MIN(len, size - 1);

	memcpy(to, from, n);
	to[n] = 0;
}

/* What follows an entry's fixed part is bounded: extra data, two strings of 16-bit lengths. */
#define ENTRY_MAX (Q2_SNAPSHOT_EXTRA_MAX + 2 * 65536u)

static int read_entry(struct qcow2 *q, uint64_t *at, uint8_t *buf, struct entry *ret,
		      struct err *err)
{
	struct q2_snapshot_disk d;
	uint32_t extra, id_len, name_len;
	const uint8_t *p = buf;
	int r = q2_pread(&q->file, &d, sizeof(d), *at);

	if (r)
		return err_sys(err, -r, "its snapshot table cannot be read");
	extra = be32_get(d.extra_len);
	id_len = be16_get(d.id_len);
	name_len = be16_get(d.name_len);
	if (extra > Q2_SNAPSHOT_EXTRA_MAX)
		return err_set(err, EINVAL,
			       "a snapshot has %u bytes of extra data; %u are possible", extra,
			       Q2_SNAPSHOT_EXTRA_MAX);
	if (be32_get(d.l1_entries) > Q2_L1_BYTES_MAX / 8)
		return err_set(err, EINVAL, "a snapshot's l1_size is %u entries; %llu are possible",
			       be32_get(d.l1_entries), (unsigned long long)(Q2_L1_BYTES_MAX / 8));
	r = q2_pread(&q->file, buf, (size_t)extra + id_len + name_len, *at + sizeof(d));
	if (r)
		return err_sys(err, -r, "its snapshot table cannot be read");
	*ret = (struct entry){
	    .l1_offset = be64_get(d.l1_offset),
	    .l1_entries = be32_get(d.l1_entries),
	    .s = {.size_bytes = extra >= 16 ? be64_load(p + 8) : q->h.size_bytes,
		  .vm_state_bytes = extra >= 8 ? be64_load(p) : be32_get(d.vm_state_bytes),
		  .vm_clock_ns = be64_get(d.vm_clock_ns),
		  .date_sec = be32_get(d.date_sec),
		  .date_nsec = be32_get(d.date_nsec)},
	};
	copy_text(ret->s.id, sizeof(ret->s.id), p + extra, id_len);
	copy_text(ret->s.name, sizeof(ret->s.name), p + extra + id_len, name_len);
	*at += align_up(sizeof(d) + extra + id_len + name_len, 8);
	if (*at - q->h.snapshots_offset > Q2_SNAPSHOT_TABLE_MAX || *at > align_up(q->file_end, 8))
		return err_set(err, EINVAL,
			       "its snapshot table goes past %llu bytes or the end of the "
			       "file",
			       (unsigned long long)Q2_SNAPSHOT_TABLE_MAX);
	return 0;
}

static int read_list(struct qcow2 *q, struct qcow2_snapshot **ret_list, struct err *err)
{
	autofree struct qcow2_snapshot *list = q2_zalloc(q->h.snapshots * sizeof(*list));
	autofree uint8_t *buf = q2_zalloc(ENTRY_MAX);
	uint64_t at = q->h.snapshots_offset;

	if (!buf || !list)
		return err_set(err, ENOMEM, "no memory");
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		struct entry e = {0};
		int r = read_entry(q, &at, buf, &e, err);

		if (r)
			return r;
		list[i] = e.s;
	}
	*ret_list = steal_ptr(&list);
	return 0;
}

int qcow2_snapshot_list(const char *path, struct qcow2_snapshot **ret_list, unsigned *ret_count,
			struct err *err)
{
	struct qcow2_snapshot *list = NULL;
	unsigned count;
	struct qcow2 *q;
	int r = q2_tool_open(path, true, true, &q, err);

	if (r)
		return r;
	count = q->h.snapshots;
	if (count)
		r = read_list(q, &list, err);
	r = q2_tool_close(q, r, err);
	if (r)
		return r;
	*ret_list = list;
	*ret_count = count;
	return 0;
}

int q2_check_snapshots(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	autofree uint8_t *buf = q2_zalloc(ENTRY_MAX);
	uint64_t at = q->h.snapshots_offset;
	struct err err = ERR_INIT;
	int r = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; !r && i < q->h.snapshots; i++) {
		struct entry e = {0};

		if (read_entry(q, &at, buf, &e, &err)) {
			q2_check_problem(c, "snapshot %u: %s", i, err.msg);
			c->result.corruptions++;
			c->unfixable = true;
			return 0;
		}
		r = q2_check_l1(c, e.l1_offset, e.l1_entries);
	}
	if (!r && at > q->h.snapshots_offset &&
	    !q2_check_ref(c, q->h.snapshots_offset, at - q->h.snapshots_offset))
		r = -EIO;
	return r;
}
