/*
 * A virtio-blk driver in user mode, for benchmarks: one queue, polled, so that the guest's side
 * costs the same under every machine monitor. virtio 1.2 §4.2 (MMIO, version 2), §2.7 (split ring),
 * §5.2 (block).
 *
 * Command line: blk=PATTERN[+PATTERN...],MILLISECONDS tsc=KHZ
 * PATTERN is one of the table below. Prints "io NAME OPERATIONS NANOSECONDS" for each, then "done".
 */
#include "lib/x86/x86.h"

#define VIRTIO_MAGIC 0x74726976
#define ID_BLOCK     2
#define F_VERSION_1  1u /* feature 32 */
#define QUEUE_SIZE   128
#define DEPTH_MAX    32
#define SECTOR	     512

/* Where the machine monitors put their transports: lodge, QEMU microvm. */
static const struct {
	uint64_t first, step;
	unsigned count;
} places[] = {{0xe8000000, 0x1000, 8}, {0xfeb00000, 0x200, 32}};

enum {
	REG_MAGIC = 0x00,
	REG_VERSION = 0x04,
	REG_DEVICE_ID = 0x08,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SEL = 0x24,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_NUM_MAX = 0x34,
	REG_QUEUE_NUM = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_QUEUE_NOTIFY = 0x50,
	REG_STATUS = 0x70,
	REG_DESC = 0x80,
	REG_DRIVER = 0x90,
	REG_DEVICE = 0xa0,
	REG_CAPACITY = 0x100,
};

enum {
	STATUS_ACKNOWLEDGE = 1,
	STATUS_DRIVER = 2,
	STATUS_DRIVER_OK = 4,
	STATUS_FEATURES_OK = 8,
};

enum { DESC_NEXT = 1, DESC_WRITE = 2 };
enum { BLK_IN = 0, BLK_OUT = 1 };
enum { USED_NO_NOTIFY = 1, AVAIL_NO_INTERRUPT = 1 };

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static struct {
	struct desc desc[QUEUE_SIZE];
} table __attribute__((aligned(4096)));

static struct {
	uint16_t flags, idx, ring[QUEUE_SIZE];
} avail __attribute__((aligned(4096)));

static struct {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[QUEUE_SIZE];
} used __attribute__((aligned(4096)));

static struct request {
	uint32_t type, reserved;
	uint64_t sector;
	uint8_t status;
} requests[DEPTH_MAX] __attribute__((aligned(64)));

static uint8_t buffers[4 << 20] __attribute__((aligned(4096)));

static const struct pattern {
	const char *name;
	uint32_t bytes;
	unsigned depth;
	bool write, random;
} patterns[] = {
    {"randread", 4096, 32, false, true},   {"randwrite", 4096, 32, true, true},
    {"randread1", 4096, 1, false, true},   {"seqread", 1 << 20, 4, false, false},
    {"seqwrite", 1 << 20, 4, true, false},
};

static uint64_t base, capacity_bytes, tsc_khz = 1000000;
static uint16_t used_seen;
static uint64_t position, seed = 88172645463325252u;

static const char *find(const char *text, const char *word)
{
	for (; *text; text++) {
		size_t n = 0;

		while (word[n] && text[n] == word[n])
			n++;
		if (!word[n])
			return text + n;
	}
	return NULL;
}

static uint64_t number(const char **text)
{
	uint64_t v = 0;

	for (; **text >= '0' && **text <= '9'; ++*text)
		v = v * 10 + (uint64_t)(**text - '0');
	return v;
}

static bool is_block(uint64_t gpa)
{
	return mmio_read32(gpa + REG_MAGIC) == VIRTIO_MAGIC &&
	       mmio_read32(gpa + REG_VERSION) == 2 && mmio_read32(gpa + REG_DEVICE_ID) == ID_BLOCK;
}

static uint64_t find_block(void)
{
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		for (unsigned n = 0; n < places[i].count; n++) {
			uint64_t gpa = places[i].first + n * places[i].step;

			if (is_block(gpa))
				return gpa;
		}
	}
	return 0;
}

static void set_address(unsigned reg, const void *p)
{
	mmio_write32(base + reg, (uint32_t)(uintptr_t)p);
	mmio_write32(base + reg + 4, (uint32_t)((uintptr_t)p >> 32));
}

static void set_up(void)
{
	base = find_block();
	if (!base)
		fail("no virtio-blk behind MMIO");
	mmio_write32(base + REG_STATUS, 0);
	mmio_write32(base + REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	mmio_write32(base + REG_DRIVER_FEATURES_SEL, 1);
	mmio_write32(base + REG_DRIVER_FEATURES, F_VERSION_1);
	mmio_write32(base + REG_DRIVER_FEATURES_SEL, 0);
	mmio_write32(base + REG_DRIVER_FEATURES, 0);
	mmio_write32(base + REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	if (!(mmio_read32(base + REG_STATUS) & STATUS_FEATURES_OK))
		fail("features refused");
	mmio_write32(base + REG_QUEUE_SEL, 0);
	if (mmio_read32(base + REG_QUEUE_NUM_MAX) < QUEUE_SIZE)
		fail("queue too small");
	mmio_write32(base + REG_QUEUE_NUM, QUEUE_SIZE);
	set_address(REG_DESC, &table);
	set_address(REG_DRIVER, &avail);
	set_address(REG_DEVICE, &used);
	avail.flags = AVAIL_NO_INTERRUPT;
	mmio_write32(base + REG_QUEUE_READY, 1);
	mmio_write32(base + REG_STATUS,
		     STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	capacity_bytes = ((uint64_t)mmio_read32(base + REG_CAPACITY + 4) << 32 |
			  mmio_read32(base + REG_CAPACITY)) *
			 SECTOR;
}

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Puts one request on the ring; the caller rings the doorbell. */
static void submit(const struct pattern *p, unsigned slot)
{
	uint64_t nblocks = capacity_bytes / p->bytes;
	uint64_t block = (p->random ? next_random() : position++) % nblocks;
	struct request *req = &requests[slot];
	struct desc *d = &table.desc[slot * 3];

	req->type = p->write ? BLK_OUT : BLK_IN;
	req->sector = block * (p->bytes / SECTOR);
	req->status = 0xff;
	d[0] = (struct desc){(uintptr_t)req, 16, DESC_NEXT, (uint16_t)(slot * 3 + 1)};
	d[1] = (struct desc){(uintptr_t)buffers + (uint64_t)slot * p->bytes, p->bytes,
			     DESC_NEXT | (p->write ? 0 : DESC_WRITE), (uint16_t)(slot * 3 + 2)};
	d[2] = (struct desc){(uintptr_t)&req->status, 1, DESC_WRITE, 0};
	avail.ring[avail.idx % QUEUE_SIZE] = (uint16_t)(slot * 3);
	__atomic_store_n(&avail.idx, (uint16_t)(avail.idx + 1), __ATOMIC_RELEASE);
}

static void ring(void)
{
	/* The index is to be seen before the device's wish for a doorbell is read, §2.7.13.4.1. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&used.flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY))
		mmio_write32(base + REG_QUEUE_NOTIFY, 0);
}

/* Takes what has completed; starts as many anew while `more`. Returns the number taken. */
static unsigned reap(const struct pattern *p, bool more)
{
	uint16_t idx = __atomic_load_n(&used.idx, __ATOMIC_ACQUIRE);
	unsigned n = 0;

	for (; used_seen != idx; used_seen++, n++) {
		unsigned slot = used.ring[used_seen % QUEUE_SIZE].id / 3;

		if (slot >= DEPTH_MAX || requests[slot].status != 0)
			fail("a request failed");
		if (more)
			submit(p, slot);
	}
	if (n && more)
		ring();
	return n;
}

static void run(const struct pattern *p, uint64_t ms)
{
	uint64_t start = rdtsc(), ops = 0, now;

	position = 0;
	for (unsigned i = 0; i < p->depth; i++)
		submit(p, i);
	ring();
	while ((now = rdtsc()) - start < ms * tsc_khz) {
		unsigned n = reap(p, true);

		ops += n;
		if (!n)
			__asm__ volatile("pause");
	}
	for (unsigned left = p->depth; left;)
		left -= reap(p, false);
	print("io ");
	print(p->name);
	print(" ");
	print_dec(ops);
	print(" ");
	print_dec((now - start) / (tsc_khz / 1000) * 1000);
	print("\n");
}

static bool wanted(const char *list, const char *name)
{
	for (;;) {
		size_t n = 0;

		while (name[n] && list[n] == name[n])
			n++;
		if (!name[n] && (list[n] == '+' || list[n] == ','))
			return true;
		while (*list && *list != '+' && *list != ',')
			list++;
		if (*list != '+')
			return false;
		list++;
	}
}

void payload_main(void)
{
	const char *list = find(payload_cmdline(), "blk="), *khz = find(payload_cmdline(), "tsc=");
	const char *ms = list;

	if (!list || !khz)
		fail("blk=PATTERN,MILLISECONDS tsc=KHZ are missing");
	while (*ms && *ms++ != ',')
		;
	uint64_t duration = number(&ms);

	tsc_khz = number(&khz);
	set_up();
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		if (wanted(list, patterns[i].name))
			run(&patterns[i], duration);
	}
	print("done\n");
}
