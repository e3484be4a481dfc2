/*
 * What a machine is made of: filled by the command line (later by StartVm), then never changed.
 * Strings belong to the config; machine_config_fini() frees them.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "base/loop.h"
#include "devices/virtio/tap.h"
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

/* How the kernel learns what hardware there is. */
enum machine_hw {
	MACHINE_HW_DEFAULT, /* the architecture's: ACPI on x86, a device tree on 64-bit Arm */
	MACHINE_HW_ACPI,
	MACHINE_HW_FDT,
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
	uint64_t bytes_per_s, ops_per_s; /* limits; 0: none */
	struct machine_mount mount;	 /* of disks beside the root */
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

/* What an interface of the machine is connected to. */
enum net_kind {
	NET_AUTO,   /* NET_POOL where this process may, else NET_PASST */
	NET_POOL,   /* a tap of its own, with a /30 of a pool: host and guest */
	NET_TAP,    /* the interface `name`, made where there is none */
	NET_BRIDGE, /* a tap of its own, a port of bridge `name` */
	NET_FD,	    /* `fd`: a tap, or a datagram socket that carries its packets */
	NET_PASST,  /* passt(1): what an ordinary user's programs reach */
};

enum net_backend {
	NET_BACKEND_AUTO, /* vhost where the host has it and all that is asked for can be done */
	NET_BACKEND_VHOST,
	NET_BACKEND_BUILTIN,
};

/* A port of the host whose connections are the guest's. */
struct net_forward {
	bool udp;
	uint32_t host_address; /* 0: all */
	uint16_t host_port, guest_port;
};

struct net_ipv6 {
	uint8_t bytes[16]; /* network byte order */
	unsigned prefix;
};

/* IPv4: host byte order; 0: none. */
#define NET_DNS_MAX  3
#define NET_IPV6_MAX 4
struct net_addresses {
	uint32_t guest, gateway;
	unsigned prefix;		    /* of the guest's network, bits */
	struct net_ipv6 ipv6[NET_IPV6_MAX]; /* the guest's */
	unsigned nipv6;
	uint32_t dns[NET_DNS_MAX];
	unsigned ndns;
	uint32_t containers; /* network of NET_CONTAINERS_PREFIX behind the guest */
};

/* A directory of the host that the guest mounts, as one user of the host (control/share). */
#define MACHINE_SHARES_MAX 8
#define SHARE_TARGET	   "/mnt/shared" /* of the first, where it is not said */
struct machine_share {
	char *path;
	char *target; /* absolute */
	bool read_only;
	bool has_user; /* uid and gid are wished */
	uint32_t uid, gid;
};

#define NET_FORWARDS_MAX      16
#define NET_POOL_DEFAULT      UINT32_C(0x64735c00) /* 100.115.92.0/24 */
#define NET_POOL_PREFIX	      24
#define NET_CONTAINERS_PREFIX 28
#define MACHINE_NETS_MAX      4

struct machine_net {
	enum net_kind kind;
	char *name;
	int fd; /* the caller's; -1: none */

	/* the host's side; control/network */
	uint32_t pool; /* 0: the default */
	unsigned pool_prefix;
	bool with_containers; /* NET_POOL: addresses.containers is chosen */
	bool nat;	      /* NET_POOL: the guest reaches what the host reaches */
	struct net_forward forwards[NET_FORWARDS_MAX];
	unsigned nforwards;
	/* NET_POOL: TCP ports of the host's end, for this guest alone; network_open() chooses them
	 */
	uint16_t share_ports[MACHINE_SHARES_MAX];
	unsigned nshare_ports;
	struct net_addresses addresses; /* as wished; what is 0 is chosen where the kind can */

	/* the device */
	enum net_backend backend;
	uint8_t mac[6];	 /* 0: one is made */
	unsigned mtu;	 /* 0: the interface's own */
	unsigned queues; /* pairs; 0: 1 */
	bool may_spoof;	 /* packets with other addresses than its own are let out */
	uint64_t rx_bytes_per_s, rx_packets_per_s; /* to the guest; 0: no limit */
	uint64_t tx_bytes_per_s, tx_packets_per_s;

	bool guarded; /* network_open() has seen to it that the host's kernel drops what is spoofed
		       */
	struct tap *tap; /* open: network_open()'s; the machine's device takes it over */
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
	enum machine_hw hw;
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

	struct machine_share shares[MACHINE_SHARES_MAX];
	unsigned nshares;
	uint32_t share_uid, share_gid; /* of those that name no user, where root asks; 0: nobody */

	struct machine_net nets[MACHINE_NETS_MAX];
	unsigned nnets;
	bool no_net; /* none is wanted, not even by default */
	struct vsock_config vsock;
	bool console; /* a serial port as console= */
	bool rng;
	char agent_token[33]; /* that our agent is told, and wants to be told; "": none */
	bool termina;	      /* what boots is the component: the agent sets it up */
	bool agent;	      /* our initramfs brings the guest agent, which needs a vsock device */
	enum loop_backend loop_backend;
};

void machine_config_init(struct machine_config *config);
void machine_config_fini(struct machine_config *config);

#endif
