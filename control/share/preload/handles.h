/* What is preloaded into ganesha.nfsd; see handles.c. */
#ifndef CONTROL_SHARE_PRELOAD_HANDLES_H
#define CONTROL_SHARE_PRELOAD_HANDLES_H

#include <stddef.h>
#include <stdint.h>

#define HANDLES_KEY "/lodge/key" /* 16 bytes, in the jail */

uint64_t handles_siphash(const uint64_t k[2], const void *data, size_t len);

#endif
