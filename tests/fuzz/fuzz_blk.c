/*
 * virtio-blk and both transports against a hostile guest: registers, PCI configuration, rings and
 * request headers, with a real loop and a disk image in memory.
 *
 * Input: the transport (1 byte), then a list of actions, each a byte and its arguments. Devices
 * live from input to input, as a guest's would across its resets; so at the end of each the device
 * must, after a reset, hold nothing and serve a proper driver.
 *
 * One thread: the loop runs where an action says so, and in resets.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/virtio/blk.h"
#include "tests/unit/virtio_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEM_BYTES   (2 * MIB)
#define HEAP_GPA    0x1000
#define HOT_BYTES   0x10000 /* where the fuzzer writes, and the rings lie */
#define DATA_GPA    0x100000
#define MMIO_GPA    0xd0000000
#define MEM32_GPA   0xc0000000
#define GSI	    5
#define DISK_BYTES  (512 * KIB)
#define QUEUES	    2
#define QUEUE_SIZE  16
#define ACTIONS_MAX 200
#define BAR_BYTES   0x8000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(cond)                                                        \
	do {                                                               \
		if (!(cond)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #cond); \
			__builtin_trap();                                  \
		}                                                          \
	} while (0)

struct target {
	struct fake_platform fp;
	struct loop *loop;
	struct image *img;
	struct pci_host *host;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	bool ready;
};

static struct target targets[2];

struct script {
	const uint8_t *p, *end;
};

static uint64_t next(struct script *s, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && s->p < s->end; i++)
		v |= (uint64_t)*s->p++ << (8 * i);
	return v;
}

static void attach_driver(struct target *t, enum vdrv_kind kind)
{
	if (kind == VDRV_MMIO) {
		vdrv_init_mmio(&t->d, &t->fp, MMIO_GPA, GSI, HEAP_GPA);
		return;
	}
	t->d.fp = &t->fp;
	t->d.slot = 1;
	vdrv_pci_write(&t->d, 4, 2, 0);
	vdrv_pci_write(&t->d, 0x10, 4, MEM32_GPA);
	CHECK(vdrv_init_pci(&t->d, &t->fp, 1, HEAP_GPA));
}

static void set_up(struct target *t, enum vdrv_kind kind)
{
	const struct pci_host_config hc = {.ports = true,
					   .ecam_gpa = 0xe0000000,
					   .mem32_gpa = MEM32_GPA,
					   .mem32_len = 0x1000000,
					   .mem64_gpa = 64 * GIB,
					   .mem64_len = GIB};
	const struct virtio_blk_config config = {
	    .serial = "fuzz", .queues = QUEUES, .queue_size = QUEUE_SIZE};
	struct image_opts opts = {.format = IMAGE_RAW};
	char path[64];
	int fd = memfd_create("disk", MFD_CLOEXEC);

	log_init(STDERR_FILENO, LOG_LEVEL_ERROR);
	CHECK(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	opts.path = path;
	fake_platform_init(&t->fp, MEM_BYTES);
	CHECK(loop_new(NULL, &t->loop, NULL) == 0);
	CHECK(image_open(&opts, &t->img, NULL) == 0);
	CHECK(virtio_blk_new(&config, &t->fp.plat, t->img, t->loop, &t->dev, NULL) == 0);
	t->dev->loop_idle = true;
	if (kind == VDRV_MMIO) {
		CHECK(virtio_mmio_new(&t->fp.plat, MMIO_GPA, GSI, t->dev, &t->t, NULL) == 0);
	} else {
		CHECK(pci_host_new(&t->fp.plat, &hc, &t->host, NULL) == 0);
		CHECK(virtio_pci_new(&t->fp.plat, t->host, t->dev, &t->t, NULL) == 0);
	}
	t->ready = true;
}

static void round_of_loop(struct target *t)
{
	loop_stop(t->loop);
	CHECK(loop_run(t->loop) == 0);
}

/*
 * A round is too short for I/O that the kernel hands to a worker: leaving the loop takes it back.
 * So this one stays in the loop until queue 1 has something used, with a look every 50 us.
 */
#define LOOK_NS	    50000
#define DEADLINE_NS UINT64_C(5000000000)

struct patience {
	struct loop_timer timer;
	struct target *t;
	uint64_t deadline_ns;
};

static void look(struct loop_timer *timer)
{
	struct patience *p = container_of(timer, struct patience, timer);
	const uint64_t now = loop_now_ns();

	if (vring_used_waiting(&p->t->d.rings[1]) || now > p->deadline_ns)
		loop_stop(p->t->loop);
	else
		loop_timer_arm(p->t->loop, timer, now + LOOK_NS);
}

static void wait_used(struct target *t)
{
	struct patience p = {.timer.fn = look, .t = t, .deadline_ns = loop_now_ns() + DEADLINE_NS};

	loop_timer_arm(t->loop, &p.timer, loop_now_ns());
	CHECK(loop_run(t->loop) == 0);
}

static gpa_t reg_base(const struct target *t)
{
	return t->d.kind == VDRV_MMIO ? MMIO_GPA : MEM32_GPA;
}

static gpa_t reg_at(const struct target *t, struct script *s)
{
	const uint16_t at = (uint16_t)next(s, 2);

	return reg_base(t) + at % (t->d.kind == VDRV_MMIO ? VIRTIO_MMIO_BYTES : BAR_BYTES);
}

/* A request of the right form with a header and lengths of the fuzzer's. */
static void request(struct target *t, struct script *s)
{
	const unsigned q = next(s, 1) % QUEUES;
	const uint8_t shape = (uint8_t)next(s, 1);
	struct vring *r = &t->d.rings[q];
	const gpa_t header = DATA_GPA + 64 * (r->avail_idx % 64);
	const gpa_t data = DATA_GPA + 0x2000 + (next(s, 1) << 9);
	uint8_t *p = fake_mem(&t->fp, header, 64);
	struct vbuf bufs[4];
	unsigned n = 0;

	if (!r->fp)
		return;
	le32_store(p, (uint32_t)next(s, 1));
	le32_store(p + 4, 0);
	le64_store(p + 8, shape & 0x80 ? next(s, 8) : next(s, 2));
	bufs[n++] = (struct vbuf){header, shape & 1 ? 16 : 16 + (shape >> 4), false};
	if (shape & 2) {
		const uint32_t len = shape & 4 ? (uint32_t)next(s, 3) : 512 * (uint32_t)next(s, 1);

		/* ranges to discard or zero: within the disk now and then */
		le64_store(fake_mem(&t->fp, data, 16), next(s, 2));
		le64_store(fake_mem(&t->fp, data + 8, 8), next(s, 1) | next(s, 1) << 32);
		bufs[n++] = (struct vbuf){data, shape & 0x40 ? 16 : len, shape & 8};
	}
	if (shape & 0x20 || shape & 1)
		bufs[n++] = (struct vbuf){header + 48, 1, true};
	vring_add(r, bufs, n, t->d.features & VDRV_INDIRECT && shape & 0x10);
	vdrv_kick(&t->d, q);
}

/* One descriptor, in the ring's table or anywhere in the hot memory. */
static void descriptor(struct target *t, struct script *s)
{
	const unsigned q = next(s, 1) % QUEUES;
	const gpa_t table = t->d.rings[q].fp ? t->d.rings[q].desc : HEAP_GPA;
	const unsigned i = next(s, 1) % 64;
	const uint16_t addr = (uint16_t)next(s, 2);
	const gpa_t gpa = addr & 0x8000 ? (gpa_t)next(s, 8) : DATA_GPA + addr;
	const uint8_t flags = (uint8_t)next(s, 1);
	const uint32_t len = flags & 0x80 ? (uint32_t)next(s, 4) : (uint32_t)next(s, 1) * 16;

	vring_desc(&t->fp, table, i, gpa, len, flags & 7, (uint16_t)(next(s, 1) & 31));
}

static void offer_heads(struct target *t, struct script *s)
{
	const unsigned q = next(s, 1) % QUEUES;
	struct vring *r = &t->d.rings[q];
	unsigned n = next(s, 1) % 20;

	if (!r->fp)
		return;
	while (n--)
		vring_add_head(r, (uint16_t)(next(s, 1) % 20));
	vring_publish(r);
	vdrv_notify(&t->d, q);
}

static void start(struct target *t, uint64_t features)
{
	t->d.heap = HEAP_GPA;
	if (!vdrv_start(&t->d, features, QUEUES, 0))
		memset(t->d.rings, 0, sizeof(t->d.rings));
}

static void act(struct target *t, struct script *s)
{
	gpa_t at;
	unsigned size;

	switch (next(s, 1) % 12) {
	case 0:
		at = reg_at(t, s);
		size = (unsigned)(next(s, 1) % 8 + 1);
		fake_guest_write(&t->fp, DOORBELL_MMIO, at, size, next(s, size));
		break;
	case 1: /* the registers' own sizes */
		at = reg_base(t) + (next(s, 1) & (t->d.kind == VDRV_MMIO ? 0xfc : 0x3e));
		size = t->d.kind == VDRV_MMIO ? 4 : 1u << (next(s, 1) % 4);
		fake_guest_write(&t->fp, DOORBELL_MMIO, at, size, next(s, size));
		break;
	case 2:
		at = reg_at(t, s);
		fake_guest_read(&t->fp, DOORBELL_MMIO, at, (unsigned)(next(s, 1) % 8 + 1));
		break;
	case 3:
		at = next(s, 2) % (HOT_BYTES - 8);
		le64_store(fake_mem(&t->fp, at, 8), next(s, 8));
		break;
	case 4:
		vdrv_notify(&t->d, (unsigned)next(s, 1) % (QUEUES + 2));
		break;
	case 5:
		round_of_loop(t);
		break;
	case 6:
	case 7:
		request(t, s);
		break;
	case 8:
		start(t, next(s, 4));
		break;
	case 9:
		descriptor(t, s);
		break;
	case 10:
		offer_heads(t, s);
		break;
	default:
		if (t->d.kind == VDRV_PCI)
			vdrv_pci_write(&t->d, next(s, 1) & 0xff, 1u << (next(s, 1) % 3),
				       (uint32_t)next(s, 4));
		else
			vdrv_reset(&t->d);
		break;
	}
}

/* After a reset: nothing is held, and a proper driver is served. */
static void check_alive(struct target *t, enum vdrv_kind kind)
{
	struct vbuf bufs[3];
	uint16_t head;
	uint32_t len;

	attach_driver(t, kind);
	vdrv_reset(&t->d);
	CHECK(vdrv_status(&t->d) == 0);
	CHECK(image_inflight(t->img) == 0);
	start(t, UINT64_MAX >> 24);
	CHECK(vdrv_status(&t->d) == 0xf);
	memset(fake_mem(&t->fp, DATA_GPA, 64), 0, 64);
	*(uint8_t *)fake_mem(&t->fp, DATA_GPA + 32, 1) = 0xee;
	bufs[0] = (struct vbuf){DATA_GPA, 16, false};
	bufs[1] = (struct vbuf){DATA_GPA + 4096, 4096, true};
	bufs[2] = (struct vbuf){DATA_GPA + 32, 1, true};
	CHECK(vring_add(&t->d.rings[1], bufs, 3, true) >= 0);
	vdrv_kick(&t->d, 1);
	wait_used(t);
	CHECK(vring_take(&t->d.rings[1], &head, &len));
	CHECK(len == 4097);
	CHECK(*(uint8_t *)fake_mem(&t->fp, DATA_GPA + 32, 1) == 0);
	vdrv_reset(&t->d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = {.p = data, .end = data + size};
	const enum vdrv_kind kind = next(&s, 1) & 1 ? VDRV_PCI : VDRV_MMIO;
	struct target *t = &targets[kind];

	if (!t->ready)
		set_up(t, kind);
	memset(fake_mem(&t->fp, 0, HOT_BYTES), 0, HOT_BYTES);
	attach_driver(t, kind);
	for (unsigned i = 0; i < ACTIONS_MAX && s.p < s.end; i++)
		act(t, &s);
	check_alive(t, kind);
	return 0;
}
