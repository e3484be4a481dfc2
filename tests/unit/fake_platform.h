/*
 * A platform without KVM: what a device under test stands on.
 *
 * Guest memory is anonymous, with an inaccessible page on either side of each region, so that a
 * device that leaves it faults. Interrupts are plain eventfds that a test reads instead of an irq
 * chip; doorbells are kept in a list that fake_doorbell_ring() searches as KVM searches its
 * ioeventfds; machine events are counted.
 *
 * Set-up that fails ends the test program: a test cannot do anything about it.
 *
 * Threads: devices may call from any thread; the fake_* functions may be called at the same time.
 */
#ifndef TESTS_UNIT_FAKE_PLATFORM_H
#define TESTS_UNIT_FAKE_PLATFORM_H

#include "devices/platform.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_GSIS      64
#define FAKE_MSIS      512
#define FAKE_DOORBELLS 256
#define FAKE_EVENTS    16

struct fake_msi {
	int fd;
	bool is_set; /* false: masked, or never set */
	struct msi_msg msg;
	unsigned set_calls; /* how often msi_set() was called for it */
	uint64_t taken;	    /* raised while set, not yet asked for */
	uint64_t lost;	    /* raised while masked: KVM would have dropped it */
};

struct fake_platform {
	struct platform plat; /* hand &fp->plat to the device */

	/* What the next calls answer; 0: they work. */
	_Atomic int irq_error, msi_alloc_error, msi_set_error, doorbell_error;

	struct {
		void *map;
		size_t map_bytes;
	} maps[2];
	pthread_mutex_t lock; /* all below but `events` */
	int gsi_fd[FAKE_GSIS];
	struct fake_msi msi[FAKE_MSIS];
	unsigned nmsi;
	struct doorbell doorbells[FAKE_DOORBELLS];
	unsigned ndoorbells;
	_Atomic unsigned events[FAKE_EVENTS];
};

/* One region of `mem_bytes` (a multiple of the page size) at address 0. */
void fake_platform_init(struct fake_platform *fp, uint64_t mem_bytes);

/* Two regions with a hole between them: [0, low_bytes) and [high_gpa, high_gpa + high_bytes). */
void fake_platform_init_hole(struct fake_platform *fp, uint64_t low_bytes, gpa_t high_gpa,
			     uint64_t high_bytes);

/* The devices are gone. */
void fake_platform_fini(struct fake_platform *fp);

/* Host address of guest memory; the program ends where [gpa, gpa + len) is not memory. */
void *fake_mem(struct fake_platform *fp, gpa_t gpa, uint64_t len_bytes);

/* How often the device reported `event`. */
unsigned fake_events(struct fake_platform *fp, enum machine_event event);

/* How often the wired interrupt was raised since the last call; 0 when nobody connected it. */
uint64_t fake_irq_taken(struct fake_platform *fp, unsigned gsi);
bool fake_irq_connected(struct fake_platform *fp, unsigned gsi);

/*
 * Message interrupts, numbered in the order of allocation.
 * fake_msi_find() gives the number of the set vector with this data, -1: none.
 */
unsigned fake_msi_count(struct fake_platform *fp);
int fake_msi_find(struct fake_platform *fp, uint32_t data);
bool fake_msi_msg(struct fake_platform *fp, unsigned n, struct msi_msg *ret_msg);
unsigned fake_msi_set_calls(struct fake_platform *fp, unsigned n);

/* Raises delivered since the last call, and raises that were lost because the vector was masked. */
uint64_t fake_msi_taken(struct fake_platform *fp, unsigned n);
uint64_t fake_msi_lost(struct fake_platform *fp, unsigned n);

unsigned fake_doorbell_count(struct fake_platform *fp);

/* A guest write as KVM sees it: signals the doorbell that matches. False: it goes to the bus. */
bool fake_doorbell_ring(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
			unsigned size, uint64_t value);

/* A guest write with all that belongs to it: the doorbell if one matches, else the bus. */
void fake_guest_write(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
		      unsigned size, uint64_t value);

/* A guest read of memory-mapped or port I/O; all ones where nothing answers. */
uint64_t fake_guest_read(struct fake_platform *fp, enum doorbell_space space, uint64_t addr,
			 unsigned size);

#endif
