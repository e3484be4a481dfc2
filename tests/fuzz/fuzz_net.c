/*
 * virtio-net against a hostile guest and a hostile other side: headers, frames, chains and commands
 * of the fuzzer's, packets or a stream of its own from the socket, with links, limits, pauses and
 * ends.
 *
 * Input: a byte that says what carries the packets and what is limited, then a list of actions,
 * each a byte and its arguments. At the end the device must, after a reset, answer a proper driver;
 * what came out at the other side must have been sent by the guest that it was to be.
 *
 * One thread: the loop runs where an action says so, and in resets.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/virtio/net.h"
#include "devices/virtio/net_wire.h"
#include "tests/unit/virtio_driver.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEM_BYTES   (2 * MIB)
#define HEAP_GPA    0x1000
#define DATA_GPA    0x100000
#define MMIO_GPA    0xd0000000
#define ACTIONS_MAX 200
#define IPV4	    0x0a090902

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(cond)                                                        \
	do {                                                               \
		if (!(cond)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #cond); \
			__builtin_trap();                                  \
		}                                                          \
	} while (0)

static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5};

static struct {
	struct fake_platform fp;
	struct loop *loop;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	int peer;
	bool ready, paused, stream, spoofs;
	uint8_t buf[2 * 65600]; /* from the device */
	size_t have;
} v;

struct script {
	const uint8_t *p, *end;
};

static uint64_t next(struct script *s, unsigned bytes)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < bytes && s->p < s->end; i++)
		n |= (uint64_t)*s->p++ << (8 * i);
	return n;
}

static void fill(struct script *s, uint8_t *p, size_t n)
{
	while (n--)
		*p++ = (uint8_t)next(s, 1);
}

static void rounds(unsigned n)
{
	while (n--) {
		loop_stop(v.loop);
		CHECK(loop_run(v.loop) == 0);
	}
}

/* Rings in any case: a round that is told to stop does not ask for doorbells before it ends. */
static void kick(unsigned q)
{
	if (!vdrv_kick(&v.d, q))
		vdrv_notify(&v.d, q);
}

/* ---- life ---- */

static void set_up(uint8_t how)
{
	static const int types[] = {SOCK_SEQPACKET, SOCK_STREAM, SOCK_DGRAM, SOCK_STREAM};
	const int type = types[how & 3];
	struct virtio_net_config c = {.may_spoof = how & 4, .ipv4 = how & 8 ? IPV4 : 0};
	struct tap tap;
	int fds[2];

	if (!v.ready) {
		log_init(STDERR_FILENO, LOG_LEVEL_ERROR);
		signal(SIGPIPE, SIG_IGN);
		fake_platform_init(&v.fp, MEM_BYTES);
		v.ready = true;
	}
	memcpy(c.mac, mac, sizeof(mac));
	if (how & 16)
		c.tx_bytes_per_s = c.rx_packets_per_s = 100000;
	if (how & 32)
		c.rx_bytes_per_s = c.tx_packets_per_s = UINT64_MAX;
	v.stream = type == SOCK_STREAM;
	v.spoofs = c.may_spoof;
	CHECK(socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
	v.peer = fds[1];
	v.have = 0;
	CHECK((v.stream ? tap_adopt_stream : tap_adopt)(fds[0], &tap, NULL) == 0);
	CHECK(loop_new(NULL, &v.loop, NULL) == 0);
	CHECK(virtio_net_new(&c, &tap, v.loop, &v.dev, NULL) == 0);
	v.dev->loop_idle = true;
	CHECK(virtio_mmio_new(&v.fp.plat, MMIO_GPA, 5, v.dev, &v.t, NULL) == 0);
	vdrv_init_mmio(&v.d, &v.fp, MMIO_GPA, 5, HEAP_GPA);
}

static void tear_down(void)
{
	virtio_transport_free(v.t);
	loop_free(v.loop);
	if (v.peer >= 0)
		close(v.peer);
}

static void start(uint64_t features)
{
	v.paused = false; /* a reset ends it */
	v.d.heap = HEAP_GPA;
	if (!vdrv_start(&v.d, features, 3, 16))
		memset(v.d.rings, 0, sizeof(v.d.rings));
	rounds(1);
}

/* ---- actions ---- */

/* A frame that is nearly right, of a chain that is nearly right. */
static void transmit(struct script *s)
{
	struct vring *r = &v.d.rings[1];
	const uint8_t shape = (uint8_t)next(s, 1);
	uint8_t *h = fake_mem(&v.fp, DATA_GPA, 80000), *f = h + sizeof(struct net_hdr);
	const uint32_t cut = 1 + (uint32_t)next(s, 1) % 100;
	uint32_t len = sizeof(struct net_hdr) + 64;

	if (!r->fp)
		return;
	memset(h, 0, 128);
	if (shape & 1)
		fill(s, h, sizeof(struct net_hdr));
	memset(f, 0xff, 6);
	memcpy(f + 6, mac, 6);
	memcpy(f + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(f + 22, mac, 6);
	be32_store(f + 28, IPV4);
	if (shape & 2)
		fill(s, f + next(s, 1) % 40, 8);
	if (shape & 4)
		len = (uint32_t)next(s, 3) % 80000;
	if (shape & 8 || len <= cut) {
		vring_add(r, &(struct vbuf){DATA_GPA, len, shape & 16}, 1, shape & 32);
	} else {
		const struct vbuf bufs[] = {{DATA_GPA, cut, false},
					    {DATA_GPA + cut, len - cut, shape & 16}};

		vring_add(r, bufs, 2, shape & 32);
	}
	kick(1);
	rounds(1);
}

static void receive_buffers(struct script *s)
{
	struct vring *r = &v.d.rings[0];
	const uint32_t len = 1 + (uint32_t)next(s, 2);
	unsigned n = (unsigned)next(s, 1) % 16;
	const bool split = next(s, 1) & 1;

	while (r->fp && n--) {
		const struct vbuf bufs[] = {{DATA_GPA + 0x20000, 7, true},
					    {DATA_GPA + 0x20007, len, len != 5}};

		vring_add(r, bufs + !split, 1 + split, false);
	}
	if (r->fp)
		kick(0);
	rounds(1);
}

static void command(struct script *s)
{
	struct vring *r = &v.d.rings[2];
	uint8_t *p = fake_mem(&v.fp, DATA_GPA + 0x40000, 4096);
	const uint32_t len = (uint32_t)next(s, 1) % 64;
	const struct vbuf bufs[] = {{DATA_GPA + 0x40000, 2 + len, false},
				    {DATA_GPA + 0x41000, 1, true}};

	if (!r->fp)
		return;
	p[0] = (uint8_t)(next(s, 1) % 7);
	p[1] = (uint8_t)(next(s, 1) % 7);
	fill(s, p + 2, len);
	vring_add(r, bufs, 1 + (len != 63), false);
	kick(2);
	rounds(1);
}

/* A descriptor or an index of the rings, as the guest likes it. */
static void scribble(struct script *s)
{
	const struct vring *r = &v.d.rings[next(s, 1) % 3];
	const unsigned at = (unsigned)next(s, 1);

	if (r->fp)
		fill(s, fake_mem(&v.fp, (at & 128 ? r->avail : r->desc) + (at & 31), 8), 8);
}

/* Frames come out whole, and from the guest that sent them. */
static void look(const uint8_t *frame, size_t n)
{
	CHECK(n >= NET_ETH_MIN && n <= NET_FRAME_MAX);
	CHECK(v.spoofs || !memcmp(frame + 6, mac, sizeof(mac)));
}

/* What is left of a frame of the stream stays for the next call. */
static void drain(void)
{
	ssize_t n;

	while ((n = recv(v.peer, v.buf + v.have, sizeof(v.buf) - v.have, MSG_DONTWAIT)) > 0) {
		size_t at = 0;

		if (!v.stream) {
			CHECK((size_t)n > sizeof(struct net_hdr));
			look(v.buf + sizeof(struct net_hdr), (size_t)n - sizeof(struct net_hdr));
			continue;
		}
		v.have += (size_t)n;
		while (v.have - at >= 4 && v.have - at - 4 >= be32_load(v.buf + at)) {
			look(v.buf + at + 4, be32_load(v.buf + at));
			at += 4 + be32_load(v.buf + at);
		}
		memmove(v.buf, v.buf + at, v.have - at);
		v.have -= at;
		CHECK(v.have < 4 || be32_load(v.buf) <= NET_FRAME_MAX);
	}
}

static void other_side(struct script *s)
{
	static uint8_t block[80000];
	const uint8_t what = (uint8_t)next(s, 1);
	const size_t n = (size_t)next(s, 2) + (what & 64 ? 12000 : 0);

	if (v.peer < 0)
		return;
	switch (what % 8) {
	case 0:
		fill(s, block, 16);
		send(v.peer, block, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 1:
	case 2: /* a good one */
		memset(block, 0, sizeof(struct net_hdr));
		be32_store(block, v.stream ? (uint32_t)n : 0);
		send(v.peer, block, n + (v.stream ? 4 : sizeof(struct net_hdr)),
		     MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 3:
		shutdown(v.peer, (int)(n % 3));
		break;
	case 4:
		if (n % 8)
			break;
		close(v.peer);
		v.peer = -1;
		break;
	default:
		drain();
		break;
	}
	rounds(1);
}

static void reap(void)
{
	uint16_t head;
	uint32_t len;

	for (unsigned q = 0; q < 3; q++) {
		/* what it scribbled may make the driver's own account wrong */
		for (unsigned n = 0; n < 16 && v.d.rings[q].fp && vring_used_waiting(&v.d.rings[q]);
		     n++) {
			if (!vring_take(&v.d.rings[q], &head, &len))
				break;
		}
	}
}

static void quiet(void *ctx)
{
	*(bool *)ctx = true;
}

static void pause_or_resume(void)
{
	bool done = false;

	if (v.paused) {
		virtio_transport_resume(v.t);
		v.paused = false;
	} else if (virtio_transport_pause(v.t, quiet, &done)) {
		for (unsigned i = 0; i < 1000 && !done; i++)
			rounds(1);
		CHECK(done);
		v.paused = true;
	}
	rounds(1);
}

static void act(struct script *s)
{
	switch (next(s, 1) % 12) {
	case 0:
	case 1:
	case 2:
		transmit(s);
		break;
	case 3:
	case 4:
		receive_buffers(s);
		break;
	case 5:
	case 6:
		other_side(s);
		break;
	case 7:
		command(s);
		break;
	case 8:
		reap();
		break;
	case 9:
		scribble(s);
		break;
	case 10:
		pause_or_resume();
		break;
	default:
		switch (next(s, 1) % 4) {
		case 0:
			start(next(s, 4) | VDRV_V1);
			break;
		case 1:
			virtio_net_set_link(v.dev, next(s, 1) & 1);
			break;
		case 2:
			virtio_net_announce(v.dev);
			break;
		default:
			rounds(2);
			break;
		}
		break;
	}
}

/* After a reset the control queue answers. */
static void check_alive(void)
{
	const struct vbuf bufs[] = {{DATA_GPA, 3, false}, {DATA_GPA + 16, 1, true}};
	uint8_t *p = fake_mem(&v.fp, DATA_GPA, 32);

	vdrv_reset(&v.d);
	start(VDRV_V1 | NET_F_CTRL_VQ);
	CHECK(vdrv_status(&v.d) == 0xf);
	memset(p, 0xee, 32);
	CHECK(vring_add(&v.d.rings[2], bufs, 2, false) >= 0);
	kick(2);
	for (unsigned i = 0; i < 1000 && !vring_used_waiting(&v.d.rings[2]); i++)
		rounds(1);
	CHECK(p[16] == NET_CTRL_ERR);
	vdrv_reset(&v.d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = {.p = data, .end = data + size};

	set_up((uint8_t)next(&s, 1));
	start(VDRV_EVENT | VDRV_V1 | (UINT64_MAX >> 36));
	for (unsigned i = 0; i < ACTIONS_MAX && s.p < s.end; i++)
		act(&s);
	check_alive();
	tear_down();
	return 0;
}
