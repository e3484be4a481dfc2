/* What is preloaded into ganesha.nfsd; see handles.c. */
#ifndef CONTROL_SHARE_PRELOAD_HANDLES_H
#define CONTROL_SHARE_PRELOAD_HANDLES_H

#include <stddef.h>
#include <stdint.h>

#define HANDLES_KEY "/lodge/key" /* 16 bytes, in the jail */

/* A sixth argument of open_by_handle_at(2), which the kernel does not look at: the jail's filter
 * refuses calls without it, so that a server which goes past the library opens nothing at all. */
#define HANDLES_MARK 0x6c6f6467

uint64_t handles_siphash(const uint64_t k[2], const void *data, size_t len);

#endif
