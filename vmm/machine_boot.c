/* What the machine boots: kernel, initramfs, command line. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/cmdline.h"
#include "vmm/machine_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODULES_WANTED_MAX (22 + MACHINE_DISKS_MAX)
#define CONF_MAX	   4096

/* ext4, xfs and btrfs ask for it by name at run time: modules.dep does not say so. */
static unsigned add_filesystem(const char *fstype, const char **names, unsigned n)
{
	names[n++] = "crc32c_generic";
	names[n++] = fstype;
	return n;
}

/* The file systems of what the agent mounts: an unprepared root has no modules. */
static unsigned add_mounts(const struct machine_config *config, const char **names, unsigned n)
{
	bool fat = false;

	for (unsigned i = 0; i < config->ndisks; i++) {
		const struct machine_mount *mount = &config->disks[i].mount;

		if (!mount->target)
			continue;
		names[n++] = mount->fstype;
		fat |= !strcmp(mount->fstype, "vfat") || !strcmp(mount->fstype, "msdos");
	}
	if (config->nshares)
		names[n++] = "nfsv4";
	if (fat) { /* asked for by name when it mounts: the defaults of CONFIG_FAT_DEFAULT_... */
		names[n++] = "nls_cp437";
		names[n++] = "nls_ascii";
		names[n++] = "nls_iso8859_1";
		names[n++] = "nls_utf8";
	}
	return n;
}

/* What our init and the agent need of the kernel, and the kernel to report its panics. */
static unsigned modules_wanted(const struct machine_config *config,
			       const char *ret_names[MODULES_WANTED_MAX])
{
	unsigned n = 0;

	/* First: a panic while the root is looked for should be one. */
	ret_names[n++] = "pvpanic_mmio";
	ret_names[n++] = config->transport == MACHINE_PCI ? "virtio_pci" : "virtio_mmio";
	if (config->ndisks)
		ret_names[n++] = "virtio_blk";
	if (config->rng)
		ret_names[n++] = "virtio_rng";
	if (config->vsock.on)
		ret_names[n++] = "vmw_vsock_virtio_transport";
	if (config->nnets)
		ret_names[n++] = "virtio_net";
	if (config->has_root) {
		n = add_filesystem(config->root_fstype ? config->root_fstype : "ext4", ret_names,
				   n);
		/* The power button as the root's init looks for it: an unprepared root has no
		 * modules. */
		ret_names[n++] = "button";
		ret_names[n++] = "evdev";
	}
	return add_mounts(config, ret_names, n);
}

/* A value stands on one line of the configuration and is one word of the command line. */
static int check_word(const char *what, const char *value, struct err *err)
{
	for (const char *p = value; p && *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, EINVAL, "%s contains a blank or a control character",
				       what);
	}
	return 0;
}

static const char *ipv4_text(uint32_t address, char text[INET6_ADDRSTRLEN])
{
	const struct in_addr in = {.s_addr = htonl(address)};

	return inet_ntop(AF_INET, &in, text, INET6_ADDRSTRLEN);
}

/* The addresses of interface `n`, for guest/init/network.c. */
static void write_net(FILE *out, unsigned n, const struct machine_net *net)
{
	const struct net_addresses *a = &net->addresses;
	const uint8_t *m = net->mac;
	char text[INET6_ADDRSTRLEN];

	fprintf(out, "net%u=%02x:%02x:%02x:%02x:%02x:%02x", n, m[0], m[1], m[2], m[3], m[4], m[5]);
	if (a->guest)
		fprintf(out, " 4:%s/%u", ipv4_text(a->guest, text), a->prefix);
	for (unsigned i = 0; i < a->nipv6; i++)
		fprintf(out, " 6:%s/%u", inet_ntop(AF_INET6, a->ipv6[i].bytes, text, sizeof(text)),
			a->ipv6[i].prefix);
	if (a->gateway)
		fprintf(out, " g:%s", ipv4_text(a->gateway, text));
	for (unsigned i = 0; i < a->ndns; i++)
		fprintf(out, " d:%s", ipv4_text(a->dns[i], text));
	fputc('\n', out);
}

/* Those that no agent sets. */
static void write_nets(FILE *out, const struct machine_config *config)
{
	for (unsigned i = 0, n = 0; i < config->nnets && !config->agent; i++) {
		const struct net_addresses *a = &config->nets[i].addresses;

		if (a->guest || a->nipv6)
			write_net(out, n++, &config->nets[i]);
	}
}

/* The text of /lodge.conf: key=value lines for guest/init, which takes an empty value as none. */
static int write_conf(const struct machine *m, char conf[CONF_MAX], struct err *err)
{
	const struct machine_config *config = m->config;
	const uint32_t port = machine_vsock_port(m);
	FILE *out = fmemopen(conf, CONF_MAX, "w");
	char root[32] = "/dev/vda", ready[32] = "";
	bool fits;

	if (!out)
		return err_set(err, ENOMEM, "no memory for the guest's configuration");
	if (config->root_partition)
		snprintf(root, sizeof(root), "/dev/vda%u", config->root_partition);
	if (config->agent && port)
		snprintf(ready, sizeof(ready), "vsock:%u", port);
	fprintf(out,
		"root=%s\nrootlabel=%s\nrootfstype=%s\nrootflags=%s\ninit=%s\nready=%s\ntoken=%s\n",
		config->has_root ? root : "", config->root_label ? config->root_label : "",
		config->root_fstype ? config->root_fstype : "ext4",
		config->root_read_only ? "ro" : "rw", config->init ? config->init : "", ready,
		config->agent ? config->agent_token : "");
	write_nets(out, config);
	fits = !fflush(out) && ftell(out) < CONF_MAX;
	if (fclose(out) || !fits)
		return err_set(err, ENAMETOOLONG,
			       "the path of the guest's init, or the type of its root, is too long "
			       "(%d bytes in all are possible)",
			       CONF_MAX - 1);
	return 0;
}

static int build_initramfs(struct machine *m, struct err *err)
{
	const struct machine_config *config = m->config;
	const char *names[MODULES_WANTED_MAX];
	autofree char *found = NULL;
	char conf[CONF_MAX];
	int res;

	struct initramfs_spec spec = {
	    .modules_dir = config->modules,
	    .modules = names,
	    .nmodules = modules_wanted(config, names),
	    .conf = conf,
	    .agent = config->agent,
	};

	if (!spec.modules_dir && kernel_release(m->kernel)) {
		found = modules_dir_find(config->kernel, kernel_release(m->kernel));
		if (!found)
			log_info(
			    "no modules of kernel %s found; if it needs any, say --modules DIR",
			    kernel_release(m->kernel));
		spec.modules_dir = found;
	}
	res = write_conf(m, conf, err);
	return res ? res : initramfs_build(&spec, &m->initramfs, err);
}

int machine_boot_open(struct machine *m, struct err *err)
{
	const struct machine_config *config = m->config;
	int res = check_word("the path of the guest's init", config->init, err);

	if (!res)
		res = check_word("the type of the root file system", config->root_fstype, err);
	if (!res)
		res = check_word("the label of the root", config->root_label, err);
	if (!res && config->root_label &&
	    (config->initrd || config->initramfs == MACHINE_INITRAMFS_NONE))
		return err_set(err, EINVAL,
			       "a root by its label is found by lodge's own initramfs alone; name "
			       "its partition");
	if (!res)
		res = kernel_open(config->kernel, arch_kernel_machine(), &m->kernel, err);
	if (res)
		return res;
	return config->initrd ? initramfs_from_file(config->initrd, &m->initramfs, err) : 0;
}

int machine_boot_initramfs(struct machine *m, struct err *err)
{
	const struct machine_config *config = m->config;

	if (m->initramfs || config->initramfs != MACHINE_INITRAMFS_AUTO || !config->has_root)
		return 0;
	return build_initramfs(m, err);
}

int machine_boot_load(struct machine *m, struct err *err)
{
	const struct gmem *mem = m->memory.mem;
	char cmdline[MACHINE_CMDLINE_MAX + 1];
	struct kernel_loaded loaded = {0};
	struct arch_boot boot = {
	    .config = m->config,
	    .vm = m->arch,
	    .kernel = &loaded,
	    .pci = m->pci ? &m->pci_layout : NULL,
	    .cmdline = cmdline,
	    .nmmio = m->nmmio,
	    .uart = m->uart,
	    .rtc = m->rtc || m->pl031,
	    .pvpanic = m->pvpanic,
	};
	int res;

	res = cmdline_build(m->config, cmdline, err);
	if (!res)
		res = kernel_load(m->kernel, mem, &loaded, err);
	if (!res && m->initramfs) {
		boot.initrd_bytes = initramfs_size_bytes(m->initramfs);
		res = arch_initrd_place(mem, &loaded, boot.initrd_bytes, &boot.initrd, err);
		if (!res)
			res = initramfs_load(m->initramfs, mem, boot.initrd, err);
	}
	if (!res)
		res = arch_boot_write(mem, &boot, &m->dtb, err);
	if (!res)
		res = arch_vcpu_boot(m->arch, m->vcpus[0]->fd, loaded.entry, err);
	return res;
}

void machine_boot_free(struct machine *m)
{
	initramfs_free(m->initramfs);
	kernel_close(m->kernel);
	m->initramfs = NULL;
	m->kernel = NULL;
}
