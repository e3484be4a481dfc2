/*
 * A kernel's vhost-net that only records what it is told, and holds its caller to the real one's
 * rules: no ring is changed while it has a backend, none gets one before it is set up.
 *
 * Descriptors are known by the order in which they were owned: the n-th is pair n.
 *
 * Threads: any.
 */
#ifndef TESTS_UNIT_FAKE_VHOST_NET_H
#define TESTS_UNIT_FAKE_VHOST_NET_H

#include "base/checked.h"
#include "base/cleanup.h"
#include "tests/unit/virtio_driver.h"

/* clang-format off: its names are the driver's as well */
#define vring	   linux_vring
#define vring_init linux_vring_init
#include <linux/vhost.h>
#undef vring
#undef vring_init
/* clang-format on */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FAKE_PAIRS 7
#define FAKE_LOG   256

struct fake_ring {
	struct vhost_vring_addr addr;
	unsigned num, base;
	int kick, call, error;
	int backend; /* -1: none */
};

struct fake_pair {
	int fd;
	uint64_t features;
	unsigned nregions;
	struct vhost_memory_region regions[8];
	struct fake_ring rings[2];
};

static struct fake_vhost {
	pthread_mutex_t lock;
	uint64_t features; /* that it has */
	unsigned npairs;
	struct fake_pair pairs[FAKE_PAIRS];
	unsigned long fail; /* this request, for ring `fail_ring` (-1: any) with `fail_code` */
	int fail_ring, fail_code;
	bool fail_unbind; /* of VHOST_NET_SET_BACKEND: those that take it away, else the others */
	unsigned ncalls;
	unsigned long log[FAKE_LOG];
} kernel = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void fake_vhost_init(void)
{
	AUTOLOCK(&kernel.lock);
	kernel.features = UINT64_MAX >> 20; /* the bit of VHOST_NET_F_VIRTIO_NET_HDR as well */
	kernel.npairs = 0;
	kernel.fail = 0;
	kernel.fail_ring = -1;
	kernel.fail_unbind = false;
	kernel.ncalls = 0;
	memset(kernel.pairs, 0, sizeof(kernel.pairs));
	for (unsigned i = 0; i < FAKE_PAIRS; i++)
		kernel.pairs[i].rings[0].backend = kernel.pairs[i].rings[1].backend = -1;
}

static inline void fake_vhost_fail(unsigned long request, int ring, int code)
{
	AUTOLOCK(&kernel.lock);
	kernel.fail = request;
	kernel.fail_ring = ring;
	kernel.fail_code = code;
}

/* The ring as it is now. */
static inline struct fake_ring fake_ring_of(unsigned pair, unsigned ring)
{
	AUTOLOCK(&kernel.lock);
	return kernel.pairs[pair].rings[ring];
}

static inline bool fake_served(unsigned pair)
{
	const int a = fake_ring_of(pair, 0).backend, b = fake_ring_of(pair, 1).backend;

	assert_int_equal(a, b);
	return a >= 0;
}

/* How many calls there were, and the n-th since then. */
static inline unsigned fake_calls(void)
{
	AUTOLOCK(&kernel.lock);
	return kernel.ncalls;
}

static inline unsigned long fake_call(unsigned n)
{
	AUTOLOCK(&kernel.lock);
	return n < kernel.ncalls ? kernel.log[n % FAKE_LOG] : 0;
}

static inline int fake_ring_ioctl(struct fake_ring *r, unsigned long request, void *arg)
{
	struct vhost_vring_state *state = arg;
	const struct vhost_vring_file *file = arg;
	const bool busy = r->backend >= 0;

	switch (request) {
	case VHOST_SET_VRING_NUM:
		r->num = state->num;
		return busy ? EBUSY : 0;
	case VHOST_SET_VRING_BASE:
		r->base = state->num;
		return busy ? EBUSY : 0;
	case VHOST_GET_VRING_BASE:
		state->num = r->base;
		return busy ? EBUSY : 0; /* it could move on: ours alone to ask for */
	case VHOST_SET_VRING_ADDR:
		r->addr = *(struct vhost_vring_addr *)arg;
		return 0;
	case VHOST_SET_VRING_KICK:
		r->kick = file->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		r->call = file->fd;
		return 0;
	case VHOST_SET_VRING_ERR:
		r->error = file->fd;
		return 0;
	case VHOST_NET_SET_BACKEND:
		if (!r->addr.desc_user_addr)
			return EFAULT;
		r->backend = file->fd;
		return 0;
	default:
		return ENOTTY;
	}
}

static inline int fake_pair_ioctl(struct fake_pair *p, unsigned long request, void *arg)
{
	const struct vhost_memory *memory = arg;
	unsigned index;

	switch (request) {
	case VHOST_GET_FEATURES:
		memcpy(arg, &kernel.features, 8);
		return 0;
	case VHOST_SET_FEATURES:
		memcpy(&p->features, arg, 8);
		return p->features & ~kernel.features ? EOPNOTSUPP : 0;
	case VHOST_SET_MEM_TABLE:
		p->nregions = memory->nregions;
		memcpy(p->regions, memory->regions, memory->nregions * sizeof(memory->regions[0]));
		return 0;
	default:
		memcpy(&index, arg, sizeof(index)); /* the first of all these structs */
		return index > 1 ? ENOBUFS : fake_ring_ioctl(&p->rings[index], request, arg);
	}
}

static inline bool fake_must_fail(unsigned long request, const void *arg)
{
	const struct vhost_vring_file *file = arg;

	if (request != kernel.fail)
		return false;
	if (kernel.fail_ring >= 0 && file->index != (unsigned)kernel.fail_ring)
		return false;
	return request != VHOST_NET_SET_BACKEND || (file->fd < 0) == kernel.fail_unbind;
}

static inline int fake_ioctl(int fd, unsigned long request, void *arg)
{
	unsigned n = 0;

	AUTOLOCK(&kernel.lock);
	kernel.log[kernel.ncalls++ % FAKE_LOG] = request;
	if (fake_must_fail(request, arg)) {
		errno = kernel.fail_code;
		return -1;
	}
	if (request == VHOST_SET_OWNER) {
		kernel.pairs[kernel.npairs++].fd = fd;
		return 0;
	}
	while (n < kernel.npairs && kernel.pairs[n].fd != fd)
		n++;
	errno = n < kernel.npairs ? fake_pair_ioctl(&kernel.pairs[n], request, arg) : EBADF;
	return errno ? -1 : 0;
}

#endif
