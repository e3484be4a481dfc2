/*
 * Creating a ring: the best mode that the kernel knows, restricted to what the loop does.
 *
 * Where the kernel can, one thread is the only one to submit (IORING_SETUP_SINGLE_ISSUER) and
 * completions are handled when it waits, never by interrupting it (IORING_SETUP_DEFER_TASKRUN).
 *
 * An io_uring can do what a seccomp filter forbids, so each ring is limited to the opcodes that
 * base/loop_uring.c emits; an opcode that is missing here fails with -EACCES.
 */
#include "base/loop_ring.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

/* Not in the headers of every liburing that works. */
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

#define USE_ALL	    (1u << LOOP_USE_ALL)
#define USE_FILES   (USE_ALL | 1u << LOOP_USE_FILES)
#define USE_STREAMS (USE_ALL | 1u << LOOP_USE_STREAMS)
#define USE_BOTH    (USE_ALL | 1u << LOOP_USE_FILES | 1u << LOOP_USE_STREAMS)

/* Everything that base/loop_uring.c emits, by what the loop is for. */
static const struct {
	uint8_t code;
	uint8_t uses;
} opcodes[] = {
    {IORING_OP_READ, USE_BOTH},		/* the loop's own eventfd */
    {IORING_OP_POLL_ADD, USE_BOTH},	/* watches */
    {IORING_OP_ASYNC_CANCEL, USE_BOTH}, /* the end of a run */
    {IORING_OP_READV, USE_FILES},	{IORING_OP_WRITEV, USE_FILES},
    {IORING_OP_FSYNC, USE_FILES},	{IORING_OP_FALLOCATE, USE_FILES},
    {IORING_OP_WRITE, USE_STREAMS},	{IORING_OP_RECVMSG, USE_STREAMS},
    {IORING_OP_SENDMSG, USE_STREAMS},	{IORING_OP_ACCEPT, USE_STREAMS},
};

/* Only the opcodes above, no flags on them, and of registrations only those of uring_start/stop. */
static int restrict_ring(struct io_uring *ring, enum loop_use use)
{
	static const uint8_t registers[] = {
	    IORING_REGISTER_ENABLE_RINGS,
	    IORING_REGISTER_RING_FDS,
	    IORING_UNREGISTER_RING_FDS,
	};
	struct io_uring_restriction res[ARRAY_LEN(opcodes) + ARRAY_LEN(registers)];
	unsigned n = 0;

	memset(res, 0, sizeof(res));
	for (size_t i = 0; i < ARRAY_LEN(opcodes); i++) {
		if (!(opcodes[i].uses & 1u << use))
			continue;
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n++].sqe_op = opcodes[i].code;
	}
	for (size_t i = 0; i < ARRAY_LEN(registers); i++) {
		res[n].opcode = IORING_RESTRICTION_REGISTER_OP;
		res[n++].register_op = registers[i];
	}
	/* the wrapper for this is missing from some shared builds of liburing */
	return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, res, n);
}

/* The best mode that this kernel knows. */
static int create_ring(struct io_uring *ring, unsigned entries)
{
	static const unsigned modes[] = {
	    /* Linux 6.1 */
	    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	    /* Linux 5.19 */
	    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	    0,
	};
	int r = -EINVAL;

	for (size_t i = 0; i < ARRAY_LEN(modes) && r == -EINVAL; i++) {
		struct io_uring_params params = {.flags = modes[i] | IORING_SETUP_R_DISABLED |
							  IORING_SETUP_CLAMP};

		r = io_uring_queue_init_params(entries, ring, &params);
	}
	return r;
}

/* Why there is no ring, and what to do about it. */
static int refused(struct err *err, int code)
{
	switch (code) {
	case EPERM:
	case EACCES:
		return err_set(err, EPERM,
			       "io_uring is forbidden here (a container's seccomp filter, or "
			       "sysctl kernel.io_uring_disabled); use the epoll backend");
	case ENOSYS:
	case EINVAL:
		return err_set(err, ENOSYS,
			       "this kernel's io_uring is absent or older than Linux 5.13; use "
			       "the epoll backend");
	case ENOMEM:
		return err_set(err, ENOMEM,
			       "no memory for an io_uring; raise the limit of locked memory "
			       "(ulimit -l) or use the epoll backend");
	default:
		return err_sys(err, code, "creating an io_uring");
	}
}

int loop_ring_enable(struct io_uring *ring)
{
	return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int loop_ring_new(struct io_uring *ret_ring, unsigned entries, enum loop_use use, struct err *err)
{
	/* the last came with polls that tell of every event */
	const unsigned need = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RW_CUR_POS |
			      IORING_FEAT_FAST_POLL | IORING_FEAT_SUBMIT_STABLE |
			      IORING_FEAT_RSRC_TAGS;
	struct io_uring ring;
	int r = create_ring(&ring, entries);

	if (r)
		return refused(err, -r);
	if ((ring.features & need) != need)
		r = -ENOSYS;
	else
		r = io_uring_ring_dontfork(&ring); /* else a child keeps it, and all it waits for */
	if (!r)
		r = restrict_ring(&ring, use);
	if (r) {
		io_uring_queue_exit(&ring);
		return refused(err, -r);
	}
	*ret_ring = ring;
	return 0;
}
