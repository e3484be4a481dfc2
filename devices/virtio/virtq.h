/*
 * The split virtqueue (virtio 1.2 §2.7): the device's side.
 *
 * A virtq is active and immutable in its configuration: addresses and size were validated and
 * resolved to host memory once. virtq_pop() is the one walker of descriptors: it copies each
 * descriptor once, bounds the chain (no loop; at most queue-size descriptors in the ring, at most
 * VIRTQ_SIZE_MAX in an indirect table), and gives iovecs of guest memory. Devices never see the
 * ring.
 *
 * Threads: one thread at a time, the device's loop thread.
 */
#ifndef DEVICES_VIRTIO_VIRTQ_H
#define DEVICES_VIRTIO_VIRTQ_H

#include "base/gmem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 1024
/* iovecs of one chain. A guest that wants more than a device's seg_max breaks the protocol. */
#define VIRTQ_SEGS_MAX 256

/* A queue that the driver is setting up. Plain registers, nothing checked. */
struct virtq_config {
	uint16_t size;
	gpa_t desc, avail, used;
	bool enabled;
};

struct virtq;

/* Validates and resolves. -EINVAL: size not a power of two or over the maximum, or misaligned;
 * -EFAULT: a ring is outside guest memory; -ENOMEM. */
int virtq_new(const struct gmem *mem, const struct virtq_config *config, uint64_t features,
	      unsigned index, struct virtq **ret_vq);
void virtq_free(struct virtq *vq);
unsigned virtq_index(const struct virtq *vq);
unsigned virtq_size(const struct virtq *vq);

/* Where the rings lie in this process, for a backend in the kernel (vhost). */
struct virtq_rings {
	const void *desc, *avail;
	void *used;
};
struct virtq_rings virtq_rings(const struct virtq *vq);

/* A chain taken from the ring. iov[0..nread) the device reads, iov[nread..nread+nwrite) it writes.
 */
struct virtq_chain {
	uint16_t head;
	uint16_t nread, nwrite;
	uint32_t read_bytes, write_bytes;
	struct iovec *iov; /* the caller's array of `max_iov` */
	uint16_t max_iov;
};

/*
 * Takes the next available chain. 1: taken, 0: none, -EPROTO: the driver broke the rules (the
 * device must go to NEEDS_RESET; nothing more is taken). `chain->iov` and `max_iov` are set by the
 * caller.
 */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain);

/* Gives a chain back, `written` bytes of it written; visible to the driver at once. */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t written_bytes);

/* Whether the driver wants an interrupt for what was pushed since the last call (§2.7.7, §2.7.10).
 */
bool virtq_should_notify(struct virtq *vq);

/*
 * Doorbell suppression. virtq_kick_disable() before a burst of pops; virtq_kick_enable() after the
 * last, which returns true when more chains came meanwhile: then pop again.
 */
void virtq_kick_disable(struct virtq *vq);
bool virtq_kick_enable(struct virtq *vq);

/* Do chains wait? Cheap, for looking again and again. */
bool virtq_has_chains(const struct virtq *vq);

#endif
