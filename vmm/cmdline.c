#include "vmm/cmdline.h"
#include "vmm/arch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
	char *buf;
	size_t len; /* what it would be */
};

__attribute__((format(printf, 2, 3))) static void word(struct text *t, const char *fmt, ...)
{
	const size_t cap = MACHINE_CMDLINE_MAX + 1;
	size_t at = t->len < cap ? t->len : cap;
	va_list ap;

	if (t->len && at < cap)
		t->buf[at++] = ' ';
	t->len += t->len ? 1 : 0;
	va_start(ap, fmt);
	t->len += (size_t)vsnprintf(at < cap ? t->buf + at : NULL, cap - at, fmt, ap);
	va_end(ap);
}

/* Where the initramfs is not ours, the kernel, or the user's initrd, mounts the root by these. */
static void root_words(struct text *t, const struct machine_config *config)
{
	if (config->root_partition)
		word(t, "root=/dev/vda%u", config->root_partition);
	else
		word(t, "root=/dev/vda");
	word(t, "rootfstype=%s", config->root_fstype ? config->root_fstype : "ext4");
	word(t, "%s", config->root_read_only ? "ro" : "rw");
	if (config->init)
		word(t, "init=%s", config->init);
}

/* For a kernel with IP autoconfiguration (Documentation/admin-guide/nfs/nfsroot.rst), or an initrd
 * that knows it: where neither an agent of ours nor our init configures the first interface. */
static void net_words(struct text *t, const struct net_addresses *a)
{
	struct in_addr guest = {htonl(a->guest)}, gateway = {htonl(a->gateway)},
		       mask = {htonl((uint32_t)(UINT64_C(0xffffffff) << (32 - a->prefix)))};
	char text[3][INET_ADDRSTRLEN] = {""};

	inet_ntop(AF_INET, &guest, text[0], sizeof(text[0]));
	if (a->gateway)
		inet_ntop(AF_INET, &gateway, text[1], sizeof(text[1]));
	inet_ntop(AF_INET, &mask, text[2], sizeof(text[2]));
	word(t, "ip=%s::%s:%s::eth0:off", text[0], text[1], text[2]);
}

int cmdline_build(const struct machine_config *config, char *buf, struct err *err)
{
	struct text t = {.buf = buf};

	buf[0] = '\0';
	if (config->console)
		word(&t, "%s", arch_console_words());
	/* A kernel that panics resets at once, which ends the machine. */
	word(&t, "panic=-1");
	if (*arch_reset_words(config))
		word(&t, "%s", arch_reset_words(config));
	if (config->has_root && (config->initramfs == MACHINE_INITRAMFS_NONE || config->initrd))
		root_words(&t, config);
	if (config->nnets && config->nets[0].addresses.guest &&
	    (config->initramfs == MACHINE_INITRAMFS_NONE || config->initrd))
		net_words(&t, &config->nets[0].addresses);
	if (config->cmdline && *config->cmdline)
		word(&t, "%s", config->cmdline);
	if (t.len > MACHINE_CMDLINE_MAX)
		return err_set(err, E2BIG,
			       "the kernel command line has %zu bytes with ours, %d are possible: "
			       "shorten it",
			       t.len, MACHINE_CMDLINE_MAX);
	return 0;
}
