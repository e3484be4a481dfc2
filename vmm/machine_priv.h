/*
 * A machine's parts, for vmm/machine*.c only.
 *
 * Threads: built and freed by the control loop's thread. Afterwards `end` is shared under its lock;
 * `irqs`, the buses and guest memory have their own rules; everything else is read only.
 */
#ifndef VMM_MACHINE_PRIV_H
#define VMM_MACHINE_PRIV_H

#include "devices/legacy/legacy.h"
#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"
#include "vmm/arch.h"
#include "vmm/boot/initramfs.h"
#include "vmm/boot/kernel.h"
#include "vmm/gate.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/machine.h"
#include "vmm/machine_net.h"
#include "vmm/machine_vsock.h"
#include "vmm/memory.h"
#include "vmm/vcpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MACHINE_REASON_MAX 256

/* A loop with a thread of its own, for the queues of a disk, an interface or of vsock. */
struct io_thread {
	struct machine *machine;
	struct loop *loop;
	pthread_t thread;
	bool running;
	unsigned index;
	enum thread_role role;
	int dir_fd; /* of THREAD_SOCKETS: its working directory and root; -1: none */
};

/* How the machine ends; see machine_end.c. */
struct machine_end {
	pthread_mutex_t lock;	  /* below all others but the control loop's own */
	enum machine_event event; /* the first one; 0: none yet */
	bool stopping;		  /* vCPUs are told to stop */
	bool started;		  /* vCPUs run */
	char reason[MACHINE_REASON_MAX];

	atomic_uint running; /* vCPU threads that have not ended */
	/* the control loop's thread, from posting on */
	struct loop_msg panicked, over;
	bool waits; /* `over`, for machine_settled() */
	struct loop_timer grace;
};

/* Pausing; see machine_pause.c. */
struct machine_pause {
	pthread_mutex_t lock; /* below machine_end's */
	pthread_cond_t go;
	bool wanted;   /* vCPUs are to park */
	unsigned left; /* that have neither parked nor ended since */
	unsigned gone; /* that have ended */

	atomic_uint busy; /* devices that are not quiet yet, and one for who counts them */
	/* the control loop's thread, from posting on */
	struct loop_msg parked, quiet;
	bool settling; /* the devices are being waited for */
	struct virtio_transport *held[MACHINE_DISKS_MAX + 2 + MACHINE_NETS_MAX];
	unsigned nheld; /* devices that are to be resumed */
	void (*paused)(void *ctx);
	void *ctx;
};

/* An interface while the machine runs; the control loop's, see machine_link.c. */
struct machine_link {
	struct machine *machine;
	unsigned index;
	bool by_kernel; /* vhost */
	struct virtio_net_reconnect reconnect;
	bool busy;   /* it is under way */
	int next_fd; /* and another waits; -1: none */
	struct loop_msg msg;
};

struct machine {
	const struct machine_config *config;
	struct loop *control;
	struct machine_callbacks callbacks;
	struct uart_sink console;

	struct kvm kvm;
	struct guest_memory memory;
	struct kernel *kernel;
	struct initramfs *initramfs; /* NULL: none */
	struct irqs *irqs;
	struct arch_vm *arch;
	struct arch_dtb dtb; /* in guest memory */
	struct vcpu_host vcpu_host;
	struct vcpu *vcpus[MACHINE_CPUS_MAX];

	struct bus *pio, *mmio;
	struct platform platform;
	struct pci_host_config pci_layout;

	struct i8042 *i8042;
	struct rtc *rtc;
	struct pl031 *pl031;
	struct power_key *power_key;
	struct pvpanic *pvpanic;
	struct acpi_pm *acpi_pm;
	struct uart *uart;
	struct pci_host *pci;
	struct image *images[MACHINE_DISKS_MAX];
	struct virtio_dev *disk_devs[MACHINE_DISKS_MAX]; /* each its transport's */
	struct virtio_transport *disks[MACHINE_DISKS_MAX];
	struct virtio_transport *rng;
	struct machine_vsock vsock_host;
	struct virtio_dev *vsock_dev; /* its transport's */
	struct virtio_transport *vsock;
	unsigned vsock_io;			       /* its loop */
	struct vhost_net net_vhosts[MACHINE_NETS_MAX]; /* each until it is its device's */
	struct virtio_dev *net_devs[MACHINE_NETS_MAX]; /* each its transport's */
	struct virtio_transport *nets[MACHINE_NETS_MAX];
	unsigned nets_io; /* the first of their loops */
	unsigned nmmio;	  /* virtio-mmio devices so far */

	struct io_thread io[MACHINE_DISKS_MAX + 1 + MACHINE_NETS_MAX];
	unsigned nio;

	struct gate gate; /* all threads wait there for machine_start() */

	struct machine_end end;
	struct machine_pause pause;
	struct machine_resize *resizes[MACHINE_DISKS_MAX]; /* under way; the control loop's */
	unsigned nresizes;
	struct machine_link net_links[MACHINE_NETS_MAX];
	unsigned nreconnects; /* under way */
};

/* machine.c: calls `open` between as_host() on and off. */
int machine_as_host(struct machine *m, int (*open)(struct machine *m, struct err *err),
		    struct err *err);

/* machine_devices.c: every device type. Free comes after a failed open or build as well. */
int machine_devices_open(struct machine *m, struct err *err);
int machine_devices_build(struct machine *m, struct err *err);
void machine_devices_free(struct machine *m);

/* machine_io.c: loops and their threads. The n-th, made when it is asked for first. */
int machine_io_loop(struct machine *m, unsigned n, struct loop **ret_loop, struct err *err);
/* One for sockets. `dir_fd`, which may be -1, becomes its thread's only folder and stays open. */
int machine_io_sockets(struct machine *m, int dir_fd, struct loop **ret_loop, struct err *err);
int machine_io_start(struct machine *m, struct err *err);
void machine_io_free(struct machine *m);

/* machine_boot.c: what the machine boots. */
int machine_boot_open(struct machine *m, struct err *err);
/* After machine_devices_open(): the guest is told what is open. */
int machine_boot_initramfs(struct machine *m, struct err *err);
int machine_boot_load(struct machine *m, struct err *err);
void machine_boot_free(struct machine *m);

/* machine_end.c */
void machine_end_init(struct machine *m);
void machine_end_fini(struct machine *m);
/* Any thread. The first event decides; `reason` is copied. */
void machine_raise(struct machine *m, enum machine_event event, const char *reason);
/* Opens the gate. */
void machine_run(struct machine *m);

/* machine_pause.c */
void machine_pause_init(struct machine *m);
void machine_pause_fini(struct machine *m);
/* vCPU threads. */
void machine_pause_park(void *machine, struct vcpu *vcpu);
void machine_pause_gone(struct machine *m, struct vcpu *vcpu);
/* Any thread: vCPUs were asked to stop. */
void machine_pause_wake(struct machine *m);
/* Control loop: is something under way that devices will answer? Then `over` waits for
 * machine_settled(). */
bool machine_busy(const struct machine *m);
void machine_settled(struct machine *m);

#endif
