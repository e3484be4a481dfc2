/*
 * virtio-vsock from the inside: device and packets from the guest (vsock.c), packets to the guest
 * (vsock_rx.c), connections (vsock_conn.c), their bytes (vsock_stream.c), the host's sockets
 * (vsock_host.c), this process's own (vsock_own.c), and waiting
 * for them (vsock_wait.c).
 *
 *   host connects --> GREETING --line--> REQUESTED --RESPONSE--> OPEN
 *   guest's REQUEST, connect(2) ----------------------------------^
 *   OPEN --the guest is gone, bytes for the host are left--> DRAINING --none left--> CLOSED
 *   any --reset, end of either side, deadline--> CLOSED --polls are back--> FREE
 *
 * Invariants
 *  1. REQUESTED and OPEN connections are in the hash table, no others: packets find no others.
 *  2. A connection that is active (in `active`) has something for the guest: packets in `pending`,
 *     or bytes to read from its socket and credit for them. Each turn of pump() gives it one
 *     batch, then the next has its turn.
 *  3. Bytes from the guest that the socket did not take are in `buf`, at most `window`, which is
 *     what the guest was told (buf_alloc): sum of all windows <= VSOCK_WINDOWS_MAX.
 *  4. A descriptor is closed, and a slot free again, when its polls have completed.
 *
 * Threads: the loop's, but for virtio_vsock_adopt().
 */
#ifndef DEVICES_VIRTIO_VSOCK_PRIV_H
#define DEVICES_VIRTIO_VSOCK_PRIV_H

#include "base/checked.h"
#include "devices/virtio/virtio_loop.h"
#include "devices/virtio/vsock.h"
#include "devices/virtio/vsock_wire.h"

/*
 * Receive windows, told to the guest when a connection begins: the large one while there are few,
 * so that the total is at most 64 * 256 KiB + 960 * 32 KiB = 46 MiB.
 */
#define VSOCK_WINDOW	   (256u << 10)
#define VSOCK_WINDOW_SMALL (32u << 10)
#define VSOCK_WINDOW_LARGE 64 /* connections with the large one */
#define VSOCK_WINDOWS_MAX                    \
	(VSOCK_WINDOW_LARGE * VSOCK_WINDOW + \
	 (VSOCK_CONNS_MAX - VSOCK_WINDOW_LARGE) * VSOCK_WINDOW_SMALL)

#define VSOCK_BUCKETS 1024 /* power of two */

/* Resets that belong to no connection. At VSOCK_RSTS_FULL the device takes no more packets; above
 * is room for each connection that may still end. */
#define VSOCK_RSTS_FULL 256
#define VSOCK_RSTS_MAX	(VSOCK_RSTS_FULL + VSOCK_CONNS_MAX)

/* Chains of the guest's that wait for packets, and their iovecs. */
#define VSOCK_STASH_CHAINS 64
#define VSOCK_STASH_IOVS   1024

/* Batches for the guest before others on the loop have their turn. */
#define VSOCK_PUMP_BATCHES 64

#define VSOCK_GREETING_MAX 24 /* "CONNECT 4294967295\n" and some */
#define VSOCK_TICK_NS	   UINT64_C(1000000000)
#define VSOCK_SETUP_NS	   UINT64_C(10000000000) /* for the greeting, and for the guest's answer */
#define VSOCK_CLOSE_NS	   UINT64_C(8000000000)	 /* for the guest to answer a SHUTDOWN, as Linux */
#define VSOCK_RETRY_NS	   UINT64_C(100000000)	 /* after accept(2) failed for lack of something */

/* Ports of the host's programs, as they appear to the guest. */
#define VSOCK_PORT_FIRST (1u << 30)

enum vsock_state {
	VSOCK_FREE,
	VSOCK_GREETING,
	VSOCK_REQUESTED,
	VSOCK_OPEN,
	VSOCK_DRAINING,
	VSOCK_CLOSED,
};

/* Packets that a connection has for the guest. */
enum {
	VSOCK_SEND_REQUEST = 1 << 0,
	VSOCK_SEND_RESPONSE = 1 << 1,
	VSOCK_SEND_SHUTDOWN = 1 << 2,
	VSOCK_SEND_CREDIT = 1 << 3,
	VSOCK_ASK_CREDIT = 1 << 4,
};

struct vsock;

struct vsock_conn {
	struct vsock *vs;
	struct vsock_conn *next_free, *next_hash;
	struct vsock_conn *next_active, **active_link;
	enum vsock_state state;
	int fd;
	struct loop_op in; /* its poll */
	bool in_polled;
	bool waits, waits_out; /* see vsock_wait.c */
	uint32_t guest_port, host_port;
	uint64_t deadline_ns; /* 0: none */

	/* To the guest. */
	bool active;
	uint8_t pending;
	bool readable;	     /* the socket may have bytes */
	bool host_eof;	     /* it has no more */
	bool host_gone;	     /* it takes none */
	bool asked;	     /* the guest was asked for credit */
	uint32_t peer_alloc; /* as in the guest's latest packet */
	uint32_t peer_fwd;
	uint32_t sent; /* bytes, modulo 2^32 */

	/* From the guest. */
	uint8_t guest_shut; /* VSOCK_SHUT_*: what it said it will not do any more */
	uint32_t window;
	uint32_t received, forwarded; /* bytes, modulo 2^32 */
	uint32_t told;		      /* what the guest knows of `forwarded` */
	uint8_t *buf;		      /* ring of `window` bytes; NULL until it is needed */
	uint32_t buf_at, buf_bytes;

	uint8_t greeting[VSOCK_GREETING_MAX];
	uint8_t greeting_bytes;
};

struct vsock_rst {
	uint64_t host_cid; /* whom the guest spoke to */
	uint32_t host_port, guest_port;
	uint16_t type;
};

/* A chain of the guest's that waits for a packet. */
struct vsock_slot {
	uint16_t head;
	uint16_t iov, niov; /* within stash_iov */
	uint32_t bytes;
};

/* Streams of this process. */
struct vsock_own {
	bool (*accepted)(void *ctx, int fd);
	void *ctx;
	uint32_t port;
	struct loop_watch watch;
	int event_fd; /* something waits */

	pthread_mutex_t lock; /* below all others; the rest: */
	int fds[VSOCK_CONNS_MAX];
	unsigned at, nfds;
};

struct vsock {
	struct virtio_dev dev;
	struct virtio_loop vl;
	uint32_t cid;
	char *path;
	int listen_fd;

	struct vsock_conn *conns; /* nconns_max; those from `fresh` on were never used */
	unsigned nconns_max, fresh, nconns;
	struct vsock_conn *free;
	struct vsock_conn *buckets[VSOCK_BUCKETS];
	struct vsock_conn *active, **active_tail;
	unsigned large; /* connections with the large window */
	uint32_t next_port;

	struct vsock_rst rsts[VSOCK_RSTS_MAX];
	unsigned rst_at, nrsts;
	bool tx_paused;

	struct vsock_slot stash[VSOCK_STASH_CHAINS];
	unsigned stash_at, stash_end;
	struct iovec stash_iov[VSOCK_STASH_IOVS];
	struct iovec read_iov[VSOCK_STASH_IOVS];
	struct iovec tx_iov[VIRTQ_SEGS_MAX];

	struct loop_msg pump;
	bool pump_pending;
	struct loop_op accept;
	int waiting_fd; /* a program that was taken in when the table was full; -1: none */
	bool accepting, accept_waits, ticking;
	struct loop_timer accept_retry, tick;
	struct vsock_own own;
	int wait_fd; /* an epoll of sockets */
	unsigned nwaits;
	struct loop_op wait; /* its poll */
	bool wait_polled;
};

/* A header in host order. */
struct vsock_packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len, flags, buf_alloc, fwd_cnt;
	uint16_t type, op;
};

/* vsock.c */
/* vsock_pump() runs at the end of this round. */
void vsock_kick_pump(struct vsock *vs);
/* Answers that waited are gone: packets are taken again. */
void vsock_tx_resume(struct vsock *vs);

/* vsock_rx.c */
/* Answers a packet that fits no connection. */
void vsock_rst(struct vsock *vs, const struct vsock_packet *p);
void vsock_rst_conn(const struct vsock_conn *c);
/* Sends what waits, as far as the guest has room. */
void vsock_pump(struct vsock *vs);
/* Lets go of the guest's chains, and of what waits for them. When stopping. */
void vsock_rx_drop(struct vsock *vs);
/* The room in the guest's buffer. */
uint32_t vsock_credit(const struct vsock_conn *c);
/* Is there something for the guest that could be sent? */
bool vsock_has_work(const struct vsock_conn *c);

/* vsock_conn.c */
/* NULL: the table is full. Otherwise the descriptor is the connection's. */
struct vsock_conn *vsock_conn_new(struct vsock *vs, int fd, enum vsock_state state);
/* Makes it known by its ports, and gives it a window. */
void vsock_conn_bind(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port);
struct vsock_conn *vsock_conn_find(struct vsock *vs, uint32_t guest_port, uint32_t host_port);
void vsock_conn_activate(struct vsock_conn *c);
void vsock_conn_deactivate(struct vsock_conn *c);
/* Has these packets sent (VSOCK_SEND_*). */
void vsock_conn_send(struct vsock_conn *c, uint8_t packets);
/* Ends it in so many nanoseconds; 0: not. */
void vsock_conn_deadline(struct vsock_conn *c, uint64_t ns);
/* Ends it, and tells the guest. */
void vsock_conn_reset(struct vsock_conn *c);
/* The guest has ended it: bytes for the host are still delivered. */
void vsock_conn_gone(struct vsock_conn *c);
/* Ends it; a word to the guest is the caller's part. */
void vsock_conn_close(struct vsock_conn *c);
void vsock_conn_close_all(struct vsock *vs);
void vsock_conn_poll_in(struct vsock_conn *c);

/* vsock_stream.c */
/* A packet that found its connection; `iov` is its data. */
void vsock_conn_packet(struct vsock_conn *c, const struct vsock_packet *p, const struct iovec *iov,
		       unsigned niov);
/* The socket takes bytes again. */
void vsock_stream_flush(struct vsock_conn *c);
/* The host's side sends no more; has hung up. */
void vsock_stream_eof(struct vsock_conn *c);
void vsock_stream_hangup(struct vsock_conn *c);

/* vsock_host.c */
/* Takes programs in while there is room in the table. */
void vsock_host_accept(struct vsock *vs);
void vsock_host_stop(struct vsock *vs);
/* The guest asks for a connection. */
void vsock_host_connect(struct vsock *vs, const struct vsock_packet *p);
/* A program's first line may be there. */
void vsock_host_greeting(struct vsock_conn *c);
/* The guest has accepted. */
void vsock_host_answer(struct vsock_conn *c);

/* vsock_wait.c */
/* .wait_fd -1: errno says why. */
void vsock_wait_init(struct vsock *vs);
void vsock_wait_stop(struct vsock *vs);
/* vsock_stream_hangup() is called when it comes to that; and vsock_stream_flush() when there is
 * room. Both once. False: the host lacks memory. */
bool vsock_wait_end(struct vsock_conn *c);
bool vsock_wait_room(struct vsock_conn *c);
void vsock_wait_none(struct vsock_conn *c);

/* vsock_own.c */
/* .event_fd -1: errno says why. */
void vsock_own_init(struct vsock_own *own, const struct virtio_vsock_config *config);
void vsock_own_fini(struct vsock_own *own);
/* vsock_host_accept() is called when something comes. */
void vsock_own_start(struct vsock *vs);
void vsock_own_stop(struct vsock *vs);
/* A descriptor that waits; -1: none. */
int vsock_own_next(struct vsock *vs);
/* Is this port of the host the process's own? */
bool vsock_own_is(const struct vsock *vs, uint32_t port);
/* The device's end of a connection there; -1: refused. */
int vsock_own_connect(struct vsock *vs);

#endif
