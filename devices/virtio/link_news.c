/* See link_news.h. */
#include "devices/virtio/link_news.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64 /* messages before others have their turn */

static void wait_for_more(struct link_news *news)
{
	news->waiting = true;
	virtio_loop_hold(news->vl);
	loop_poll(news->vl->loop, &news->op, news->fd, POLLIN);
}

static void came(struct loop_op *op, int res)
{
	struct link_news *news = container_of(op, struct link_news, op);
	char start[64]; /* of a message; the rest is dropped */
	ssize_t n = 0;

	news->waiting = false;
	if (!news->vl->stopping && res >= 0) {
		/* some may have been lost (ENOBUFS), which is news as well */
		for (unsigned i = 0; i < BATCH && (n >= 0 || errno == ENOBUFS); i++)
			n = read(news->fd, start, sizeof(start));
		news->fn(news);
		wait_for_more(news);
	}
	virtio_loop_unhold(news->vl);
}

void link_news_start(struct link_news *news)
{
	if (news->fd >= 0)
		wait_for_more(news);
}

void link_news_stop(struct link_news *news)
{
	if (news->waiting)
		loop_cancel(news->vl->loop, &news->op);
}

int link_news_open(struct link_news *news, struct virtio_loop *vl,
		   void (*fn)(struct link_news *news), struct err *err)
{
	const struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	autofd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	*news = (struct link_news){.fd = -1, .vl = vl, .fn = fn, .op.done = came};
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return err_sys(err, errno, "network: no news of interfaces (rtnetlink)");
	news->fd = steal_fd(&fd);
	return 0;
}

void link_news_close(struct link_news *news)
{
	cleanup_fd(&news->fd);
	news->fd = -1;
}
