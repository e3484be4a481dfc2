/* A virtio device that only records, behind either transport, with a driver: what the tests of the
 * transports share. */
#ifndef TESTS_UNIT_VIRTIO_RIG_H
#define TESTS_UNIT_VIRTIO_RIG_H

#include "base/checked.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define MEM_BYTES  (8 * MIB)
#define HEAP	   0x10000
#define MMIO_GPA   0xd0000000
#define ECAM_GPA   0xe0000000
#define MEM32_GPA  0xc0000000
#define MEM32_LEN  0x1000000
#define GSI	   9
#define QUEUES	   3
#define QUEUE_SIZE 32
#define CONFIG_LEN 24
#define FEATURE_A  (UINT64_C(1) << 3)
#define FEATURE_B  (UINT64_C(1) << 20)
#define NO_VECTOR  0xffff
#define OK	   (1 | 2 | 8 | 4)
#define NEEDS	   0x40

struct recorder {
	struct virtio_dev dev;
	uint8_t config[CONFIG_LEN];
	int activate_result;
	unsigned activations, resets;
	unsigned *frees;
	uint64_t features;
	struct virtq *queues[QUEUES];
};

struct fixture {
	struct fake_platform fp;
	struct pci_host *host;
	struct recorder *rec;
	struct virtio_transport *t;
	struct vdrv d;
	enum vdrv_kind kind;
	unsigned frees;
};

static inline struct recorder *rec_of(struct virtio_dev *dev)
{
	return container_of(dev, struct recorder, dev);
}

static inline void rec_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (offset < CONFIG_LEN)
		memcpy(buf, rec_of(dev)->config + offset, MIN(len, CONFIG_LEN - offset));
}

static inline void rec_config_write(struct virtio_dev *dev, unsigned offset, const void *buf,
				    unsigned len)
{
	if (offset < CONFIG_LEN)
		memcpy(rec_of(dev)->config + offset, buf, MIN(len, CONFIG_LEN - offset));
}

static inline int rec_activate(struct virtio_dev *dev, uint64_t features,
			       struct virtq *const *queues)
{
	struct recorder *rec = rec_of(dev);

	if (rec->activate_result)
		return rec->activate_result;
	rec->activations++;
	rec->features = features;
	memcpy(rec->queues, queues, sizeof(rec->queues));
	return 0;
}

static inline void rec_reset(struct virtio_dev *dev)
{
	rec_of(dev)->resets++;
	memset(rec_of(dev)->queues, 0, sizeof(rec_of(dev)->queues));
}

static inline void rec_free(struct virtio_dev *dev)
{
	struct recorder *rec = rec_of(dev);

	(*rec->frees)++;
	virtio_dev_fini(dev);
	free(rec);
}

static const struct virtio_dev_ops rec_ops = {
    .config_read = rec_config_read,
    .config_write = rec_config_write,
    .activate = rec_activate,
    .reset = rec_reset,
    .free = rec_free,
};

static inline struct recorder *recorder_new(unsigned *frees)
{
	struct recorder *rec = calloc(1, sizeof(*rec));

	rec->dev.ops = &rec_ops;
	rec->dev.name = "recorder";
	rec->dev.id = VIRTIO_ID_BLOCK;
	rec->dev.features = FEATURE_A | FEATURE_B;
	rec->dev.nqueues = QUEUES;
	rec->dev.queue_size_max = QUEUE_SIZE;
	rec->dev.config_len = CONFIG_LEN;
	rec->frees = frees;
	for (unsigned i = 0; i < CONFIG_LEN; i++)
		rec->config[i] = (uint8_t)(0x10 + i);
	assert_int_equal(virtio_dev_init(&rec->dev, NULL), 0);
	return rec;
}

static inline void plug(struct fixture *f)
{
	const struct pci_host_config hc = {
	    .ports = true,
	    .ecam_gpa = ECAM_GPA,
	    .mem32_gpa = MEM32_GPA,
	    .mem32_len = MEM32_LEN,
	    .mem64_gpa = 64 * GIB,
	    .mem64_len = GIB,
	};

	f->rec = recorder_new(&f->frees);
	if (f->kind == VDRV_MMIO) {
		assert_int_equal(
		    virtio_mmio_new(&f->fp.plat, MMIO_GPA, GSI, &f->rec->dev, &f->t, NULL), 0);
		vdrv_init_mmio(&f->d, &f->fp, MMIO_GPA, GSI, HEAP);
		return;
	}
	assert_int_equal(pci_host_new(&f->fp.plat, &hc, &f->host, NULL), 0);
	assert_int_equal(virtio_pci_new(&f->fp.plat, f->host, &f->rec->dev, &f->t, NULL), 0);
	assert_true(vdrv_init_pci(&f->d, &f->fp, 1, HEAP));
}

static inline int setup(void **state, enum vdrv_kind kind, int doorbell_error)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.kind = kind;
	fake_platform_init(&f.fp, MEM_BYTES);
	f.fp.doorbell_error = doorbell_error;
	plug(&f);
	*state = &f;
	return 0;
}

static inline int setup_mmio(void **state)
{
	return setup(state, VDRV_MMIO, 0);
}

static inline int setup_pci(void **state)
{
	return setup(state, VDRV_PCI, 0);
}

static inline int setup_mmio_no_ioeventfd(void **state)
{
	return setup(state, VDRV_MMIO, ENOSPC);
}

static inline int setup_pci_no_ioeventfd(void **state)
{
	return setup(state, VDRV_PCI, ENOSPC);
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_transport_free(f->t);
	pci_host_free(f->host);
	assert_int_equal(f->frees, 1);
	assert_int_equal(fake_doorbell_count(&f->fp), 0);
	fake_platform_fini(&f->fp);
	return 0;
}

static inline bool start(struct fixture *f)
{
	return vdrv_start(&f->d, FEATURE_A | VDRV_EVENT | VDRV_INDIRECT, QUEUES, 0);
}

/* As far as FEATURES_OK, so that queues may be configured. */
static inline void negotiate(struct fixture *f)
{
	vdrv_reset(&f->d);
	vdrv_set_status(&f->d, 1);
	vdrv_set_status(&f->d, 1 | 2);
	vdrv_accept(&f->d, VDRV_V1);
	vdrv_set_status(&f->d, 1 | 2 | 8);
	assert_int_equal(vdrv_status(&f->d), 1 | 2 | 8);
	if (f->kind == VDRV_PCI)
		vdrv_config_vector(&f->d, 0);
}

static inline bool kicked(struct fixture *f, unsigned q)
{
	struct pollfd p = {.fd = f->rec->dev.kick_fd[q], .events = POLLIN};
	eventfd_t n;

	if (poll(&p, 1, 0) != 1)
		return false;
	eventfd_read(p.fd, &n);
	return true;
}

#define MMIO(f) cmocka_unit_test_setup_teardown(f, setup_mmio, teardown)
#define PCI(f)	cmocka_unit_test_setup_teardown(f, setup_pci, teardown)
#define BOTH(f) MMIO(f), PCI(f)

#endif
