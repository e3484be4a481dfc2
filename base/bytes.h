/*
 * Integers as they lie on a wire, on a disk or in guest memory.
 *
 * Each is a struct of its own, so that a forgotten swap does not compile. Their alignment is 1,
 * so that they may stand anywhere in a packed format.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_TYPE(name, uint, to_host, from_host)                                  \
	struct name {                                                               \
		uint8_t b[sizeof(uint)];                                            \
	};                                                                          \
	_Static_assert(sizeof(struct name) == sizeof(uint), "wire size of " #name); \
	static inline uint name##_get(struct name v)                                \
	{                                                                           \
		uint x;                                                             \
		memcpy(&x, v.b, sizeof(x));                                         \
		return to_host(x);                                                  \
	}                                                                           \
	static inline struct name name##_put(uint x)                                \
	{                                                                           \
		struct name v;                                                      \
		x = from_host(x);                                                   \
		memcpy(v.b, &x, sizeof(x));                                         \
		return v;                                                           \
	}                                                                           \
	/* The same at an address that may be unaligned. */                         \
	static inline uint name##_load(const void *p)                               \
	{                                                                           \
		uint x;                                                             \
		memcpy(&x, p, sizeof(x));                                           \
		return to_host(x);                                                  \
	}                                                                           \
	static inline void name##_store(void *p, uint x)                            \
	{                                                                           \
		x = from_host(x);                                                   \
		memcpy(p, &x, sizeof(x));                                           \
	}

BYTES_TYPE(le16, uint16_t, le16toh, htole16)
/* cppcheck-suppress ctunullpointer ; a macro's functions stand on one line, it mistakes them */
BYTES_TYPE(le32, uint32_t, le32toh, htole32)
BYTES_TYPE(le64, uint64_t, le64toh, htole64)
BYTES_TYPE(be16, uint16_t, be16toh, htobe16)
BYTES_TYPE(be32, uint32_t, be32toh, htobe32)
BYTES_TYPE(be64, uint64_t, be64toh, htobe64)

#undef BYTES_TYPE

#endif
