/* See tap.h. */
#include "devices/virtio/tap.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/virtio/net_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

_Static_assert(TAP_CSUM == TUN_F_CSUM && TAP_TSO4 == TUN_F_TSO4 && TAP_TSO6 == TUN_F_TSO6 &&
		   TAP_ECN == TUN_F_TSO_ECN,
	       "offloads");

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
#define USO	  (TAP_USO4 | TAP_USO6)

static void tap_init(struct tap *tap)
{
	*tap = (struct tap){0};
	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++)
		tap->fds[i] = -1;
}

void tap_close(struct tap *tap)
{
	for (unsigned i = 0; i < tap->queues; i++)
		cleanup_fd(&tap->fds[i]);
	tap_init(tap);
}

/* What every queue is told; what the kernel can do is seen by asking for it. */
static int prepare(struct tap *tap, int fd, struct err *err)
{
	int header = sizeof(struct net_hdr), little = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &header) || ioctl(fd, TUNSETVNETLE, &little))
		return err_sys(err, errno, "network: tap %s: packet headers", tap->name);
	tap->uso = !ioctl(fd, TUNSETOFFLOAD, (unsigned long)(TAP_CSUM | USO));
	if (ioctl(fd, TUNSETOFFLOAD, 0UL))
		return err_sys(err, errno, "network: tap %s: offloads", tap->name);
	return 0;
}

static int refused(const char *name, unsigned queues, bool exclusive, int code, struct err *err)
{
	const char *kind = queues > 1 ? " multi_queue" : "";

	if (code == EBUSY && exclusive)
		return err_set(err, code, "network: there is an interface %s; name another", name);
	switch (code) {
	case EPERM:
	case EACCES:
		return err_set(err, code,
			       "network: no permission to use tap %s; as root: ip tuntap add dev "
			       "%s mode tap user $USER vnet_hdr%s",
			       name, name, kind);
	case EBUSY:
		return err_set(err, code,
			       "network: tap %s is another process's; name another, or end that "
			       "process",
			       name);
	case EINVAL:
		return err_set(err, code,
			       "network: %s is no tap for %u queue%s; make one: ip tuntap add dev "
			       "%s mode tap vnet_hdr%s",
			       name, queues, queues == 1 ? "" : "s", name, kind);
	case E2BIG:
		return err_set(err, code, "network: tap %s has no %u queues left; ask for fewer",
			       name, queues);
	default:
		return err_sys(err, code, "network: tap %s", name);
	}
}

static int open_queue(struct tap *tap, const char *name, unsigned queues, bool exclusive,
		      struct err *err)
{
	struct ifreq ifr = {
	    .ifr_flags = (short)(TAP_FLAGS | (queues > 1 ? IFF_MULTI_QUEUE : 0) |
				 (exclusive ? IFF_TUN_EXCL : 0)),
	};
	int *fd = &tap->fds[tap->queues];

	*fd = open(TAP_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0)
		return err_sys(err, errno, "network: %s (modprobe tun?)", TAP_DEVICE);
	tap->queues++;
	memcpy(ifr.ifr_name, name, strlen(name));
	if (ioctl(*fd, TUNSETIFF, &ifr))
		return refused(name, queues, exclusive, errno, err);
	memcpy(tap->name, ifr.ifr_name, sizeof(tap->name));
	return prepare(tap, *fd, err);
}

int tap_open(const char *name, unsigned queues, bool exclusive, struct tap *ret_tap,
	     struct err *err)
{
	struct tap tap;
	int r = 0;

	if (!*name || strlen(name) >= IFNAMSIZ || strpbrk(name, "/%"))
		return err_set(err, EINVAL,
			       "network: \"%s\" is no name of an interface; use 1 to %d characters "
			       "without / and %%",
			       name, IFNAMSIZ - 1);
	if (!queues || queues > TAP_QUEUES_MAX)
		return err_set(err, EINVAL, "network: %u queues; 1 to %d are possible", queues,
			       TAP_QUEUES_MAX);
	tap_init(&tap);
	tap.multi = queues > 1;
	for (unsigned i = 0; i < queues && !r; i++)
		r = open_queue(&tap, name, queues, exclusive && !i, err);
	if (r) {
		tap_close(&tap);
		return r;
	}
	*ret_tap = tap;
	return 0;
}

/* SOCK_*, or -1: it is no socket. */
static int socket_type(int fd)
{
	socklen_t len = sizeof(int);
	int type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) ? -1 : type;
}

static int adopt_flags(int fd, int flags, struct err *err)
{
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return err_sys(err, errno, "network: fd %d", fd);
	return 0;
}

int tap_adopt(int fd, struct tap *ret_tap, struct err *err)
{
	struct ifreq ifr = {0};
	struct tap tap;
	const int flags = fcntl(fd, F_GETFL), type = socket_type(fd);
	int r;

	if (flags < 0)
		return err_sys(err, errno, "network: fd %d", fd);
	tap_init(&tap);
	tap.fds[0] = fd;
	tap.queues = 1;
	tap.socket = type == SOCK_SEQPACKET || type == SOCK_DGRAM;
	tap.datagram = type == SOCK_DGRAM;
	if (!tap.socket) {
		if (ioctl(fd, TUNGETIFF, &ifr))
			return err_set(err, EINVAL,
				       "network: fd %d is no tap and no datagram socket", fd);
		if ((ifr.ifr_flags & (IFF_TUN | TAP_FLAGS)) != TAP_FLAGS)
			return err_set(err, EINVAL,
				       "network: fd %d is interface %s, which was not made with "
				       "IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
				       fd, ifr.ifr_name);
		memcpy(tap.name, ifr.ifr_name, sizeof(tap.name));
		r = prepare(&tap, fd, err);
		if (r)
			return r;
	}
	r = adopt_flags(fd, flags, err);
	if (!r)
		*ret_tap = tap;
	return r;
}

int tap_adopt_stream(int fd, struct tap *ret_tap, struct err *err)
{
	const int flags = fcntl(fd, F_GETFL);
	int r;

	if (flags < 0)
		return err_sys(err, errno, "network: fd %d", fd);
	if (socket_type(fd) != SOCK_STREAM)
		return err_set(err, EINVAL, "network: fd %d is no stream socket", fd);
	r = adopt_flags(fd, flags, err);
	if (r)
		return r;
	tap_init(ret_tap);
	ret_tap->fds[0] = fd;
	ret_tap->queues = 1;
	ret_tap->socket = ret_tap->stream = true;
	return 0;
}

int tap_set_offloads(const struct tap *tap, unsigned offloads)
{
	if (tap->socket)
		return 0;
	/* the kernel's rules: nothing without checksums, ECN only with TSO, USO for both or none */
	if (!(offloads & TAP_CSUM))
		offloads = 0;
	if (!(offloads & (TAP_TSO4 | TAP_TSO6)))
		offloads &= ~TAP_ECN;
	if ((offloads & USO) != USO || !tap->uso)
		offloads &= ~USO;
	return ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)offloads) ? -errno : 0;
}

int tap_set_queue(const struct tap *tap, unsigned queue, bool on)
{
	struct ifreq ifr = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

	if (!tap->multi || !queue)
		return 0;
	return ioctl(tap->fds[queue], TUNSETQUEUE, &ifr) ? -errno : 0;
}

int tap_set_filter(const struct tap *tap, const uint8_t (*macs)[6], unsigned n, bool allmulti)
{
	const struct tun_filter head = {.flags = allmulti ? TUN_FLT_ALLMULTI : 0,
					.count = (__u16)n};
	uint8_t f[sizeof(head) + (size_t)TAP_MACS_MAX * 6];

	if (tap->socket)
		return 0;
	memcpy(f, &head, sizeof(head));
	if (n)
		memcpy(f + sizeof(head), macs, n * sizeof(macs[0]));
	return ioctl(tap->fds[0], TUNSETTXFILTER, f) < 0 ? -errno : 0;
}
