/*
 * What the host's side of the code takes from glibc and musl does not have: put before every file
 * of the agent (Makefile).
 */
#ifndef GUEST_AGENT_MUSL_H
#define GUEST_AGENT_MUSL_H

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x8 /* linux/fs.h */

/* preadv2(2): the offset goes in two halves, of which 64-bit kernels take the first. */
static inline ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return syscall(SYS_preadv2, fd, iov, (long)n, (long)offset, 0L, flags);
}

static inline ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	return syscall(SYS_pwritev2, fd, iov, (long)n, (long)offset, 0L, flags);
}
#endif

#endif
