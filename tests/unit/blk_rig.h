/*
 * A virtio-blk device with its loop, its transport and a driver: what the tests of the device
 * share. Set-up that fails ends the test.
 */
#ifndef TESTS_UNIT_BLK_RIG_H
#define TESTS_UNIT_BLK_RIG_H

#include "devices/virtio/blk.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/virtio_driver.h"

#define RIG_MEM_BYTES (32 * 1024 * 1024)
#define RIG_DATA_GPA  (16 * 1024 * 1024) /* free for the test's data, to the end of memory */
#define RIG_HEAP_GPA  0x10000
#define RIG_MMIO_GPA  0xd0000000
#define RIG_GSI	      5

#define STATUS_OK    0xf
#define STATUS_NEEDS 0x40

/* Request types and results, by the specification */
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};

enum {
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
	S_NONE = 0xee, /* what the driver puts there beforehand */
};

#define F_SEG_MAX      (UINT64_C(1) << 2)
#define F_RO	       (UINT64_C(1) << 5)
#define F_BLK_SIZE     (UINT64_C(1) << 6)
#define F_FLUSH	       (UINT64_C(1) << 9)
#define F_TOPOLOGY     (UINT64_C(1) << 10)
#define F_CONFIG_WCE   (UINT64_C(1) << 11)
#define F_MQ	       (UINT64_C(1) << 12)
#define F_DISCARD      (UINT64_C(1) << 13)
#define F_WRITE_ZEROES (UINT64_C(1) << 14)
#define F_ALL	       (UINT64_MAX >> 24)

struct blk_rig {
	struct fake_platform fp;
	struct loop_thread lt;
	struct pci_host *host;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	gpa_t heads; /* request headers and status bytes, 64 bytes for each number below */
	unsigned next;
	bool indirect;
};

/* Plugs a device on `img` in; the loop is made but not started. */
void rig_init(struct blk_rig *rig, enum vdrv_kind kind, enum loop_backend backend,
	      struct image *img, const struct virtio_blk_config *config);
/* Unplugs what rig_init() plugged in. */
void rig_fini(struct blk_rig *rig);

/* Starts the driver with `nqueues` queues; ends the test when that fails. */
void rig_start(struct blk_rig *rig, uint64_t features, unsigned nqueues);

/* The address of a fresh header, filled in, with its status byte at RIG_STATUS(). */
#define RIG_STATUS(header) ((header) + 32)
gpa_t rig_header(struct blk_rig *rig, uint32_t type, uint64_t sector);

/* Adds a request of three buffers; returns its header's address, 0: the ring is full. */
gpa_t rig_add(struct blk_rig *rig, unsigned q, uint32_t type, uint64_t sector, gpa_t data,
	      uint32_t len);
uint8_t rig_status(struct blk_rig *rig, gpa_t header);

/* Publishes, waits for `n` to be used and takes them; returns the last one's length. */
uint32_t rig_finish(struct blk_rig *rig, unsigned q, unsigned n);

/* One request from start to end: its status. */
uint8_t rig_do(struct blk_rig *rig, unsigned q, uint32_t type, uint64_t sector, gpa_t data,
	       uint32_t len);

/* The same for a chain of the test's own whose status byte is at `status`. */
uint8_t rig_do_bufs(struct blk_rig *rig, unsigned q, const struct vbuf *bufs, unsigned n,
		    gpa_t status, uint32_t *ret_len);

/* A range to discard or zero, at data address `gpa`. */
void rig_range(struct blk_rig *rig, gpa_t gpa, unsigned i, uint64_t sector, uint32_t sectors,
	       uint32_t flags);

#endif
