/*
 * Preloaded into ganesha.nfsd: its file handles are sealed, so that a client can only come back
 * with those that it was given.
 *
 * An NFS client names files by handles, and ganesha has the kernel open what a handle says,
 * wherever in the file system it is: who makes up a handle reaches files outside the shared
 * directory. Here name_to_handle_at(2) adds a code to each handle, and open_by_handle_at(2) opens
 * only what has its code. ganesha asks for handles of what it has looked up within the directory,
 * and of nothing else.
 *
 *   | offset | size | |
 *   | 0      | n    | the kernel's handle |
 *   | n      | 8    | SipHash-2-4 of type and handle, little-endian |
 *
 * The key is the share's own, so that handles survive a restart of the server, and those of another
 * share mean nothing.
 *
 * Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF"; name_to_handle_at(2).
 */
#include "control/share/preload/handles.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SEAL_BYTES sizeof(uint64_t)

static uint64_t key[2];
static int has_key;

/* ---- SipHash ------------------------------------------------------------------------------------
 */

static uint64_t rotate(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

static void rounds(uint64_t v[4], unsigned n)
{
	while (n--) {
		v[0] += v[1];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[0] = rotate(v[0], 32);
		v[2] += v[3];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

uint64_t handles_siphash(const uint64_t k[2], const void *data, size_t len)
{
	uint64_t v[4] = {k[0] ^ UINT64_C(0x736f6d6570736575), k[1] ^ UINT64_C(0x646f72616e646f6d),
			 k[0] ^ UINT64_C(0x6c7967656e657261), k[1] ^ UINT64_C(0x7465646279746573)};
	const unsigned char *at = data;
	uint64_t word, last = (uint64_t)len << 56;

	/* both architectures are little-endian */
	for (size_t left = len; left >= sizeof(word); left -= sizeof(word), at += sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		v[3] ^= word;
		rounds(v, 2);
		v[0] ^= word;
	}
	word = 0;
	memcpy(&word, at, len % sizeof(word));
	last |= word;
	v[3] ^= last;
	rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- where it stands ----------------------------------------------------------------------------
 */

/* ganesha loads its file systems with RTLD_DEEPBIND: they would find the C library's functions
 * before those of ours. */
__attribute__((visibility("default"))) void *dlopen(const char *path, int flags)
{
	void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");

	return next(path, flags & ~RTLD_DEEPBIND);
}

/* ---- handles ------------------------------------------------------------------------------------
 */

__attribute__((constructor)) static void read_key(void)
{
	int fd = open(HANDLES_KEY, O_RDONLY | O_CLOEXEC);

	has_key = fd >= 0 && read(fd, key, sizeof(key)) == sizeof(key);
	if (fd >= 0)
		close(fd);
}

static uint64_t seal_of(int type, const void *handle, unsigned len)
{
	unsigned char bytes[sizeof(type) + MAX_HANDLE_SZ];

	memcpy(bytes, &type, sizeof(type));
	memcpy(bytes + sizeof(type), handle, len);
	return handles_siphash(key, bytes, sizeof(type) + len);
}

__attribute__((visibility("default"))) int
name_to_handle_at(int dir, const char *name, struct file_handle *handle, int *mount_id, int flags)
{
	const unsigned room = handle->handle_bytes;
	uint64_t seal;
	long res;

	handle->handle_bytes = room > SEAL_BYTES ? room - (unsigned)SEAL_BYTES : 0;
	if (handle->handle_bytes > MAX_HANDLE_SZ)
		handle->handle_bytes = MAX_HANDLE_SZ;
	res = syscall(SYS_name_to_handle_at, dir, name, handle, mount_id, flags);
	if (!res) {
		seal = seal_of(handle->handle_type, handle->f_handle, handle->handle_bytes);
		memcpy(handle->f_handle + handle->handle_bytes, &seal, sizeof(seal));
	}
	if (!res || errno == EOVERFLOW)
		handle->handle_bytes += (unsigned)SEAL_BYTES;
	else
		handle->handle_bytes = room;
	return (int)res;
}

__attribute__((visibility("default"))) int open_by_handle_at(int mount_fd,
							     struct file_handle *handle, int flags)
{
	union {
		struct file_handle head;
		unsigned char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} inner;
	const unsigned len = handle->handle_bytes - (unsigned)SEAL_BYTES;
	uint64_t seal, told;

	if (!has_key || handle->handle_bytes < SEAL_BYTES || len > MAX_HANDLE_SZ)
		goto stale;
	seal = seal_of(handle->handle_type, handle->f_handle, len);
	memcpy(&told, handle->f_handle + len, sizeof(told));
	if (seal ^ told)
		goto stale;
	inner.head.handle_bytes = len;
	inner.head.handle_type = handle->handle_type;
	memcpy(inner.head.f_handle, handle->f_handle, len);
	return (int)syscall(SYS_open_by_handle_at, mount_fd, &inner, flags, 0L, 0L,
			    (long)HANDLES_MARK);
stale:
	errno = ESTALE;
	return -1;
}
