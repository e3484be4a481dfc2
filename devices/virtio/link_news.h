/*
 * News that some network interface of the host has changed or gone (rtnetlink(7), RTMGRP_LINK).
 *
 * For those who hold a tap and do not wait for its packets: a tap that is deleted shows POLLERR,
 * but wakes up only whoever waits for packets as well, and who does that is woken by every packet.
 * News are of the network namespace of whoever opened this.
 *
 * Threads: opened and closed by one thread, else the loop's.
 */
#ifndef DEVICES_VIRTIO_LINK_NEWS_H
#define DEVICES_VIRTIO_LINK_NEWS_H

#include "base/err.h"
#include "devices/virtio/virtio_loop.h"

struct link_news {
	int fd; /* -1: not open, and there are no news */
	struct virtio_loop *vl;
	void (*fn)(struct link_news *news); /* once for a batch; which interface is not said */
	struct loop_op op;
	bool waiting;
};

/* Errors as of socket(2) and bind(2); then it is as one that hears nothing. */
int link_news_open(struct link_news *news, struct virtio_loop *vl,
		   void (*fn)(struct link_news *news), struct err *err);
void link_news_close(struct link_news *news);

/* From virtio_loop_ops.starting and .stopping. */
void link_news_start(struct link_news *news);
void link_news_stop(struct link_news *news);

#endif
