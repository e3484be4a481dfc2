/*
 * A virtio device driven from user space, so that a test can break every rule of virtio 1.2.
 * Both transports: PCI through the BARs in sysfs, MMIO through /dev/mem (the kernel needs
 * iomem=relaxed for either).
 */
#ifndef TESTS_GUEST_INIT_VDEV_H
#define TESTS_GUEST_INIT_VDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE		 4096u
#define VDEV_DEADLINE_MS 30000

#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER	   0x02
#define STATUS_DRIVER_OK   0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40

#define FEATURE_INDIRECT  (UINT64_C(1) << 28)
#define FEATURE_EVENT_IDX (UINT64_C(1) << 29)
#define FEATURE_VERSION_1 (UINT64_C(1) << 32)

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct vdev {
	char name[32];	 /* virtioN */
	char driver[32]; /* virtio_blk, ...: what was bound before */
	char pci[32];	 /* 0000:00:02.0; "" on MMIO */
	volatile uint8_t *bars[6];
	size_t bar_bytes[6];
	/* PCI: the structures of §4.1.4; MMIO: `common` is the register page (§4.2.2), the rest
	 * NULL */
	volatile uint8_t *common, *notify, *device;
	uint32_t notify_multiplier;
	uint16_t notify_off[16]; /* PCI, filled by vdev_queue() */
};

/* Finds a device by the disk's name (vdb) or by "rng", takes its driver off and maps its registers.
 */
int vdev_open(struct vdev *dev, const char *what);

/* Resets the device and gives it back to the kernel's driver. */
int vdev_close(struct vdev *dev);

uint8_t vdev_status(struct vdev *dev);
void vdev_set_status(struct vdev *dev, uint8_t status);

/* Writes status 0 and waits until it reads so; -1 at the deadline. */
int vdev_reset(struct vdev *dev);

uint64_t vdev_features(struct vdev *dev);

/* Up to FEATURES_OK; -1 where the device does not accept `features`. */
int vdev_negotiate(struct vdev *dev, uint64_t features);

uint16_t vdev_queue_max(struct vdev *dev, unsigned queue);
void vdev_queue(struct vdev *dev, unsigned queue, uint16_t size, uint64_t desc, uint64_t avail,
		uint64_t used);
void vdev_kick(struct vdev *dev, unsigned queue);
uint64_t vdev_config64(struct vdev *dev, unsigned offset);

/* One locked page of zeroes and its guest-physical address; NULL where there is none. */
void *dma_page(uint64_t *ret_gpa);

/* An access of 1, 2, 4, 8 or 16 bytes, of any alignment. */
uint64_t poke_read(const volatile uint8_t *at, unsigned size);
void poke_write(volatile uint8_t *at, unsigned size, uint64_t value);

/* A value of the kind that breaks things: 0, -1, a power of two, an address, or a random one. */
uint64_t nasty_value(uint64_t *random);

/* Maps guest-physical registers through /dev/mem. */
volatile uint8_t *map_physical(uint64_t gpa, size_t len);

/* The range that /proc/iomem has under this name. */
int iomem_find(const char *name, uint64_t *ret_gpa, uint64_t *ret_len);

#endif
