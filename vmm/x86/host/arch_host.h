/*
 * What of the host's processor those need to know that know nothing of machines. On the include
 * path by the Makefile, which picks the architecture.
 */
#ifndef ARCH_HOST_H
#define ARCH_HOST_H

#include <linux/audit.h>

/* What seccomp_data.arch says of this program's system calls. */
#define HOST_AUDIT_ARCH AUDIT_ARCH_X86_64

/* In a loop that waits for another thread. */
static inline void host_relax(void)
{
	__builtin_ia32_pause();
}

#endif
