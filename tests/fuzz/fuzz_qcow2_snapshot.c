/*
 * qcow2: the snapshot table, listed and followed by the check.
 *
 * Input: what lies from cluster 4 of an otherwise sound image of 512-byte clusters on; the first
 * byte tells how many entries the header promises.
 */
#include "base/log.h"
#include "tests/fuzz/qcow2_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t file[4 * 512 + 64 * KIB];
	struct q2_header_disk h = {
	    .magic = be32_put(Q2_MAGIC),
	    .version = be32_put(3),
	    .cluster_bits = be32_put(9),
	    .size = be64_put(16 * KIB),
	    .l1_entries = be32_put(1),
	    .l1_offset = be64_put(3 * 512),
	    .reftable_offset = be64_put(512),
	    .reftable_clusters = be32_put(1),
	    .snapshots_offset = be64_put(4 * 512),
	    .refcount_order = be32_put(4),
	    .header_len = be32_put(112),
	};
	struct qcow2_check_result res;
	struct qcow2_snapshot *list = NULL;
	struct err err = ERR_INIT;
	unsigned count = 0;
	char path[64];
	int fd;

	log_init(-1, LOG_LEVEL_ERROR);
	if (size < 2)
		return 0;
	h.snapshots = be32_put(data[0] % 16);
	size = MIN(size - 1, (size_t)64 * KIB);
	memset(file, 0, 4 * 512);
	memcpy(file, &h, sizeof(h));
	be64_store(file + 512, 1024);
	memcpy(file + 4 * 512, data + 1, size);
	fd = memory_file(file, 4 * 512 + size, path, sizeof(path));
	if (fd < 0)
		return 0;
	if (!qcow2_snapshot_list(path, &list, &count, &err))
		free(list);
	(void)qcow2_check(path, data[0] & 0x80 ? QCOW2_REPAIR_ALL : 0, NULL, &res, &err);
	(void)use;
	(void)make_sound;
	(void)run_image;
	close(fd);
	return 0;
}
