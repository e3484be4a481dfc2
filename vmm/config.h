/*
 * What a machine is made of: filled by the command line (later by StartVm), then never changed.
 * Strings belong to the config; machine_config_fini() frees them.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "base/loop.h"
#include "disk/image.h"

#include <stdbool.h>
#include <stdint.h>

#define MACHINE_CPUS_MAX 64
/* vda to vdx: slots of bus 0 less host bridge, rng, vsock and room */
#define MACHINE_DISKS_MAX   24
#define MACHINE_MEMORY_MIN  (UINT64_C(64) << 20)
#define MACHINE_CMDLINE_MAX 2047 /* bytes: COMMAND_LINE_SIZE of Linux on x86 less the NUL */

enum machine_transport {
	MACHINE_PCI,
	MACHINE_MMIO,
};

enum machine_hugepages {
	MACHINE_PAGES_DEFAULT, /* 4 KiB pages, transparent huge pages where the host gives them */
	MACHINE_PAGES_2M,      /* hugetlbfs, reserved at start */
	MACHINE_PAGES_1G,
};

enum machine_initramfs {
	MACHINE_INITRAMFS_AUTO, /* ours: init and modules, unless `initrd` is given */
	MACHINE_INITRAMFS_NONE, /* the kernel mounts the root itself (root=/dev/vda is appended) */
};

/* What the agent in the guest does with a disk when it starts. */
struct machine_mount {
	char *target; /* absolute; NULL: the disk is not mounted */
	char *fstype;
	char *data;	/* of mount(2); may be NULL */
	uint64_t flags; /* of mount(2); MS_RDONLY follows from the disk */
	bool mkfs_if_blank;
};

struct machine_disk {
	struct image_opts image;
	char serial[21];
	unsigned queues; /* 0: one for each CPU, up to 4 */
	bool write_through;
	struct machine_mount mount; /* of disks beside the root */
};

enum vsock_backend {
	VSOCK_AUTO, /* vhost where the host has it, else built-in for a socket or vsock_accepted()
		     */
	VSOCK_VHOST,
	VSOCK_BUILTIN,
};

struct vsock_config {
	bool on;
	enum vsock_backend backend;
	uint32_t cid; /* 0: the next that is free on this host */
	char *socket; /* built-in: where the host's programs connect; may be NULL */
};

/* A set of CPUID feature names that are taken away: "-name". */
#define MACHINE_CPU_MASKS_MAX 64

struct machine_config {
	char *kernel;
	char *initrd;  /* NULL: see initramfs */
	char *modules; /* the kernel's modules: directory of modules.dep; NULL: looked for */
	char *cmdline; /* the user's words, appended to ours; may be NULL */
	unsigned cpus;
	uint64_t memory_bytes;
	enum machine_hugepages hugepages;
	bool prealloc; /* populate guest memory at start */
	enum machine_transport transport;
	enum machine_initramfs initramfs;
	char *cpu_masked[MACHINE_CPU_MASKS_MAX];
	unsigned ncpu_masked;

	struct machine_disk disks[MACHINE_DISKS_MAX]; /* disks[0] is the root when has_root */
	unsigned ndisks;
	bool has_root;
	unsigned root_partition; /* 0: the whole disk */
	char *root_label;  /* of a file system or partition of it, in place of that; NULL: none */
	char *root_fstype; /* NULL: ext4 */
	bool root_read_only;
	char *init; /* program of the root that takes over; NULL: /sbin/init */

	struct vsock_config vsock;
	bool console; /* a serial port as console= */
	bool rng;
	char agent_token[33]; /* that our agent is told, and wants to be told; "": none */
	bool agent;	      /* our initramfs brings the guest agent, which needs a vsock device */
	enum loop_backend loop_backend;
};

void machine_config_init(struct machine_config *config);
void machine_config_fini(struct machine_config *config);

#endif
