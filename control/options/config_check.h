/*
 * What is checked of a machine_config's values wherever they come from: the command line, a
 * StartVm. The messages say what is wrong with the value; the caller prefixes where it stood.
 */
#ifndef CONTROL_OPTIONS_CONFIG_CHECK_H
#define CONTROL_OPTIONS_CONFIG_CHECK_H

#include "base/err.h"

#include <stdint.h>

#define CONFIG_MEMORY_MAX    (UINT64_C(16) << 40) /* far above any host; guards later sums */
#define CONFIG_FSTYPE_MAX    32
#define CONFIG_LABEL_MAX     128
#define CONFIG_PARTITION_MAX 128 /* entries of a GPT as everyone makes them */

/* Each: 0 or -EINVAL. */
int config_check_memory(uint64_t bytes, struct err *err);
int config_check_cmdline(const char *words, struct err *err);
int config_check_init(const char *program, struct err *err);
int config_check_serial(const char *serial, struct err *err);
int config_check_fstype(const char *type, struct err *err);
int config_check_label(const char *label, struct err *err);
int config_check_mount_point(const char *path, struct err *err);

#endif
