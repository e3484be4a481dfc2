/* Unpacking as a stream, against what the libraries' encoders make. */
#include "tests/unit/fake_kernel.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ,   UNPACK_LZMA,
					     UNPACK_LZ4,  UNPACK_ZSTD, UNPACK_NONE};

/* Compares as it goes; bytes of any other length or content fail. */
struct compare {
	struct unpack_sink sink;
	const uint8_t *want;
	size_t want_len, at;
	bool last_seen;
	int fail_with;
};

static int compare_write(struct unpack_sink *sink, const uint8_t *data, size_t len)
{
	struct compare *c = (struct compare *)sink;

	if (c->fail_with)
		return c->fail_with;
	assert_false(c->last_seen);
	assert_true(c->at % UNPACK_PIECE_ALIGN == 0);
	assert_true(len <= c->want_len - c->at);
	assert_memory_equal(data, c->want + c->at, len);
	c->at += len;
	c->last_seen = len % UNPACK_PIECE_ALIGN != 0;
	return 0;
}

static int unpack_compare(enum unpack_format format, const struct blob *packed, size_t packed_len,
			  const struct blob *want, uint64_t max, uint64_t *total, int fail_with)
{
	/* an exact copy, so that the address sanitizer sees each byte that is read too much */
	struct blob exact = blob_new(packed_len);
	struct compare c = {.sink.write = compare_write,
			    .want = want->data,
			    .want_len = want->len,
			    .fail_with = fail_with};
	int r;

	memcpy(exact.data, packed->data, packed_len);
	if (!packed_len) {
		free(exact.data);
		exact.data = malloc(1);
	}
	r = unpack_stream(format, exact.data, packed_len, max, &c.sink, total);
	if (r == 0)
		assert_int_equal(c.at, *total);
	free(exact.data);
	return r;
}

static void gives_back_what_was_packed(void **state)
{
	static const size_t sizes[] = {1,	    13,	     4095,	  4096,	   4097,   65536,
				       0x40000 - 1, 0x40000, 0x40000 + 1, 1234567, 9000001};

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(formats); f++)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			struct blob data = blob_new(sizes[i]);
			uint64_t total = 0;

			fill_like_code(data.data, data.len, (uint32_t)i);

			struct blob packed = pack(formats[f], data.data, data.len);

			assert_int_equal(unpack_compare(formats[f], &packed, packed.len, &data,
							data.len, &total, 0),
					 0);
			assert_int_equal(total, data.len);
			free(packed.data);
			free(data.data);
		}
}

static void lz4_long_runs_cross_the_window(void **state)
{
	(void)state;
	/* one byte, pairs, a pattern of 31, of 32 and of 65535 bytes: matches far longer than the
	 * window */
	static const size_t patterns[] = {1, 2, 3, 15, 16, 17, 31, 32, 33, 65535};

	for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
		struct blob data = blob_new(3 << 20);
		uint64_t total;

		fill_like_code(data.data, patterns[i], 77);
		data.data[0] |= 1;
		for (size_t k = patterns[i]; k < data.len; k++)
			data.data[k] = data.data[k - patterns[i]];

		struct blob packed = pack_lz4(data.data, data.len);

		assert_int_equal(
		    unpack_compare(UNPACK_LZ4, &packed, packed.len, &data, data.len, &total, 0), 0);
		assert_int_equal(total, data.len);
		free(packed.data);
		free(data.data);
	}
}

static void lz4_long_literals_cross_the_window(void **state)
{
	struct blob data = blob_new(1 << 20);
	uint64_t s = 1, total;

	(void)state;
	for (size_t i = 0; i < data.len; i++) {
		s = s * UINT64_C(6364136223846793005) + 1442695040888963407u;
		data.data[i] = (uint8_t)(s >> 56);
	}

	struct blob packed = pack_lz4(data.data, data.len);

	assert_int_equal(
	    unpack_compare(UNPACK_LZ4, &packed, packed.len, &data, data.len, &total, 0), 0);
	assert_int_equal(total, data.len);
	free(packed.data);
	free(data.data);
}

static void lz4_match_before_the_block_is_damage(void **state)
{
	(void)state;
	/* token: 1 literal, match of 4 at distance 2, then 5 literals */
	static const uint8_t frame[] = {0x02, 0x21, 0x4c, 0x18, 10,  0,	  0,   0,   0x10,
					'a',  2,    0,	  0x50, 'b', 'b', 'b', 'b', 'b'};
	struct blob packed = {(uint8_t *)(uintptr_t)frame, sizeof(frame)};
	struct blob none = blob_new(0);
	uint64_t total;

	assert_int_equal(unpack_compare(UNPACK_LZ4, &packed, packed.len, &none, 1 << 20, &total, 0),
			 -EBADMSG);
	free(none.data);
}

/* A block that claims more than the 8 MiB of the format, while the caller would allow it. */
static void lz4_block_of_more_than_8_mib_is_damage(void **state)
{
	(void)state;
	size_t ext = (8 << 20) / 255 + 10;
	struct blob packed = blob_new(8 + 4 + ext + 1 + 6);
	struct blob want = blob_new(9 << 20);
	uint8_t *p = packed.data;
	uint64_t total;

	le32_store(p, 0x184c2102);
	le32_store(p + 4, (uint32_t)(packed.len - 8));
	p[8] = 0x1f; /* one literal, a long match */
	p[9] = 0;
	p[10] = 1;
	memset(p + 12, 255, ext);
	p[12 + ext] = 0;
	p[12 + ext + 1] = 0x50; /* the five literals that end a block */
	assert_int_equal(
	    unpack_compare(UNPACK_LZ4, &packed, packed.len, &want, 64 << 20, &total, 0), -EBADMSG);
	free(want.data);
	free(packed.data);
}

static void cut_anywhere_is_damage(void **state)
{
	struct blob data = blob_new(9000);

	(void)state;
	fill_like_code(data.data, data.len, 5);
	for (size_t f = 0; f < ARRAY_LEN(formats) - 1; f++) {
		struct blob packed = pack(formats[f], data.data, data.len);

		for (size_t len = 0; len < packed.len; len++) {
			uint64_t total = 0;
			int r =
			    unpack_compare(formats[f], &packed, len, &data, data.len, &total, 0);

			/* blocks of lz4 may end early unnoticed: then the total is short */
			if (formats[f] == UNPACK_LZ4 && r == 0)
				assert_true(total < data.len);
			else
				assert_int_equal(r, -EBADMSG);
		}
		free(packed.data);
	}
	free(data.data);
}

static void never_gives_more_than_allowed(void **state)
{
	struct blob data = blob_new(700001);

	(void)state;
	fill_like_code(data.data, data.len, 6);
	for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
		struct blob packed = pack(formats[f], data.data, data.len);
		uint64_t total;

		for (size_t max = 0; max < data.len; max += 99991) {
			struct blob want = {data.data, max};

			assert_int_equal(
			    unpack_compare(formats[f], &packed, packed.len, &want, max, &total, 0),
			    -EFBIG);
		}
		free(packed.data);
	}
	free(data.data);
}

static void stops_when_the_sink_fails(void **state)
{
	struct blob data = blob_new(700001);

	(void)state;
	fill_like_code(data.data, data.len, 6);
	for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
		struct blob packed = pack(formats[f], data.data, data.len);
		uint64_t total;

		assert_int_equal(unpack_compare(formats[f], &packed, packed.len, &data, data.len,
						&total, -ENOSPC),
				 -ENOSPC);
		free(packed.data);
	}
	free(data.data);
}

static int ignore_write(struct unpack_sink *sink, const uint8_t *data, size_t len)
{
	(void)sink;
	(void)data;
	(void)len;
	return 0;
}

/* Damage is an error or other bytes, never a crash (run with SAN=asan). */
static void any_byte_may_be_damaged(void **state)
{
	struct blob data = blob_new(6000);

	(void)state;
	fill_like_code(data.data, data.len, 9);
	for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
		struct blob packed = pack(formats[f], data.data, data.len);

		for (size_t i = 0; i < packed.len; i++)
			for (unsigned k = 0; k < 3; k++) {
				struct unpack_sink sink = {ignore_write};
				uint8_t was = packed.data[i];
				uint64_t total = 0;

				packed.data[i] = k == 0 ? 0 : k == 1 ? 0xff : was ^ 0x10;
				unpack_stream(formats[f], packed.data, packed.len, 1 << 20, &sink,
					      &total);
				assert_true(total <= 1 << 20);
				packed.data[i] = was;
			}
		free(packed.data);
	}
	free(data.data);
}

static void tells_formats_apart(void **state)
{
	struct blob data = blob_new(100);

	(void)state;
	memcpy(data.data,
	       "\x7f"
	       "ELF",
	       4);
	for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
		struct blob packed = pack(formats[f], data.data, data.len);

		assert_int_equal(unpack_detect(packed.data, packed.len), formats[f]);
		assert_int_equal(unpack_detect(packed.data, 5), UNPACK_UNKNOWN);
		free(packed.data);
	}
	assert_int_equal(unpack_detect((const uint8_t *)"BZh91A", 6), UNPACK_UNKNOWN);
	free(data.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(gives_back_what_was_packed),
	    cmocka_unit_test(lz4_long_runs_cross_the_window),
	    cmocka_unit_test(lz4_long_literals_cross_the_window),
	    cmocka_unit_test(lz4_match_before_the_block_is_damage),
	    cmocka_unit_test(lz4_block_of_more_than_8_mib_is_damage),
	    cmocka_unit_test(cut_anywhere_is_damage),
	    cmocka_unit_test(never_gives_more_than_allowed),
	    cmocka_unit_test(stops_when_the_sink_fails),
	    cmocka_unit_test(any_byte_may_be_damaged),
	    cmocka_unit_test(tells_formats_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
