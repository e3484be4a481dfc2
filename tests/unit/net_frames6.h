/* Frames of IPv6 that a guest sends, each with whether it may. For both who judge that: the device,
 * and the rules of nftables. */
#ifndef TESTS_UNIT_NET_FRAMES6_H
#define TESTS_UNIT_NET_FRAMES6_H

#include "base/bytes.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define FRAMES6_MAX 40

struct frame6 {
	const char *name;
	bool good;
	size_t len;
	uint8_t bytes[160];
};

static const uint8_t frame6_own[16] = {0x20, 1, 0xd, 0xb8, [15] = 6},
		     frame6_other[16] = {0x20, 1, 0xd, 0xb8, [15] = 7}, frame6_none[16];

enum { FRAME6_UDP = 17, FRAME6_FRAGMENT = 44, FRAME6_ICMP = 58, FRAME6_OPTIONS = 60 };

struct frames6 {
	struct frame6 *list;
	unsigned n;
	const uint8_t *mac;
};

/* The frame with headers of options, `options` of them of 8 bytes, up to what is next. */
static inline struct frame6 *frame6_begin(struct frames6 *all, const char *name, bool good,
					  const uint8_t *source, unsigned options, uint8_t next)
{
	struct frame6 *f = &all->list[all->n++];
	uint8_t *ip = f->bytes + 14;

	assert(all->n <= FRAMES6_MAX);
	memset(f, 0, sizeof(*f));
	f->name = name;
	f->good = good;
	memcpy(f->bytes, "\x33\x33\0\0\0\1", 6);
	memcpy(f->bytes + 6, all->mac, 6);
	be16_store(f->bytes + 12, 0x86dd);
	ip[0] = 0x60;
	ip[6] = options ? FRAME6_OPTIONS : next;
	ip[7] = 255;
	memcpy(ip + 8, source, 16);
	memcpy(ip + 24, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
	f->len = 14 + 40;
	for (unsigned i = 0; i < options; i++) {
		uint8_t *o = f->bytes + f->len;

		o[0] = i + 1 < options ? FRAME6_OPTIONS : next;
		o[2] = 1; /* PadN */
		o[3] = 4;
		f->len += 8;
	}
	return f;
}

static inline void frame6_end(struct frame6 *f, size_t bytes)
{
	f->len += bytes;
	assert(f->len <= sizeof(f->bytes));
	be16_store(f->bytes + 14 + 4, (uint16_t)(f->len - 14 - 40));
}

static inline void frame6_udp(struct frames6 *all, const char *name, bool good,
			      const uint8_t *source, unsigned options)
{
	struct frame6 *f = frame6_begin(all, name, good, source, options, FRAME6_UDP);

	be16_store(f->bytes + f->len + 4, 12);
	frame6_end(f, 12);
}

static inline void frame6_icmp(struct frames6 *all, const char *name, bool good,
			       const uint8_t *source, unsigned options, uint8_t type,
			       const uint8_t *target)
{
	struct frame6 *f = frame6_begin(all, name, good, source, options, FRAME6_ICMP);

	f->bytes[f->len] = type;
	memcpy(f->bytes + f->len + 8, target, 16);
	frame6_end(f, 24);
}

/* How many. `mac` is the guest's, frame6_own its address. */
static inline unsigned frames6_build(struct frame6 list[FRAMES6_MAX], const uint8_t mac[6])
{
	struct frames6 all = {.list = list, .mac = mac};
	const uint8_t local[16] = {0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2],
				   0xff, 0xfe, mac[3],		 mac[4], mac[5]};
	uint8_t other_local[16];
	struct frame6 *f;

	memcpy(other_local, local, 16);
	other_local[15]++;
	frame6_udp(&all, "own", true, frame6_own, 0);
	frame6_udp(&all, "link-local", true, local, 0);
	frame6_udp(&all, "own, with options", true, frame6_own, 2);
	frame6_udp(&all, "another's", false, frame6_other, 0);
	frame6_udp(&all, "another's link-local", false, other_local, 0);
	frame6_udp(&all, "unspecified", false, frame6_none, 0);
	frame6_udp(&all, "another's, with options", false, frame6_other, 2);
	frame6_icmp(&all, "echo", true, frame6_own, 0, 128, frame6_none);
	frame6_icmp(&all, "another's echo", false, frame6_other, 0, 128, frame6_none);
	frame6_icmp(&all, "solicitation", true, frame6_own, 0, 135, frame6_other);
	frame6_icmp(&all, "solicitation from another", false, frame6_other, 0, 135, frame6_own);
	frame6_icmp(&all, "is this mine?", true, frame6_none, 0, 135, frame6_own);
	frame6_icmp(&all, "is this link-local one mine?", true, frame6_none, 0, 135, local);
	frame6_icmp(&all, "another's is mine?", false, frame6_none, 0, 135, frame6_other);
	frame6_icmp(&all, "advertisement", true, frame6_own, 0, 136, frame6_own);
	frame6_icmp(&all, "advertisement, link-local", true, local, 0, 136, local);
	frame6_icmp(&all, "another's advertisement", false, frame6_own, 0, 136, frame6_other);
	frame6_icmp(&all, "another's, behind options", false, frame6_own, 2, 136, frame6_other);
	frame6_icmp(&all, "own, behind options", true, frame6_own, 2, 136, frame6_own);
	frame6_icmp(&all, "router solicitation", true, frame6_none, 0, 133, frame6_none);
	frame6_icmp(&all, "router advertisement", false, local, 0, 134, frame6_none);
	frame6_icmp(&all, "router advertisement, behind options", false, local, 1, 134,
		    frame6_none);
	frame6_icmp(&all, "redirect", false, local, 0, 137, frame6_own);
	frame6_icmp(&all, "listener report", true, frame6_none, 1, 143, frame6_none);
	f = frame6_begin(&all, "fragment", true, frame6_own, 0, FRAME6_FRAGMENT);
	f->bytes[f->len] = FRAME6_UDP;
	f->bytes[f->len + 3] = 1; /* more */
	frame6_end(f, 16);
	f = frame6_begin(&all, "nothing behind it", true, frame6_own, 0, 59);
	frame6_end(f, 0);
	return all.n;
}

#endif
