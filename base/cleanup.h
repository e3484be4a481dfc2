/*
 * Cleanup at the end of a scope: `autofd int fd = -1;`, `autofree char *s = NULL;`.
 * steal_fd() and steal_ptr() take the value out, so that the scope no longer frees it.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_ptr(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_unlock(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

#define autofd	 __attribute__((cleanup(cleanup_fd)))
#define autofree __attribute__((cleanup(cleanup_ptr)))

/* Holds the mutex to the end of the scope: AUTOLOCK(&dev->lock); */
#define AUTOLOCK_CAT_(a, b) a##b
#define AUTOLOCK_CAT(a, b)  AUTOLOCK_CAT_(a, b)
#define AUTOLOCK(m)                                               \
	__attribute__((cleanup(cleanup_unlock)))                  \
	pthread_mutex_t *AUTOLOCK_CAT(autolock_, __LINE__) = (m); \
	pthread_mutex_lock(AUTOLOCK_CAT(autolock_, __LINE__))

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define steal_ptr(p)                             \
	({                                       \
		__typeof__(*(p)) stolen_ = *(p); \
		*(p) = NULL;                     \
		stolen_;                         \
	})

#endif
