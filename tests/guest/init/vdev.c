/*
 * A virtio device driven from user space. See vdev.h.
 */
#include "vdev.h"

#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* virtio_pci_common_cfg, virtio 1.2 §4.1.4.3 */
#define PCI_DEVICE_FEATURE_SELECT 0
#define PCI_DEVICE_FEATURE	  4
#define PCI_DRIVER_FEATURE_SELECT 8
#define PCI_DRIVER_FEATURE	  12
#define PCI_DEVICE_STATUS	  20
#define PCI_QUEUE_SELECT	  22
#define PCI_QUEUE_SIZE		  24
#define PCI_QUEUE_MSIX_VECTOR	  26
#define PCI_QUEUE_ENABLE	  28
#define PCI_QUEUE_NOTIFY_OFF	  30
#define PCI_QUEUE_DESC		  32
#define PCI_QUEUE_DRIVER	  40
#define PCI_QUEUE_DEVICE	  48

/* virtio 1.2 §4.2.2 */
#define MMIO_DEVICE_FEATURES	 0x010
#define MMIO_DEVICE_FEATURES_SEL 0x014
#define MMIO_DRIVER_FEATURES	 0x020
#define MMIO_DRIVER_FEATURES_SEL 0x024
#define MMIO_QUEUE_SEL		 0x030
#define MMIO_QUEUE_NUM_MAX	 0x034
#define MMIO_QUEUE_NUM		 0x038
#define MMIO_QUEUE_READY	 0x044
#define MMIO_QUEUE_NOTIFY	 0x050
#define MMIO_STATUS		 0x070
#define MMIO_QUEUE_DESC		 0x080
#define MMIO_QUEUE_DRIVER	 0x090
#define MMIO_QUEUE_DEVICE	 0x0a0
#define MMIO_CONFIG		 0x100
#define MMIO_BYTES		 0x1000

/* virtio_pci_cap, §4.1.4 */
#define CAP_VENDOR 0x09
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_DEVICE 4

uint64_t nasty_value(uint64_t *random)
{
	uint64_t r = random_next(random);

	switch (r >> 60) {
	case 0:
	case 1:
		return 0;
	case 2:
	case 3:
		return UINT64_MAX;
	case 4:
		return UINT64_C(1) << (r & 63);
	case 5:
		return (UINT64_C(1) << (r & 63)) - 1;
	case 6:
		return r & 0xff;
	case 7:
		return r &
		       0xfffffff000; /* looks like a page of guest memory, or of the hole above */
	default:
		return r;
	}
}

void *dma_page(uint64_t *ret_gpa)
{
	uint64_t entry = 0;
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (page == MAP_FAILED || fd < 0 ||
	    pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) !=
		sizeof(entry)) {
		fail("no page for DMA: %s", strerror(errno));
		page = NULL;
	}
	if (fd >= 0)
		close(fd);
	*ret_gpa = (entry & ((UINT64_C(1) << 55) - 1)) * PAGE;
	if (page && *ret_gpa == 0) {
		fail("pagemap hides physical addresses");
		page = NULL;
	}
	return page;
}

volatile uint8_t *map_physical(uint64_t gpa, size_t len)
{
	int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	void *map;

	if (fd < 0) {
		mknod("/dev/mem", S_IFCHR | 0600, 1 << 8 | 1);
		fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	}
	if (fd < 0) {
		fail("/dev/mem: %s", strerror(errno));
		return NULL;
	}
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)gpa);
	close(fd);
	if (map == MAP_FAILED) {
		fail("/dev/mem at %llx: %s", (unsigned long long)gpa, strerror(errno));
		return NULL;
	}
	return map;
}

int iomem_find(const char *name, uint64_t *ret_gpa, uint64_t *ret_len)
{
	static char buf[65536];
	char *save;

	if (read_file("/proc/iomem", buf, sizeof(buf)) < 0)
		return fail("/proc/iomem: %s", strerror(errno));
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long first, last;

		if (strstr(line, name) && sscanf(line, " %llx-%llx", &first, &last) == 2) {
			*ret_gpa = first;
			*ret_len = last - first + 1;
			return 0;
		}
	}
	return fail("%s is not in /proc/iomem", name);
}

/* The last component of a symbolic link's target. */
static int link_name(const char *path, char *buf, size_t size)
{
	char target[512], *slash;
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n <= 0)
		return -1;
	target[n] = 0;
	slash = strrchr(target, '/');
	snprintf(buf, size, "%.31s", slash ? slash + 1 : target);
	return 0;
}

/* virtioN of a disk or of the (first) random number generator. */
static int find_name(struct vdev *dev, const char *what)
{
	char path[320], id[32];
	struct dirent *e;
	DIR *dir;

	if (strcmp(what, "rng")) {
		snprintf(path, sizeof(path), "/sys/block/%s/device", what);
		return link_name(path, dev->name, sizeof(dev->name)) ? fail("no disk %s", what) : 0;
	}
	dir = opendir("/sys/bus/virtio/devices");
	while (dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s/device", e->d_name);
		if (read_file(path, id, sizeof(id)) > 0 && strtoul(id, NULL, 16) == 4) {
			snprintf(dev->name, sizeof(dev->name), "%.31s", e->d_name);
			closedir(dir);
			return 0;
		}
	}
	if (dir)
		closedir(dir);
	return fail("no virtio-rng");
}

static int map_bar(struct vdev *dev, unsigned bar)
{
	char path[96];
	struct stat st;
	void *map;
	int fd;

	if (bar >= 6 || dev->bars[bar])
		return bar < 6 ? 0 : -1;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%u", dev->pci, bar);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return fail("%s: %s", path, strerror(errno));
	map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return fail("mmap of %s: %s", path, strerror(errno));
	dev->bars[bar] = map;
	dev->bar_bytes[bar] = (size_t)st.st_size;
	return 0;
}

static uint32_t get32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int map_pci(struct vdev *dev)
{
	unsigned char config[256];
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", dev->pci);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, config, sizeof(config)) != sizeof(config))
		return fail("%s: %s", path, strerror(errno));
	close(fd);
	for (unsigned at = config[0x34], n = 0; at >= 0x40 && at < 0xec && n < 48;
	     at = config[at + 1], n++) {
		volatile uint8_t *where;

		if (config[at] != CAP_VENDOR || config[at + 3] < CAP_COMMON ||
		    config[at + 3] > CAP_DEVICE)
			continue;
		if (map_bar(dev, config[at + 4]))
			return -1;
		where = dev->bars[config[at + 4]] + get32(config + at + 8);
		if (config[at + 3] == CAP_COMMON)
			dev->common = where;
		else if (config[at + 3] == CAP_DEVICE)
			dev->device = where;
		else if (config[at + 3] == CAP_NOTIFY) {
			dev->notify = where;
			dev->notify_multiplier = get32(config + at + 16);
		}
	}
	return dev->common && dev->notify ? 0 : fail("%s has no virtio capabilities", dev->pci);
}

static int map_registers(struct vdev *dev)
{
	char path[96], target[512], *slash, *parent;
	uint64_t gpa, len;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s", dev->name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return fail("%s: %s", path, strerror(errno));
	target[n] = 0;
	slash = strrchr(target, '/');
	*slash = 0;
	parent = strrchr(target, '/') + 1;
	if (strstr(target, "/pci")) {
		snprintf(dev->pci, sizeof(dev->pci), "%.31s", parent);
		return map_pci(dev);
	}
	if (iomem_find(parent, &gpa, &len))
		return -1;
	dev->common = map_physical(gpa & ~(uint64_t)(PAGE - 1), MMIO_BYTES);
	if (!dev->common)
		return -1;
	dev->common += gpa % PAGE;
	dev->bars[0] = dev->common;
	dev->bar_bytes[0] = len;
	return 0;
}

int vdev_open(struct vdev *dev, const char *what)
{
	char path[128];

	memset(dev, 0, sizeof(*dev));
	if (find_name(dev, what))
		return -1;
	snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s/driver", dev->name);
	if (!link_name(path, dev->driver, sizeof(dev->driver))) {
		snprintf(path, sizeof(path), "/sys/bus/virtio/drivers/%s/unbind", dev->driver);
		if (write_file(path, dev->name))
			return fail("%s: %s", path, strerror(errno));
	}
	return map_registers(dev);
}

int vdev_close(struct vdev *dev)
{
	char path[128];
	int res = vdev_reset(dev);

	for (unsigned i = 0; i < 6; i++)
		if (dev->bars[i] && dev->pci[0])
			munmap((void *)(uintptr_t)dev->bars[i], dev->bar_bytes[i]);
	if (!dev->driver[0])
		return res;
	snprintf(path, sizeof(path), "/sys/bus/virtio/drivers/%s/bind", dev->driver);
	if (write_file(path, dev->name))
		res = fail("bind %s to %s: %s", dev->name, dev->driver, strerror(errno));
	return res;
}

static bool is_pci(const struct vdev *dev)
{
	return dev->pci[0] != 0;
}

uint8_t vdev_status(struct vdev *dev)
{
	if (is_pci(dev))
		return (uint8_t)poke_read(dev->common + PCI_DEVICE_STATUS, 1);
	return (uint8_t)poke_read(dev->common + MMIO_STATUS, 4);
}

void vdev_set_status(struct vdev *dev, uint8_t status)
{
	if (is_pci(dev))
		poke_write(dev->common + PCI_DEVICE_STATUS, 1, status);
	else
		poke_write(dev->common + MMIO_STATUS, 4, status);
}

int vdev_reset(struct vdev *dev)
{
	uint64_t deadline = now_ms() + VDEV_DEADLINE_MS;

	vdev_set_status(dev, 0);
	while (vdev_status(dev))
		if (now_ms() > deadline)
			return fail("%s is not reset: status %02x", dev->name, vdev_status(dev));
	return 0;
}

uint64_t vdev_features(struct vdev *dev)
{
	unsigned select = is_pci(dev) ? PCI_DEVICE_FEATURE_SELECT : MMIO_DEVICE_FEATURES_SEL;
	unsigned value = is_pci(dev) ? PCI_DEVICE_FEATURE : MMIO_DEVICE_FEATURES;
	uint64_t low;

	poke_write(dev->common + select, 4, 0);
	low = poke_read(dev->common + value, 4);
	poke_write(dev->common + select, 4, 1);
	return low | poke_read(dev->common + value, 4) << 32;
}

int vdev_negotiate(struct vdev *dev, uint64_t features)
{
	unsigned select = is_pci(dev) ? PCI_DRIVER_FEATURE_SELECT : MMIO_DRIVER_FEATURES_SEL;
	unsigned value = is_pci(dev) ? PCI_DRIVER_FEATURE : MMIO_DRIVER_FEATURES;
	uint8_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;

	vdev_set_status(dev, STATUS_ACKNOWLEDGE);
	vdev_set_status(dev, status);
	for (unsigned i = 0; i < 2; i++) {
		poke_write(dev->common + select, 4, i);
		poke_write(dev->common + value, 4, features >> (32 * i) & 0xffffffff);
	}
	vdev_set_status(dev, status | STATUS_FEATURES_OK);
	return vdev_status(dev) & STATUS_FEATURES_OK ? 0 : -1;
}

static void select_queue(struct vdev *dev, unsigned queue)
{
	if (is_pci(dev))
		poke_write(dev->common + PCI_QUEUE_SELECT, 2, queue);
	else
		poke_write(dev->common + MMIO_QUEUE_SEL, 4, queue);
}

uint16_t vdev_queue_max(struct vdev *dev, unsigned queue)
{
	select_queue(dev, queue);
	if (is_pci(dev))
		return (uint16_t)poke_read(dev->common + PCI_QUEUE_SIZE, 2);
	return (uint16_t)poke_read(dev->common + MMIO_QUEUE_NUM_MAX, 4);
}

static void write_halves(volatile uint8_t *at, uint64_t value)
{
	poke_write(at, 4, value & 0xffffffff);
	poke_write(at + 4, 4, value >> 32);
}

void vdev_queue(struct vdev *dev, unsigned queue, uint16_t size, uint64_t desc, uint64_t avail,
		uint64_t used)
{
	select_queue(dev, queue);
	if (is_pci(dev)) {
		poke_write(dev->common + PCI_QUEUE_SIZE, 2, size);
		write_halves(dev->common + PCI_QUEUE_DESC, desc);
		write_halves(dev->common + PCI_QUEUE_DRIVER, avail);
		write_halves(dev->common + PCI_QUEUE_DEVICE, used);
		if (queue < 16)
			dev->notify_off[queue] =
			    (uint16_t)poke_read(dev->common + PCI_QUEUE_NOTIFY_OFF, 2);
		poke_write(dev->common + PCI_QUEUE_ENABLE, 2, 1);
	} else {
		poke_write(dev->common + MMIO_QUEUE_NUM, 4, size);
		write_halves(dev->common + MMIO_QUEUE_DESC, desc);
		write_halves(dev->common + MMIO_QUEUE_DRIVER, avail);
		write_halves(dev->common + MMIO_QUEUE_DEVICE, used);
		poke_write(dev->common + MMIO_QUEUE_READY, 4, 1);
	}
}

void vdev_kick(struct vdev *dev, unsigned queue)
{
	if (is_pci(dev))
		poke_write(dev->notify +
			       (size_t)dev->notify_off[queue % 16] * dev->notify_multiplier,
			   2, queue);
	else
		poke_write(dev->common + MMIO_QUEUE_NOTIFY, 4, queue);
}

uint64_t vdev_config64(struct vdev *dev, unsigned offset)
{
	const volatile uint8_t *at =
	    (is_pci(dev) ? dev->device : dev->common + MMIO_CONFIG) + offset;

	return poke_read(at, 4) | poke_read(at + 4, 4) << 32;
}
