/* Frames of TCP and UDP over IPv4 and IPv6 for tests: built with a checksum or a partial one, and
 * judged. */
#ifndef TESTS_UNIT_NET_FRAMES_H
#define TESTS_UNIT_NET_FRAMES_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VNET_HDR 12

enum frame_kind { FRAME_TCP4, FRAME_TCP6, FRAME_UDP4, FRAME_KINDS };

static const uint8_t frame_host_mac[6] = {2, 9, 9, 9, 9, 1},
		     frame_guest_mac[6] = {2, 1, 2, 3, 4, 5};

static inline uint32_t frame_sum(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static inline size_t frame_ip_bytes(const uint8_t *frame)
{
	return be16_load(frame + 12) == 0x800 ? 20 : 40;
}

static inline bool frame_is_udp(const uint8_t *frame)
{
	return frame[14 + (frame_ip_bytes(frame) == 20 ? 9 : 6)] == 17;
}

static inline size_t frame_headers(const uint8_t *frame)
{
	return 14 + frame_ip_bytes(frame) + (frame_is_udp(frame) ? 8 : 20);
}

/* Of the pseudo header. */
static inline uint32_t frame_pseudo(const uint8_t *frame, size_t l4_bytes)
{
	const bool v4 = frame_ip_bytes(frame) == 20;
	const uint8_t tail[] = {0, frame_is_udp(frame) ? 17 : 6, (uint8_t)(l4_bytes >> 8),
				(uint8_t)l4_bytes};

	return frame_sum(frame_sum(0, tail, 4), frame + 14 + (v4 ? 12 : 8), v4 ? 8 : 32);
}

static inline size_t frame_csum_offset(const uint8_t *frame)
{
	return frame_is_udp(frame) ? 6 : 16;
}

/* Headers in front of `len` bytes of payload, with the partial checksum, or the whole. Its length.
 */
static inline size_t frame_build(uint8_t *f, enum frame_kind kind, const uint8_t *dst,
				 const uint8_t *src, size_t len, bool whole)
{
	const size_t l4_bytes = (kind == FRAME_UDP4 ? 8 : 20) + len;
	const size_t ip = 14, l4 = ip + (kind == FRAME_TCP6 ? 40 : 20);

	memset(f, 0, l4 + l4_bytes - len);
	memcpy(f, dst, 6);
	memcpy(f + 6, src, 6);
	be16_store(f + 12, kind == FRAME_TCP6 ? 0x86dd : 0x800);
	if (kind == FRAME_TCP6) {
		f[ip] = 0x60;
		be16_store(f + ip + 4, (uint16_t)l4_bytes);
		f[ip + 6] = 6;
		f[ip + 7] = 64;
		f[ip + 8] = f[ip + 24] = 0xfd;
		f[ip + 23] = 2;
		f[ip + 39] = 1;
	} else {
		f[ip] = 0x45;
		be16_store(f + ip + 2, (uint16_t)(20 + l4_bytes));
		f[ip + 8] = 64;
		f[ip + 9] = kind == FRAME_UDP4 ? 17 : 6;
		be32_store(f + ip + 12, memcmp(src, frame_guest_mac, 6) ? 0x0a090901 : 0x0a090902);
		be32_store(f + ip + 16, memcmp(dst, frame_guest_mac, 6) ? 0x0a090901 : 0x0a090902);
		be16_store(f + ip + 10, (uint16_t)~frame_sum(0, f + ip, 20));
	}
	be16_store(f + l4, 1000);
	be16_store(f + l4 + 2, 7777);
	if (kind == FRAME_UDP4) {
		be16_store(f + l4 + 4, (uint16_t)l4_bytes);
	} else {
		f[l4 + 12] = 0x50;
		f[l4 + 13] = 0x10;
	}
	be16_store(f + l4 + frame_csum_offset(f), (uint16_t)frame_pseudo(f, l4_bytes));
	if (whole)
		be16_store(f + l4 + frame_csum_offset(f),
			   (uint16_t)~frame_sum(0, f + l4, l4_bytes));
	return l4 + l4_bytes;
}

/* Is its checksum right: the whole, or (`partial`) that of the pseudo header? */
static inline bool frame_checks(const uint8_t *f, size_t len, bool partial)
{
	const size_t l4 = 14 + frame_ip_bytes(f);
	const uint32_t pseudo = frame_pseudo(f, len - l4);

	if (frame_ip_bytes(f) == 20 && frame_sum(0, f + 14, 20) != 0xffff)
		return false;
	if (partial)
		return be16_load(f + l4 + frame_csum_offset(f)) == (uint16_t)pseudo;
	return frame_sum(pseudo, f + l4, len - l4) == 0xffff;
}

#endif
