/*
 * Compressed clusters: zlib (raw deflate) and zstd.
 *
 * What comes out is one cluster and no byte more, whatever the data says, in memory that is there
 * already; zstd's window is bounded by that as well. Pure. Threads: one at a time for one codec.
 */
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define DEFLATE_WBITS 12 /* the window that the format's readers are sure to have */

void q2_codec_free(struct q2_codec *c)
{
	if (c->z)
		inflateEnd(c->z);
	free(c->z);
	ZSTD_freeDCtx(c->zstd);
	*c = (struct q2_codec){0};
}

/* A stream at its start, or NULL. */
static z_stream *zlib_stream(struct q2_codec *c)
{
	z_stream *z = c->z;

	if (z)
		return inflateReset(z) == Z_OK ? z : NULL;
	z = calloc(1, sizeof(*z));
	if (!z || inflateInit2(z, -15) != Z_OK) {
		free(z);
		return NULL;
	}
	c->z = z;
	return z;
}

static int unpack_zlib(struct q2_codec *c, const uint8_t *data, uint32_t len, uint8_t *cluster,
		       uint32_t cluster_bytes)
{
	z_stream *z = zlib_stream(c);
	const void *in = data;
	int r;

	if (!z)
		return -ENOMEM;
	memcpy(&z->next_in, &in, sizeof(in)); /* not const in zlib, although it is only read */
	z->avail_in = len;
	z->next_out = cluster;
	z->avail_out = cluster_bytes;
	r = inflate(z, Z_FINISH);
	/* the last sector has other data behind; that is not read once the cluster is full */
	if ((r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK) && !z->avail_out)
		return 0;
	return -EIO;
}

static int unpack_zstd(struct q2_codec *c, const uint8_t *data, uint32_t len, uint8_t *cluster,
		       uint32_t cluster_bytes)
{
	ZSTD_inBuffer in = {data, len, 0};
	ZSTD_outBuffer out = {cluster, cluster_bytes, 0};

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

int q2_unpack(struct q2_codec *c, uint8_t compression, const uint8_t *data, uint32_t len,
	      uint8_t *cluster, uint32_t cluster_bytes)
{
	if (compression == Q2_COMPRESSION_ZSTD)
		return unpack_zstd(c, data, len, cluster, cluster_bytes);
	return unpack_zlib(c, data, len, cluster, cluster_bytes);
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
