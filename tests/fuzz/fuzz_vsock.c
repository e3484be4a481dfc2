/*
 * virtio-vsock's packet path against a hostile guest: packets, credit and receive buffers of the
 * fuzzer's, with a host's program and the device's own process on the other side, which come, talk
 * and go, and with pauses.
 *
 * Input: a list of actions, each a byte and its arguments. The device lives from input to input; at
 * the end of each it must, after a reset, hold no connection and answer a proper driver.
 *
 * One thread: the loop runs where an action says so, and in resets.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/virtio/vsock.h"
#include "tests/unit/virtio_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MEM_BYTES   (2 * MIB)
#define HEAP_GPA    0x1000
#define DATA_GPA    0x80000
#define MMIO_GPA    0xd0000000
#define CID	    5
#define CONNS	    12
#define HOSTS	    4
#define ACTIONS_MAX 200
#define OWN_PORT    0x400000ff

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(cond)                                                        \
	do {                                                               \
		if (!(cond)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #cond); \
			__builtin_trap();                                  \
		}                                                          \
	} while (0)

static struct {
	struct fake_platform fp;
	struct loop *loop;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	struct sockaddr_un addr;
	int listener, hosts[HOSTS];
	unsigned given;
	bool ready, paused;
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

static int listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 16) == 0);
	return fd;
}

static void take_host(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
}

static bool given(void *ctx, int fd)
{
	(void)ctx;
	if (++v.given % 4 == 0)
		return false;
	take_host(&v.hosts[v.given % HOSTS], fd);
	return true;
}

static void set_up(void)
{
	char folder[] = "/tmp/fuzz-vsock.XXXXXX", path[64];
	struct virtio_vsock_config config = {
	    .cid = CID, .conns = CONNS, .accepted = given, .own_port = OWN_PORT};

	log_init(STDERR_FILENO, LOG_LEVEL_ERROR);
	CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/v_7", folder);
	v.listener = listen_at(path);
	snprintf(path, sizeof(path), "%s/v", folder);
	v.addr.sun_family = AF_UNIX;
	memcpy(v.addr.sun_path, path, strlen(path) + 1);
	config.path = path;
	config.listen_fd = listen_at(path);
	fake_platform_init(&v.fp, MEM_BYTES);
	CHECK(loop_new(NULL, &v.loop, NULL) == 0);
	CHECK(virtio_vsock_new(&config, v.loop, &v.dev, NULL) == 0);
	v.dev->loop_idle = true;
	CHECK(virtio_mmio_new(&v.fp.plat, MMIO_GPA, 5, v.dev, &v.t, NULL) == 0);
	for (unsigned i = 0; i < HOSTS; i++)
		v.hosts[i] = -1;
	v.ready = true;
}

static void rounds(unsigned n)
{
	while (n--) {
		loop_stop(v.loop);
		CHECK(loop_run(v.loop) == 0);
	}
}

static void start(uint64_t features)
{
	v.paused = false; /* a reset ends it */
	v.d.heap = HEAP_GPA;
	if (!vdrv_start(&v.d, features, 3, 32))
		memset(v.d.rings, 0, sizeof(v.d.rings));
}

static void header(uint8_t *p, uint64_t src, uint64_t dst, uint32_t port, uint32_t host,
		   uint32_t len, uint16_t type, uint16_t op, uint32_t flags, uint32_t alloc,
		   uint32_t fwd)
{
	le64_store(p, src);
	le64_store(p + 8, dst);
	le32_store(p + 16, port);
	le32_store(p + 20, host);
	le32_store(p + 24, len);
	le16_store(p + 28, type);
	le16_store(p + 30, op);
	le32_store(p + 32, flags);
	le32_store(p + 36, alloc);
	le32_store(p + 40, fwd);
}

static void packet(struct script *s)
{
	struct vring *r = &v.d.rings[1];
	const uint8_t shape = (uint8_t)next(s, 1);
	const uint32_t host = shape & 1 ? 7 : 0x40000000 + (uint32_t)next(s, 1);
	const uint32_t have = shape & 2 ? (uint32_t)next(s, 2) : 0;
	const uint32_t len = shape & 4 ? (uint32_t)next(s, 4) : have;
	const gpa_t gpa = DATA_GPA + 0x10000;
	struct vbuf bufs[] = {{gpa, shape & 8 ? (uint32_t)next(s, 1) : 44, false},
			      {gpa + 44, have, false}};

	if (!r->fp)
		return;
	header(fake_mem(&v.fp, gpa, 44), shape & 16 ? next(s, 2) : CID, shape & 32 ? next(s, 2) : 2,
	       (uint32_t)next(s, 1) % 8, host, len, shape & 64 ? (uint16_t)next(s, 2) : 1,
	       (uint16_t)(next(s, 1) % 10), (uint32_t)next(s, 1) % 4, (uint32_t)next(s, 2),
	       shape & 128 ? (uint32_t)next(s, 4) : 0);
	vring_add(r, bufs, have ? 2 : 1, false);
	vdrv_kick(&v.d, 1);
	rounds(1);
}

static void receive_buffers(struct script *s)
{
	struct vring *r = &v.d.rings[0];
	const uint32_t len = (uint32_t)next(s, 2) % 5000;
	unsigned n = (unsigned)next(s, 1) % 16;

	while (r->fp && n--) {
		const struct vbuf bufs[] = {{DATA_GPA, 44, true}, {DATA_GPA + 64, len, len != 1}};

		vring_add(r, bufs, len ? 2 : 1, false);
	}
	if (r->fp)
		vdrv_kick(&v.d, 0);
}

static void reap(unsigned q)
{
	uint16_t head;
	uint32_t len;

	while (v.d.rings[q].fp && vring_take(&v.d.rings[q], &head, &len))
		CHECK(q == 0 ? len >= 44 : len == 0);
}

static void host(struct script *s)
{
	static uint8_t block[65536];
	const uint8_t what = (uint8_t)next(s, 1);
	int *fd = &v.hosts[what % HOSTS], ends[2];
	char line[24];

	switch (what / HOSTS % 7) {
	case 6:
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
		take_host(fd, ends[0]);
		virtio_vsock_adopt(v.dev, ends[1]);
		send(*fd, line,
		     (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", (unsigned)next(s, 1) % 8),
		     MSG_NOSIGNAL);
		break;
	case 0:
		take_host(fd, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
		if (connect(*fd, (struct sockaddr *)&v.addr, sizeof(v.addr)) == 0)
			send(*fd, line,
			     (size_t)snprintf(line, sizeof(line), "CONNECT %u\n",
					      (unsigned)next(s, 1) % 8),
			     MSG_NOSIGNAL);
		break;
	case 1:
		take_host(fd, accept(v.listener, NULL, NULL));
		break;
	case 2:
		send(*fd, block, (size_t)next(s, 2), MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 3:
		while (recv(*fd, block, sizeof(block), MSG_DONTWAIT) > 0)
			;
		break;
	case 4:
		shutdown(*fd, (int)next(s, 1) % 3);
		break;
	default:
		take_host(fd, -1);
		break;
	}
	rounds(1);
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
}

static void act(struct script *s)
{
	switch (next(s, 1) % 8) {
	case 0:
	case 1:
	case 2:
		packet(s);
		break;
	case 3:
		receive_buffers(s);
		break;
	case 4:
	case 5:
		host(s);
		break;
	case 6:
		reap(0);
		reap(1);
		rounds(1);
		break;
	default:
		switch (next(s, 1) % 16) {
		case 0:
			start(next(s, 4) | VDRV_V1);
			break;
		case 1:
		case 2:
			pause_or_resume();
			break;
		default:
			break;
		}
		break;
	}
	CHECK(virtio_vsock_conns(v.dev) <= CONNS);
}

/* After a reset: no connection is left, and a packet for none is answered. */
static void check_alive(void)
{
	const struct vbuf out = {DATA_GPA, 44, false}, in = {DATA_GPA + 4096, 4096, true};
	uint8_t *answer = fake_mem(&v.fp, in.gpa, in.len);
	int fd;

	vdrv_reset(&v.d);
	CHECK(virtio_vsock_conns(v.dev) == 0);
	for (unsigned i = 0; i < HOSTS; i++)
		take_host(&v.hosts[i], -1);
	while ((fd = accept(v.listener, NULL, NULL)) >= 0)
		close(fd);
	start(UINT64_MAX >> 24);
	CHECK(vdrv_status(&v.d) == 0xf);
	memset(answer, 0, 44);
	header(fake_mem(&v.fp, out.gpa, 44), CID, 2, 9, 9, 0, 1, 5, 0, 0, 0);
	CHECK(vring_add(&v.d.rings[0], &in, 1, false) >= 0);
	CHECK(vring_add(&v.d.rings[1], &out, 1, false) >= 0);
	vdrv_kick(&v.d, 0);
	vdrv_kick(&v.d, 1);
	for (unsigned i = 0; i < 1000 && !vring_used_waiting(&v.d.rings[0]); i++)
		rounds(1);
	CHECK(le16_load(answer + 30) == 3);
	vdrv_reset(&v.d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = {.p = data, .end = data + size};

	if (!v.ready)
		set_up();
	vdrv_init_mmio(&v.d, &v.fp, MMIO_GPA, 5, HEAP_GPA);
	start(VDRV_EVENT);
	for (unsigned i = 0; i < ACTIONS_MAX && s.p < s.end; i++)
		act(&s);
	check_alive();
	return 0;
}
