/*
 * A virtio-vsock driver in user mode, for tests and benchmarks: polled, behind MMIO. virtio 1.2
 * §4.2, §2.7, §5.10.
 *
 * It listens on the ports of the old internet services: 7 echoes, 9 throws away, 19 sends the bytes
 * 0, 1, 2, ... without end, 1 powers off. Any other port is refused. At the start it connects to
 * port 7777 of the host and says "ready"; "no host" is printed where nobody listens.
 */
#include "lib/x86/x86.h"

#define MMIO_FIRST  0xe8000000
#define MMIO_STEP   0x1000
#define MMIO_COUNT  16
#define MAGIC	    0x74726976
#define ID_VSOCK    19
#define F_VERSION_1 1u
#define RX_SIZE	    128
#define TX_SIZE	    64
#define RX_DATA	    4096
#define TX_DATA	    65536
#define WINDOW	    (256u << 10)
#define CONNS	    16
#define HOST_CID    2
#define READY_PORT  7777
#define READY_LOCAL 1024

enum {
	REG_MAGIC = 0x00,
	REG_DEVICE_ID = 0x08,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SEL = 0x24,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_NUM = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_QUEUE_NOTIFY = 0x50,
	REG_STATUS = 0x70,
	REG_DESC = 0x80,
	REG_DRIVER = 0x90,
	REG_DEVICE = 0xa0,
	REG_CONFIG = 0x100,
};

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { DESC_WRITE = 2, NO_NOTIFY = 1, NO_INTERRUPT = 1 };
enum { PORT_OFF = 1, PORT_ECHO = 7, PORT_DISCARD = 9, PORT_CHARGEN = 19 };

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

#define HDR sizeof(struct packet)

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct ring {
	struct desc desc[RX_SIZE];
	struct {
		uint16_t flags, idx, ring[RX_SIZE];
	} avail;
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} ring[RX_SIZE];
	} used __attribute__((aligned(4)));
	uint16_t seen;
} __attribute__((aligned(4096)));

static struct ring rx, tx;
static uint8_t rx_data[RX_SIZE][HDR + RX_DATA] __attribute__((aligned(64)));
static uint8_t tx_data[TX_SIZE][HDR + TX_DATA] __attribute__((aligned(64)));
static bool tx_busy[TX_SIZE];
static bool tx_counts[TX_SIZE]; /* all its bytes are those of chargen from 0 */
static unsigned tx_next;

static struct conn {
	bool used, host_done, greet;
	uint32_t host_port, port;
	uint32_t peer_alloc, peer_fwd, sent;
	uint32_t received, forwarded, told;
	uint8_t buf[WINDOW]; /* echo: what waits for credit */
	uint32_t at, bytes;
} conns[CONNS];

static uint64_t base;
static uint64_t cid;

static void set_address(unsigned reg, const volatile void *p)
{
	mmio_write32(base + reg, (uint32_t)(uintptr_t)p);
	mmio_write32(base + reg + 4, (uint32_t)((uintptr_t)p >> 32));
}

static void set_queue(unsigned index, struct ring *r, unsigned size)
{
	mmio_write32(base + REG_QUEUE_SEL, index);
	mmio_write32(base + REG_QUEUE_NUM, size);
	set_address(REG_DESC, &r->desc);
	set_address(REG_DRIVER, &r->avail);
	set_address(REG_DEVICE, &r->used);
	r->avail.flags = NO_INTERRUPT;
	mmio_write32(base + REG_QUEUE_READY, 1);
}

static void ring(struct ring *r, unsigned index)
{
	/* The index is to be seen before the device's wish for a doorbell is read, §2.7.13.4.1. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&r->used.flags, __ATOMIC_RELAXED) & NO_NOTIFY))
		mmio_write32(base + REG_QUEUE_NOTIFY, index);
}

static void offer(struct ring *r, unsigned size, uint16_t head)
{
	r->avail.ring[r->avail.idx % size] = head;
	__atomic_store_n(&r->avail.idx, (uint16_t)(r->avail.idx + 1), __ATOMIC_RELEASE);
}

static void give(uint16_t i)
{
	rx.desc[i] = (struct desc){(uintptr_t)rx_data[i], HDR + RX_DATA, DESC_WRITE, 0};
	offer(&rx, RX_SIZE, i);
}

static void set_up(void)
{
	for (unsigned n = 0; n < MMIO_COUNT && !base; n++) {
		const uint64_t gpa = MMIO_FIRST + n * MMIO_STEP;

		if (mmio_read32(gpa) == MAGIC && mmio_read32(gpa + REG_DEVICE_ID) == ID_VSOCK)
			base = gpa;
	}
	if (!base)
		fail("no virtio-vsock behind MMIO");
	mmio_write32(base + REG_STATUS, 0);
	mmio_write32(base + REG_STATUS, 1 | 2);
	mmio_write32(base + REG_DRIVER_FEATURES_SEL, 1);
	mmio_write32(base + REG_DRIVER_FEATURES, F_VERSION_1);
	mmio_write32(base + REG_DRIVER_FEATURES_SEL, 0);
	mmio_write32(base + REG_DRIVER_FEATURES, 0);
	mmio_write32(base + REG_STATUS, 1 | 2 | 8);
	if (!(mmio_read32(base + REG_STATUS) & 8))
		fail("features refused");
	set_queue(0, &rx, RX_SIZE);
	set_queue(1, &tx, TX_SIZE);
	cid = mmio_read32(base + REG_CONFIG);
	mmio_write32(base + REG_STATUS, 1 | 2 | 8 | 4);
	for (uint16_t i = 0; i < RX_SIZE; i++)
		give(i);
	ring(&rx, 0);
}

static void reap(void)
{
	const uint16_t idx = __atomic_load_n(&tx.used.idx, __ATOMIC_ACQUIRE);

	for (; tx.seen != idx; tx.seen++)
		tx_busy[tx.used.ring[tx.seen % TX_SIZE].id % TX_SIZE] = false;
}

/* The next free place for a packet's data; NULL: the device has not read the last yet. */
static uint8_t *room(void)
{
	reap();
	return tx_busy[tx_next] ? NULL : tx_data[tx_next] + HDR;
}

/* The data of `len` bytes is at room(). */
static void put(uint32_t src_port, uint32_t dst_port, uint16_t op, uint32_t flags, uint32_t len,
		uint32_t fwd)
{
	const struct packet p = {.src_cid = cid,
				 .dst_cid = HOST_CID,
				 .src_port = src_port,
				 .dst_port = dst_port,
				 .len = len,
				 .type = 1,
				 .op = op,
				 .flags = flags,
				 .buf_alloc = WINDOW,
				 .fwd_cnt = fwd};

	while (!room())
		__asm__ volatile("pause");
	memcpy(tx_data[tx_next], &p, HDR);
	tx.desc[tx_next] = (struct desc){(uintptr_t)tx_data[tx_next], (uint32_t)HDR + len, 0, 0};
	tx_busy[tx_next] = true;
	offer(&tx, TX_SIZE, (uint16_t)tx_next);
	ring(&tx, 1);
	tx_next = (tx_next + 1) % TX_SIZE;
}

static void send(struct conn *c, uint16_t op, uint32_t flags, uint32_t len)
{
	c->told = c->forwarded;
	put(c->port, c->host_port, op, flags, len, c->forwarded);
}

static struct conn *find(uint32_t port, uint32_t host_port)
{
	for (unsigned i = 0; i < CONNS; i++) {
		if (conns[i].used && conns[i].port == port && conns[i].host_port == host_port)
			return &conns[i];
	}
	return NULL;
}

static struct conn *make(uint32_t port, uint32_t host_port)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];

		if (c->used)
			continue;
		c->used = true;
		c->host_done = c->greet = false;
		c->port = port;
		c->host_port = host_port;
		c->peer_alloc = c->peer_fwd = c->sent = 0;
		c->received = c->forwarded = c->told = c->at = c->bytes = 0;
		return c;
	}
	return NULL;
}

/* What a service does by itself. */
static bool serve(struct conn *c)
{
	const uint32_t credit = c->peer_alloc - (c->sent - c->peer_fwd);
	uint32_t len = credit < TX_DATA ? credit : TX_DATA;
	uint8_t *p;

	if (c->port == PORT_ECHO && len > c->bytes)
		len = c->bytes;
	if (c->port == PORT_ECHO && len > WINDOW - c->at)
		len = WINDOW - c->at;
	if (c->port != PORT_ECHO && c->port != PORT_CHARGEN)
		len = 0;
	if (c->port == PORT_CHARGEN && c->host_done)
		len = 0;
	p = len ? room() : NULL;
	if (p && c->port == PORT_ECHO) {
		tx_counts[tx_next] = false;
		memcpy(p, c->buf + c->at, len);
		c->at = (c->at + len) % WINDOW;
		c->bytes -= len;
		c->forwarded += len;
	} else if (p && !(c->sent & 0xff) && tx_counts[tx_next]) {
		/* the same bytes are there from the last time */
	} else if (p) {
		tx_counts[tx_next] = !(c->sent & 0xff) && len == TX_DATA;
		for (uint32_t i = 0; i < len; i++)
			p[i] = (uint8_t)(c->sent + i);
	}
	if (p) {
		c->sent += len;
		send(c, RW, 0, len);
		return true;
	}
	if (c->forwarded - c->told > WINDOW / 2)
		send(c, CREDIT_UPDATE, 0, 0);
	if (c->host_done && !c->bytes) {
		/* the host answers with RST */
		c->host_done = false;
		send(c, SHUTDOWN, 3, 0);
	}
	return false;
}

static void data(struct conn *c, const uint8_t *p, uint32_t len)
{
	c->received += len;
	if (c->port != PORT_ECHO) {
		c->forwarded += len;
		return;
	}
	if (c->bytes + len > WINDOW)
		fail("more than the window");
	for (uint32_t done = 0, n; done < len; done += n) {
		const uint32_t at = (c->at + c->bytes) % WINDOW;

		n = len - done < WINDOW - at ? len - done : WINDOW - at;
		memcpy(c->buf + at, p + done, n);
		c->bytes += n;
	}
}

static void request(const struct packet *p)
{
	struct conn *c = NULL;

	if (p->dst_port == PORT_OFF) {
		print("done\n");
		power_off();
	}
	if (p->dst_port == PORT_ECHO || p->dst_port == PORT_DISCARD || p->dst_port == PORT_CHARGEN)
		c = make(p->dst_port, p->src_port);
	if (!c) {
		put(p->dst_port, p->src_port, RST, 0, 0, 0);
		return;
	}
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	send(c, RESPONSE, 0, 0);
}

static void handle(const struct packet *p, const uint8_t *bytes, uint32_t len)
{
	struct conn *c;

	if (len != p->len || p->dst_cid != cid || p->src_cid != HOST_CID || p->type != 1)
		fail("a packet that is none");
	c = find(p->dst_port, p->src_port);
	if (!c) {
		if (p->op == REQUEST)
			request(p);
		else if (p->op != RST)
			put(p->dst_port, p->src_port, RST, 0, 0, 0);
		return;
	}
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	switch (p->op) {
	case RESPONSE:
		memcpy(room(), "ready\n", 6); /* its first packet with data: the place is new */
		c->sent += 6;
		send(c, RW, 0, 6);
		break;
	case RW:
		data(c, bytes, len);
		break;
	case SHUTDOWN:
		c->host_done = true;
		break;
	case RST:
		if (c->port == READY_LOCAL)
			print("no host\n");
		c->used = false;
		break;
	case CREDIT_REQUEST:
		send(c, CREDIT_UPDATE, 0, 0);
		break;
	default:
		break;
	}
}

static unsigned take(void)
{
	const uint16_t idx = __atomic_load_n(&rx.used.idx, __ATOMIC_ACQUIRE);
	unsigned n = 0;

	for (; rx.seen != idx; rx.seen++, n++) {
		const uint16_t i = (uint16_t)(rx.used.ring[rx.seen % RX_SIZE].id % RX_SIZE);
		const uint32_t len = rx.used.ring[rx.seen % RX_SIZE].len;
		struct packet p;

		if (len < HDR || len > HDR + RX_DATA)
			fail("a wrong length");
		memcpy(&p, rx_data[i], HDR);
		handle(&p, rx_data[i] + HDR, len - (uint32_t)HDR);
		give(i);
	}
	if (n)
		ring(&rx, 0);
	return n;
}

void payload_main(void)
{
	set_up();
	print("cid ");
	print_dec(cid);
	print("\n");
	make(READY_LOCAL, READY_PORT);
	put(READY_LOCAL, READY_PORT, REQUEST, 0, 0, 0);
	for (;;) {
		unsigned busy = take();

		for (unsigned i = 0; i < CONNS; i++)
			busy += conns[i].used && serve(&conns[i]);
		if (!busy)
			__asm__ volatile("pause");
	}
}
