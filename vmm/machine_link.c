/*
 * A machine's interfaces while it runs: their links, what they have moved, and another stream in
 * place of one that ended.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/machine_priv.h"

bool machine_net_stats(struct machine *m, unsigned n, struct virtio_net_stats *ret_stats)
{
	virtio_net_stats(m->net_devs[n], ret_stats);
	return !m->net_links[n].by_kernel;
}

void machine_net_set_link(struct machine *m, unsigned n, bool up)
{
	virtio_net_set_link(m->net_devs[n], up);
	if (up)
		virtio_net_announce(m->net_devs[n]);
}

static void begin(struct machine_link *link, int fd)
{
	link->busy = true;
	link->machine->nreconnects++;
	virtio_net_reconnect(link->machine->net_devs[link->index], &link->reconnect, fd);
}

static void reconnected(struct loop_msg *msg)
{
	struct machine_link *link = container_of(msg, struct machine_link, msg);
	struct machine *m = link->machine;
	const int next_fd = steal_fd(&link->next_fd);

	link->busy = false;
	m->nreconnects--;
	if (next_fd >= 0)
		begin(link, next_fd);
	machine_settled(m);
}

/* The interface's thread. */
static void done(struct virtio_net_reconnect *r)
{
	struct machine_link *link = container_of(r, struct machine_link, reconnect);

	loop_post(link->machine->control, &link->msg);
}

static bool is_started(struct machine *m)
{
	AUTOLOCK(&m->end.lock);
	return m->end.started;
}

void machine_net_reconnect(struct machine *m, unsigned n, int fd)
{
	struct machine_link *link = &m->net_links[n];

	if (!is_started(m)) {
		cleanup_fd(&fd);
		return;
	}
	if (link->busy) { /* the latest counts */
		cleanup_fd(&link->next_fd);
		link->next_fd = fd;
		return;
	}
	link->machine = m;
	link->index = n;
	link->next_fd = -1;
	link->msg.fn = reconnected;
	link->reconnect.done = done;
	begin(link, fd);
}
