/* The kernel command line: ours first, the user's words last, so that they win. */
#ifndef VMM_CMDLINE_H
#define VMM_CMDLINE_H

#include "base/err.h"
#include "vmm/config.h"

/* `buf` has MACHINE_CMDLINE_MAX + 1 bytes. -E2BIG: too long; the message says by how much. */
int cmdline_build(const struct machine_config *config, char *buf, struct err *err);

#endif
