#include "tests/unit/fake_platform.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(cond)                                                               \
	do {                                                                      \
		if (!(cond)) {                                                    \
			fprintf(stderr, "fake platform: %s failed (%s)\n", #cond, \
				strerror(errno));                                 \
			exit(99);                                                 \
		}                                                                 \
	} while (0)

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

static uint64_t take(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static int fake_irq_connect(void *ctx, unsigned gsi, struct irq *ret_irq, struct err *err)
{
	struct fake_platform *fp = ctx;

	if (fp->irq_error)
		return err_set(err, fp->irq_error, "irq %u: refused by the test", gsi);
	CHECK(gsi < FAKE_GSIS);
	AUTOLOCK(&fp->lock);
	if (fp->gsi_fd[gsi] < 0)
		fp->gsi_fd[gsi] = new_eventfd();
	ret_irq->fd = fp->gsi_fd[gsi];
	return 0;
}

static int fake_msi_alloc(void *ctx, unsigned n, struct irq *vectors, struct err *err)
{
	struct fake_platform *fp = ctx;

	if (fp->msi_alloc_error)
		return err_set(err, fp->msi_alloc_error, "msi: refused by the test");
	AUTOLOCK(&fp->lock);
	CHECK(n <= FAKE_MSIS - fp->nmsi);
	for (unsigned i = 0; i < n; i++) {
		struct fake_msi *msi = &fp->msi[fp->nmsi++];

		*msi = (struct fake_msi){.fd = new_eventfd()};
		vectors[i].fd = msi->fd;
	}
	return 0;
}

/* What was raised up to now met the message of up to now. */
static void msi_collect_locked(struct fake_msi *msi)
{
	uint64_t count = take(msi->fd);

	if (msi->is_set)
		msi->taken += count;
	else
		msi->lost += count;
}

static int fake_msi_set(void *ctx, const struct irq *vector, const struct msi_msg *msg)
{
	struct fake_platform *fp = ctx;

	AUTOLOCK(&fp->lock);
	for (unsigned i = 0; i < fp->nmsi; i++) {
		struct fake_msi *msi = &fp->msi[i];

		if (msi->fd != vector->fd)
			continue;
		msi->set_calls++;
		if (msg && fp->msi_set_error)
			return -fp->msi_set_error;
		msi_collect_locked(msi);
		msi->is_set = msg != NULL;
		if (msg)
			msi->msg = *msg;
		return 0;
	}
	return -ENOENT;
}

static bool doorbell_same(const struct doorbell *a, const struct doorbell *b)
{
	return a->space == b->space && a->addr == b->addr && a->size == b->size &&
	       a->has_match == b->has_match && (!a->has_match || a->match == b->match);
}

/* KVM refuses what would make two doorbells answer one write. */
static bool doorbell_collides(const struct doorbell *a, const struct doorbell *b)
{
	return a->space == b->space && a->addr == b->addr &&
	       (!a->size || !b->size || a->size == b->size) &&
	       (!a->has_match || !b->has_match || a->match == b->match);
}

static int fake_doorbell_add(void *ctx, const struct doorbell *bell)
{
	struct fake_platform *fp = ctx;

	if (fp->doorbell_error)
		return -fp->doorbell_error;
	AUTOLOCK(&fp->lock);
	for (unsigned i = 0; i < fp->ndoorbells; i++)
		if (doorbell_collides(&fp->doorbells[i], bell))
			return -EEXIST;
	if (fp->ndoorbells == FAKE_DOORBELLS)
		return -ENOSPC;
	fp->doorbells[fp->ndoorbells++] = *bell;
	return 0;
}

static int fake_doorbell_del(void *ctx, const struct doorbell *bell)
{
	struct fake_platform *fp = ctx;

	AUTOLOCK(&fp->lock);
	for (unsigned i = 0; i < fp->ndoorbells; i++) {
		if (!doorbell_same(&fp->doorbells[i], bell) || fp->doorbells[i].fd != bell->fd)
			continue;
		fp->doorbells[i] = fp->doorbells[--fp->ndoorbells];
		return 0;
	}
	return -ENOENT;
}

static void fake_machine_event(void *ctx, int event)
{
	struct fake_platform *fp = ctx;

	CHECK(event > 0 && event < FAKE_EVENTS);
	fp->events[event]++;
}

static const struct platform_ops fake_ops = {
    .irq_connect = fake_irq_connect,
    .msi_alloc = fake_msi_alloc,
    .msi_set = fake_msi_set,
    .doorbell_add = fake_doorbell_add,
    .doorbell_del = fake_doorbell_del,
    .machine_event = fake_machine_event,
};

static void add_region(struct fake_platform *fp, unsigned n, gpa_t gpa, uint64_t len_bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct gmem_region region = {.gpa = gpa, .len_bytes = len_bytes, .fd = -1};
	uint8_t *map;

	CHECK(len_bytes % page == 0);
	fp->maps[n].map_bytes = len_bytes + 2 * page;
	map = mmap(NULL, fp->maps[n].map_bytes, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(map != MAP_FAILED);
	CHECK(mprotect(map + page, len_bytes, PROT_READ | PROT_WRITE) == 0);
	fp->maps[n].map = map;
	region.host = map + page;
	CHECK(gmem_add(fp->plat.mem, &region, NULL) == 0);
}

void fake_platform_init_hole(struct fake_platform *fp, uint64_t low_bytes, gpa_t high_gpa,
			     uint64_t high_bytes)
{
	memset(fp, 0, sizeof(*fp));
	pthread_mutex_init(&fp->lock, NULL);
	for (unsigned i = 0; i < FAKE_GSIS; i++)
		fp->gsi_fd[i] = -1;
	fp->plat.ops = &fake_ops;
	fp->plat.ctx = fp;
	CHECK(gmem_new(&fp->plat.mem) == 0);
	if (low_bytes)
		add_region(fp, 0, 0, low_bytes);
	if (high_bytes)
		add_region(fp, 1, high_gpa, high_bytes);
	CHECK(bus_new("port", 0x10000, &fp->plat.pio) == 0);
	CHECK(bus_new("memory", 0, &fp->plat.mmio) == 0);
}

void fake_platform_init(struct fake_platform *fp, uint64_t mem_bytes)
{
	fake_platform_init_hole(fp, mem_bytes, 0, 0);
}

void fake_platform_fini(struct fake_platform *fp)
{
	bus_free(fp->plat.pio);
	bus_free(fp->plat.mmio);
	gmem_free(fp->plat.mem);
	for (unsigned i = 0; i < ARRAY_LEN(fp->maps); i++)
		if (fp->maps[i].map)
			munmap(fp->maps[i].map, fp->maps[i].map_bytes);
	for (unsigned i = 0; i < FAKE_GSIS; i++)
		if (fp->gsi_fd[i] >= 0)
			close(fp->gsi_fd[i]);
	for (unsigned i = 0; i < fp->nmsi; i++)
		close(fp->msi[i].fd);
	pthread_mutex_destroy(&fp->lock);
}

void *fake_mem(struct fake_platform *fp, gpa_t gpa, uint64_t len_bytes)
{
	void *p = gmem_rw(fp->plat.mem, gpa, len_bytes);

	CHECK(p);
	return p;
}

unsigned fake_events(struct fake_platform *fp, enum machine_event event)
{
	return fp->events[event];
}

uint64_t fake_irq_taken(struct fake_platform *fp, unsigned gsi)
{
	CHECK(gsi < FAKE_GSIS);
	AUTOLOCK(&fp->lock);
	return fp->gsi_fd[gsi] >= 0 ? take(fp->gsi_fd[gsi]) : 0;
}

bool fake_irq_connected(struct fake_platform *fp, unsigned gsi)
{
	CHECK(gsi < FAKE_GSIS);
	AUTOLOCK(&fp->lock);
	return fp->gsi_fd[gsi] >= 0;
}

unsigned fake_msi_count(struct fake_platform *fp)
{
	AUTOLOCK(&fp->lock);
	return fp->nmsi;
}

int fake_msi_find(struct fake_platform *fp, uint32_t data)
{
	AUTOLOCK(&fp->lock);
	for (unsigned i = 0; i < fp->nmsi; i++)
		if (fp->msi[i].is_set && fp->msi[i].msg.data == data)
			return (int)i;
	return -1;
}

bool fake_msi_msg(struct fake_platform *fp, unsigned n, struct msi_msg *ret_msg)
{
	AUTOLOCK(&fp->lock);
	CHECK(n < fp->nmsi);
	if (fp->msi[n].is_set)
		*ret_msg = fp->msi[n].msg;
	return fp->msi[n].is_set;
}

unsigned fake_msi_set_calls(struct fake_platform *fp, unsigned n)
{
	AUTOLOCK(&fp->lock);
	CHECK(n < fp->nmsi);
	return fp->msi[n].set_calls;
}

uint64_t fake_msi_taken(struct fake_platform *fp, unsigned n)
{
	uint64_t taken;

	AUTOLOCK(&fp->lock);
	CHECK(n < fp->nmsi);
	msi_collect_locked(&fp->msi[n]);
	taken = fp->msi[n].taken;
	fp->msi[n].taken = 0;
	return taken;
}

uint64_t fake_msi_lost(struct fake_platform *fp, unsigned n)
{
	AUTOLOCK(&fp->lock);
	CHECK(n < fp->nmsi);
	msi_collect_locked(&fp->msi[n]);
	return fp->msi[n].lost;
}

unsigned fake_doorbell_count(struct fake_platform *fp)
{
	AUTOLOCK(&fp->lock);
	return fp->ndoorbells;
}

bool fake_doorbell_ring(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
			unsigned size, uint64_t value)
{
	uint64_t mask = size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;
	uint64_t one = 1;

	AUTOLOCK(&fp->lock);
	for (unsigned i = 0; i < fp->ndoorbells; i++) {
		const struct doorbell *b = &fp->doorbells[i];

		if (b->space != space || b->addr != addr || (b->size && b->size != size))
			continue;
		if (b->has_match && b->match != (value & mask))
			continue;
		CHECK(write(b->fd, &one, sizeof(one)) == sizeof(one));
		return true;
	}
	return false;
}

static struct bus *space_bus(struct fake_platform *fp, enum doorbell_space space)
{
	return space == DOORBELL_PIO ? fp->plat.pio : fp->plat.mmio;
}

void fake_guest_write(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
		      unsigned size, uint64_t value)
{
	if (!fake_doorbell_ring(fp, space, addr, size, value))
		bus_write(space_bus(fp, space), addr, size, value);
}

uint64_t fake_guest_read(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
			 unsigned size)
{
	uint64_t value = size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;

	bus_read(space_bus(fp, space), addr, size, &value);
	return value;
}
