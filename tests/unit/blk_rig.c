#include "tests/unit/blk_rig.h"

#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HEADS 4096

void rig_init(struct blk_rig *rig, enum vdrv_kind kind, enum loop_backend backend,
	      struct image *img, const struct virtio_blk_config *config)
{
	const struct pci_host_config hc = {.ports = true,
					   .ecam_gpa = 0xe0000000,
					   .mem32_gpa = 0xc0000000,
					   .mem32_len = 0x1000000,
					   .mem64_gpa = 64 * GIB,
					   .mem64_len = GIB};
	struct fake_platform *fp = &rig->fp;

	memset(rig, 0, sizeof(*rig));
	fake_platform_init(fp, RIG_MEM_BYTES);
	loop_thread_new(&rig->lt, backend);
	assert_int_equal(virtio_blk_new(config, &fp->plat, img, rig->lt.loop, &rig->dev, NULL), 0);
	if (kind == VDRV_MMIO) {
		assert_int_equal(
		    virtio_mmio_new(&fp->plat, RIG_MMIO_GPA, RIG_GSI, rig->dev, &rig->t, NULL), 0);
		vdrv_init_mmio(&rig->d, fp, RIG_MMIO_GPA, RIG_GSI, RIG_HEAP_GPA);
	} else {
		assert_int_equal(pci_host_new(&fp->plat, &hc, &rig->host, NULL), 0);
		assert_int_equal(virtio_pci_new(&fp->plat, rig->host, rig->dev, &rig->t, NULL), 0);
		assert_true(vdrv_init_pci(&rig->d, fp, 1, RIG_HEAP_GPA));
	}
}

void rig_fini(struct blk_rig *rig)
{
	virtio_transport_free(rig->t);
	pci_host_free(rig->host);
	loop_thread_free(&rig->lt);
	fake_platform_fini(&rig->fp);
}

void rig_start(struct blk_rig *rig, uint64_t features, unsigned nqueues)
{
	rig->d.heap = RIG_HEAP_GPA;
	assert_true(vdrv_start(&rig->d, features, nqueues, 0));
	assert_int_equal(vdrv_status(&rig->d), STATUS_OK);
	rig->heads = vdrv_alloc(&rig->d, HEADS * 64, 64);
	assert_true(rig->d.heap <= RIG_DATA_GPA);
	rig->indirect = rig->d.features & VDRV_INDIRECT;
}

gpa_t rig_header(struct blk_rig *rig, uint32_t type, uint64_t sector)
{
	const gpa_t gpa = rig->heads + 64 * (rig->next++ % HEADS);
	uint8_t *p = fake_mem(&rig->fp, gpa, 64);

	le32_store(p, type);
	le32_store(p + 4, 0);
	le64_store(p + 8, sector);
	p[32] = S_NONE;
	return gpa;
}

uint8_t rig_status(struct blk_rig *rig, gpa_t header)
{
	return *(uint8_t *)fake_mem(&rig->fp, RIG_STATUS(header), 1);
}

gpa_t rig_add(struct blk_rig *rig, unsigned q, uint32_t type, uint64_t sector, gpa_t data,
	      uint32_t len)
{
	const gpa_t header = rig_header(rig, type, sector);
	struct vbuf bufs[3];
	unsigned n = 0;

	bufs[n++] = (struct vbuf){header, 16, false};
	if (len)
		bufs[n++] = (struct vbuf){data, len, type == T_IN || type == T_GET_ID};
	bufs[n++] = (struct vbuf){RIG_STATUS(header), 1, true};
	return vring_add(&rig->d.rings[q], bufs, n, rig->indirect) < 0 ? 0 : header;
}

uint32_t rig_finish(struct blk_rig *rig, unsigned q, unsigned n)
{
	uint32_t len = 0;
	uint16_t head;

	vdrv_kick(&rig->d, q);
	assert_true(vdrv_wait(&rig->d, q, n));
	while (n--)
		assert_true(vring_take(&rig->d.rings[q], &head, &len));
	return len;
}

uint8_t rig_do(struct blk_rig *rig, unsigned q, uint32_t type, uint64_t sector, gpa_t data,
	       uint32_t len)
{
	const gpa_t header = rig_add(rig, q, type, sector, data, len);

	assert_true(header);
	rig_finish(rig, q, 1);
	return rig_status(rig, header);
}

uint8_t rig_do_bufs(struct blk_rig *rig, unsigned q, const struct vbuf *bufs, unsigned n,
		    gpa_t status, uint32_t *ret_len)
{
	uint8_t *p = fake_mem(&rig->fp, status, 1);
	uint32_t len;

	*p = S_NONE;
	assert_true(vring_add(&rig->d.rings[q], bufs, n, rig->indirect) >= 0);
	len = rig_finish(rig, q, 1);
	if (ret_len)
		*ret_len = len;
	return *p;
}

void rig_range(struct blk_rig *rig, gpa_t gpa, unsigned i, uint64_t sector, uint32_t sectors,
	       uint32_t flags)
{
	uint8_t *p = fake_mem(&rig->fp, gpa + 16 * i, 16);

	le64_store(p, sector);
	le32_store(p + 8, sectors);
	le32_store(p + 12, flags);
}
