/*
 * The devices of a machine: one table of their types, in the order in which they are opened, built
 * and freed. The PCI host is freed before its functions, as pci.h asks.
 *
 * Opening is what needs the host (files, loops); building only puts together what is open.
 */
#include "base/checked.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/rng.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DISK_QUEUES_DEFAULT 4 /* at most; more gain nothing on one loop */

struct device_type {
	const char *name;
	int (*open)(struct machine *m, struct err *err); /* optional */
	int (*build)(struct machine *m, struct err *err);
	void (*free)(struct machine *m);
};

/* ---- devices of fixed place ---- */

static bool place_of(const struct machine *m, enum arch_device device,
		     struct device_place *ret_place)
{
	return arch_device_place(m->config, device, ret_place);
}

static int i8042_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_I8042, &place) ? i8042_new(&m->platform, &m->i8042, err) : 0;
}

static void i8042_drop(struct machine *m)
{
	i8042_free(m->i8042);
}

static int rtc_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_RTC, &place) ? rtc_new(&m->platform, &m->rtc, err) : 0;
}

static void rtc_drop(struct machine *m)
{
	rtc_free(m->rtc);
}

static int pl031_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_PL031, &place) ? pl031_new(&m->platform, &place, &m->pl031, err)
					       : 0;
}

static void pl031_drop(struct machine *m)
{
	pl031_free(m->pl031);
}

static int pvpanic_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_PVPANIC, &place)
		   ? pvpanic_new(&m->platform, &place, &m->pvpanic, err)
		   : 0;
}

static void pvpanic_drop(struct machine *m)
{
	pvpanic_free(m->pvpanic);
}

static int acpi_pm_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_ACPI_PM, &place)
		   ? acpi_pm_new(&m->platform, &place, &m->acpi_pm, err)
		   : 0;
}

static void acpi_pm_drop(struct machine *m)
{
	acpi_pm_free(m->acpi_pm);
}

static int power_key_build(struct machine *m, struct err *err)
{
	struct device_place place;

	return place_of(m, ARCH_POWER_KEY, &place)
		   ? power_key_new(&m->platform, &place, &m->power_key, err)
		   : 0;
}

static void power_key_drop(struct machine *m)
{
	power_key_free(m->power_key);
}

static int uart_build(struct machine *m, struct err *err)
{
	struct device_place place;

	if (!m->config->console || !place_of(m, ARCH_UART, &place))
		return 0;
	return uart_new(&m->platform, m->control, &place, &m->console, &m->uart, err);
}

static void uart_drop(struct machine *m)
{
	uart_free(m->uart);
}

/* ---- PCI and virtio ---- */

static int pci_build(struct machine *m, struct err *err)
{
	arch_pci_layout(m->config->memory_bytes, &m->pci_layout);
	if (m->config->transport != MACHINE_PCI)
		return 0;
	return pci_host_new(&m->platform, &m->pci_layout, &m->pci, err);
}

static void pci_drop(struct machine *m)
{
	pci_host_free(m->pci);
}

/* Puts a device behind the machine's transport. The device is the transport's, or gone. */
static int attach(struct machine *m, struct virtio_dev *dev, struct virtio_transport **ret,
		  struct err *err)
{
	unsigned gsi;
	gpa_t gpa;
	int res;

	if (m->config->transport == MACHINE_PCI) {
		res = virtio_pci_new(&m->platform, m->pci, dev, ret, err);
	} else {
		arch_mmio_slot(m->nmmio, &gpa, &gsi);
		res = virtio_mmio_new(&m->platform, gpa, gsi, dev, ret, err);
		m->nmmio += !res;
	}
	if (res)
		dev->ops->free(dev);
	return res;
}

static int disks_open(struct machine *m, struct err *err)
{
	struct loop *loop;
	int res = 0;

	for (unsigned i = 0; i < m->config->ndisks && !res; i++) {
		res = image_open(&m->config->disks[i].image, &m->images[i], err);
		if (!res)
			res = machine_io_loop(m, i, &loop, err);
	}
	return res;
}

static int disk_build(struct machine *m, unsigned n, struct err *err)
{
	const struct machine_disk *disk = &m->config->disks[n];
	struct virtio_blk_config config = {
	    .queues = disk->queues ? disk->queues : MIN(m->config->cpus, DISK_QUEUES_DEFAULT),
	    .write_through = disk->write_through,
	    .bytes_per_s = disk->bytes_per_s,
	    .ops_per_s = disk->ops_per_s,
	};
	struct virtio_dev *dev;
	int res;

	_Static_assert(sizeof(config.serial) == sizeof(disk->serial), "serial number");
	memcpy(config.serial, disk->serial, sizeof(config.serial));
	res = virtio_blk_new(&config, &m->platform, m->images[n], m->io[n].loop, &dev, err);
	if (!res)
		res = attach(m, dev, &m->disks[n], err);
	if (!res)
		m->disk_devs[n] = dev;
	if (res)
		err_prefix(err, "disk %s", disk->image.path);
	return res;
}

static int disks_build(struct machine *m, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < m->config->ndisks && !res; i++)
		res = disk_build(m, i, err);
	return res;
}

static void disks_drop(struct machine *m)
{
	for (unsigned i = 0; i < m->config->ndisks; i++)
		virtio_transport_free(m->disks[i]);
}

/* Shares the first disk's thread: it has little to do. */
static int rng_open(struct machine *m, struct err *err)
{
	struct loop *loop;

	return m->config->rng ? machine_io_loop(m, 0, &loop, err) : 0;
}

static int rng_build(struct machine *m, struct err *err)
{
	struct virtio_dev *dev;
	int res;

	if (!m->config->rng)
		return 0;
	res = virtio_rng_new(&m->platform, m->io[0].loop, &dev, err);
	return res ? res : attach(m, dev, &m->rng, err);
}

static void rng_drop(struct machine *m)
{
	virtio_transport_free(m->rng);
}

static int vsock_open_host(struct machine *m, struct err *err)
{
	return machine_vsock_open(&m->vsock_host, m->config, m->control, &m->callbacks, err);
}

/* A thread of its own: bulk data of disks and streams would wait for each other. */
static int vsock_open(struct machine *m, struct err *err)
{
	struct loop *loop;
	int res;

	if (!m->config->vsock.on)
		return 0;
	res = machine_as_host(m, vsock_open_host, err);
	if (res)
		return res;
	m->vsock_io = m->nio;
	return machine_io_sockets(m, m->vsock_host.dir_fd, &loop, err);
}

static int vsock_build(struct machine *m, struct err *err)
{
	struct virtio_dev *dev;
	int res;

	if (!m->config->vsock.on)
		return 0;
	res =
	    machine_vsock_device(&m->vsock_host, &m->platform, m->io[m->vsock_io].loop, &dev, err);
	if (!res)
		res = attach(m, dev, &m->vsock, err);
	if (!res)
		m->vsock_dev = dev;
	return res;
}

static void vsock_drop(struct machine *m)
{
	virtio_transport_free(m->vsock);
	machine_vsock_free(&m->vsock_host);
}

/* Taps are open already: making them is not the machine's. */
static int nets_open_host(struct machine *m, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < m->config->nnets && !res; i++)
		res = machine_net_open(&m->config->nets[i], &m->net_vhosts[i], err);
	return res;
}

static int nets_open(struct machine *m, struct err *err)
{
	struct loop *loop;
	int res = m->config->nnets ? machine_as_host(m, nets_open_host, err) : 0;

	m->nets_io = m->nio;
	for (unsigned i = 0; i < m->config->nnets && !res; i++)
		res = machine_io_loop(m, m->nio, &loop, err);
	return res;
}

static int net_build(struct machine *m, unsigned n, struct err *err)
{
	struct virtio_dev *dev;
	int res;

	m->net_links[n].by_kernel = m->net_vhosts[n].n;
	res = machine_net_device(&m->config->nets[n], &m->net_vhosts[n], &m->platform,
				 m->io[m->nets_io + n].loop, &dev, err);

	if (!res)
		res = attach(m, dev, &m->nets[n], err);
	if (!res)
		m->net_devs[n] = dev;
	return res;
}

static int nets_build(struct machine *m, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < m->config->nnets && !res; i++)
		res = net_build(m, i, err);
	return res;
}

static void nets_drop(struct machine *m)
{
	for (unsigned i = 0; i < m->config->nnets; i++) {
		virtio_transport_free(m->nets[i]);
		vhost_net_close(&m->net_vhosts[i]);
	}
}

/* PCI slots follow this order: host bridge 0, disks from 1, the random source, vsock, interfaces.
 */
static const struct device_type device_types[] = {
    {"i8042", NULL, i8042_build, i8042_drop},
    {"rtc", NULL, rtc_build, rtc_drop},
    {"pl031", NULL, pl031_build, pl031_drop},
    {"pvpanic", NULL, pvpanic_build, pvpanic_drop},
    {"acpi-pm", NULL, acpi_pm_build, acpi_pm_drop},
    {"power-key", NULL, power_key_build, power_key_drop},
    {"uart", NULL, uart_build, uart_drop},
    {"pci-host", NULL, pci_build, pci_drop},
    {"virtio-blk", disks_open, disks_build, disks_drop},
    {"virtio-rng", rng_open, rng_build, rng_drop},
    {"virtio-vsock", vsock_open, vsock_build, vsock_drop},
    {"virtio-net", nets_open, nets_build, nets_drop},
};

int machine_devices_open(struct machine *m, struct err *err)
{
	int res = 0;

	for (size_t i = 0; i < ARRAY_LEN(device_types) && !res; i++) {
		if (device_types[i].open)
			res = device_types[i].open(m, err);
	}
	return res;
}

int machine_devices_build(struct machine *m, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(device_types); i++) {
		int res = device_types[i].build(m, err);

		if (res) {
			err_prefix(err, "cannot build the %s", device_types[i].name);
			return res;
		}
	}
	return 0;
}

void machine_devices_free(struct machine *m)
{
	for (size_t i = 0; i < ARRAY_LEN(device_types); i++)
		device_types[i].free(m);
}
