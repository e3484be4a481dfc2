#include "vmm/cmdline.h"
#include "vmm/arch.h"

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

int cmdline_build(const struct machine_config *config, char *buf, struct err *err)
{
	struct text t = {.buf = buf};

	buf[0] = '\0';
	if (config->console)
		word(&t, "%s", arch_console_words());
	/* A kernel that panics resets at once, which ends the machine; and it resets by ACPI: on
	 * reduced hardware Linux on x86 otherwise asks an EFI that is not there. */
	word(&t, "panic=-1 reboot=acpi");
	if (config->has_root && (config->initramfs == MACHINE_INITRAMFS_NONE || config->initrd))
		root_words(&t, config);
	if (config->cmdline && *config->cmdline)
		word(&t, "%s", config->cmdline);
	if (t.len > MACHINE_CMDLINE_MAX)
		return err_set(err, E2BIG,
			       "the kernel command line has %zu bytes with ours, %d are possible: "
			       "shorten it",
			       t.len, MACHINE_CMDLINE_MAX);
	return 0;
}
