/*
 * A virtqueue that a test fills by hand, on a device driven from user space.
 */
#ifndef TESTS_GUEST_INIT_RIG_H
#define TESTS_GUEST_INIT_RIG_H

#include "vdev.h"

#define QSIZE	 64
#define AVAIL_AT 1024
#define USED_AT	 2048
#define PAGES	 64
#define SECTOR	 512

#define REQ_READ    0
#define REQ_WRITE   1
#define REQ_FLUSH   4
#define REQ_GET_ID  8
#define REQ_DISCARD 11
#define REQ_ZEROES  13

#define STATUS_OK     0
#define STATUS_IOERR  1
#define STATUS_UNSUPP 2
#define STATUS_UNSET  0xff

enum outcome {
	OK = 1 << STATUS_OK,
	IOERR = 1 << STATUS_IOERR,
	UNSUPP = 1 << STATUS_UNSUPP,
	RETURNED = 1 << 3, /* given back without a status byte */
	BROKEN = 1 << 4,   /* NEEDS_RESET */
	SILENT = 1 << 5,   /* nothing came: allowed where there is nothing to answer */
};

/* A faulty request: an error of any kind will do. */
#define REFUSED (IOERR | UNSUPP | RETURNED | BROKEN)
/* Not even an answer is owed. */
#define ALIVE (OK | REFUSED | SILENT)

struct rig {
	struct vdev dev;
	unsigned char *ring, *head, *table;
	uint64_t ring_gpa, head_gpa, table_gpa;
	unsigned char *data[PAGES];
	uint64_t data_gpa[PAGES];
	uint16_t avail_idx;
	uint64_t capacity; /* sectors; 0: not a disk */
	uint64_t random;
	bool silent_ok; /* do not wait long for an answer */
};

/* In rig->head: the request's header at 0, its status byte at STATUS_OFFSET. */
#define STATUS_OFFSET 64

struct ring_case {
	const char *name; /* NULL: the end */
	void (*run)(struct rig *rig);
	unsigned allowed; /* enum outcome */
};

/* ring_cases.c: each puts one request into a fresh ring. */
extern const struct ring_case ring_cases[];

/* The proper request: a read of sector 0. */
void case_plain(struct rig *rig);

const char *outcome_name(enum outcome outcome);

/* Takes a disk (vdb) or "rng" from the kernel. */
int rig_new(struct rig *rig, const char *what);

/* Reset, features, queue 0, DRIVER_OK. */
int rig_start(struct rig *rig);

volatile struct vring_desc *rig_desc(struct rig *rig, unsigned i);
volatile uint16_t *rig_avail(struct rig *rig, unsigned i);
uint16_t rig_used_idx(struct rig *rig);

void set_desc(volatile struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags,
	      uint16_t next);
void set_header(struct rig *rig, uint32_t type, uint64_t sector);

/* The three descriptors of a plain request into table `d`. */
void set_request(struct rig *rig, volatile struct vring_desc *d, uint32_t type, uint64_t sector,
		 uint32_t len);

/* Makes the chain at `head` available and rings. */
void rig_submit(struct rig *rig, uint16_t head);

/* Waits for a completion or for NEEDS_RESET. */
enum outcome rig_await(struct rig *rig);

/* Resets the device, which must then serve a proper request. */
int rig_sane(struct rig *rig, const char *after);

#endif
