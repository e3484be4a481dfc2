/*
 * Compressed clusters: zlib (raw deflate) and zstd.
 *
 * What comes out is one cluster and no byte more, whatever the data says; zstd's window is bounded
 * by the cluster as well. The clusters that were unpacked last are kept, so that reading one in
 * small pieces unpacks it once.
 */
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define SLOTS	      4
#define SLOTS_HUGE    2 /* for clusters of more than: */
#define HUGE_BYTES    (256u * 1024)
#define DEFLATE_WBITS 12 /* the window that the format's readers are sure to have */

struct slot {
	uint8_t *data;
	uint64_t host; /* 0: empty */
	uint32_t len;
};

struct q2_inflate {
	struct slot slots[SLOTS];
	unsigned nslots, next;
	z_stream z;
	bool z_ready;
	ZSTD_DCtx *zstd;
};

int q2_inflate_init(struct qcow2 *q)
{
	q->inflate = calloc(1, sizeof(*q->inflate));
	if (!q->inflate)
		return -ENOMEM;
	q->inflate->nslots = q->cluster_bytes > HUGE_BYTES ? SLOTS_HUGE : SLOTS;
	return 0;
}

void q2_inflate_free(struct qcow2 *q)
{
	struct q2_inflate *c = q->inflate;

	if (!c)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		free(c->slots[i].data);
	if (c->z_ready)
		inflateEnd(&c->z);
	ZSTD_freeDCtx(c->zstd);
	free(c);
	q->inflate = NULL;
}

const uint8_t *q2_inflated_find(struct qcow2 *q, uint64_t host, uint32_t len)
{
	struct q2_inflate *c = q->inflate;

	for (unsigned i = 0; i < c->nslots; i++) {
		if (c->slots[i].host == host && c->slots[i].len == len)
			return c->slots[i].data;
	}
	return NULL;
}

uint8_t *q2_inflated_slot(struct qcow2 *q)
{
	struct q2_inflate *c = q->inflate;
	struct slot *s = &c->slots[c->next];

	s->host = 0;
	if (!s->data)
		s->data = malloc(q->cluster_bytes);
	return s->data;
}

void q2_inflated_add(struct qcow2 *q, uint64_t host, uint32_t len)
{
	struct q2_inflate *c = q->inflate;

	c->slots[c->next].host = host;
	c->slots[c->next].len = len;
	c->next = (c->next + 1) % c->nslots;
}

void q2_inflated_forget(struct qcow2 *q)
{
	for (unsigned i = 0; i < SLOTS; i++)
		q->inflate->slots[i].host = 0;
}

static int unpack_zlib(struct qcow2 *q, const uint8_t *data, uint32_t len, uint8_t *cluster)
{
	struct q2_inflate *c = q->inflate;
	z_stream *z = &c->z;
	const void *in = data;
	int r;

	if (!c->z_ready && inflateInit2(z, -15) != Z_OK)
		return -ENOMEM;
	if (c->z_ready && inflateReset(z) != Z_OK)
		return -EIO;
	c->z_ready = true;
	memcpy(&z->next_in, &in, sizeof(in)); /* not const in zlib, although it is only read */
	z->avail_in = len;
	z->next_out = cluster;
	z->avail_out = q->cluster_bytes;
	r = inflate(z, Z_FINISH);
	/* the last sector has other data behind; that is not read once the cluster is full */
	if ((r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK) && !z->avail_out)
		return 0;
	return -EIO;
}

static int unpack_zstd(struct qcow2 *q, const uint8_t *data, uint32_t len, uint8_t *cluster)
{
	struct q2_inflate *c = q->inflate;
	ZSTD_inBuffer in = {data, len, 0};
	ZSTD_outBuffer out = {cluster, q->cluster_bytes, 0};

	if (!c->zstd)
		c->zstd = ZSTD_createDCtx();
	if (!c->zstd)
		return -ENOMEM;
	ZSTD_DCtx_reset(c->zstd, ZSTD_reset_session_only);
	while (out.pos < out.size) {
		size_t before = out.pos, left = in.pos;
		size_t r = ZSTD_decompressStream(c->zstd, &out, &in);

		if (ZSTD_isError(r) || (out.pos == before && in.pos == left))
			return -EIO;
		if (!r && out.pos < out.size && in.pos == in.size)
			return -EIO;
	}
	return 0;
}

int q2_unpack(struct qcow2 *q, const uint8_t *data, uint32_t len, uint8_t *cluster)
{
	if (q->h.compression == Q2_COMPRESSION_ZSTD)
		return unpack_zstd(q, data, len, cluster);
	return unpack_zlib(q, data, len, cluster);
}

static int pack_zlib(uint32_t cluster_bytes, const uint8_t *cluster, uint8_t *out,
		     uint32_t *ret_len)
{
	z_stream z = {0};
	const void *in = cluster;
	int r;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -DEFLATE_WBITS, 9,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	memcpy(&z.next_in, &in, sizeof(in));
	z.avail_in = cluster_bytes;
	z.next_out = out;
	z.avail_out = cluster_bytes - 1;
	r = deflate(&z, Z_FINISH);
	*ret_len = cluster_bytes - 1 - z.avail_out;
	deflateEnd(&z);
	return r == Z_STREAM_END ? 0 : -ENOSPC;
}

int q2_pack(struct qcow2 *q, const uint8_t *cluster, uint8_t *out, uint32_t *ret_len)
{
	size_t n;

	if (q->h.compression != Q2_COMPRESSION_ZSTD)
		return pack_zlib(q->cluster_bytes, cluster, out, ret_len);
	n = ZSTD_compress(out, q->cluster_bytes - 1, cluster, q->cluster_bytes,
			  ZSTD_CLEVEL_DEFAULT);
	if (ZSTD_isError(n))
		return -ENOSPC;
	*ret_len = (uint32_t)n;
	return 0;
}
