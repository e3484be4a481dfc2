/* vhost-vsock on a kernel that only records what it is told. */
#include "base/checked.h"
#include "devices/virtio/vhost_vsock.h"
#include "tests/unit/loop_barrier.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/virtio_driver.h"

/* clang-format off: its names are the driver's as well */
#define vring	   linux_vring
#define vring_init linux_vring_init
#include <linux/vhost.h>
#undef vring
#undef vring_init
/* clang-format on */

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define NEEDS_ALL (UINT64_C(1) << 28 | UINT64_C(1) << 29 | UINT64_C(1) << 32)
#define HOLE_GPA  0x100000000

static struct {
	unsigned calls;
	bool owned;
	uint64_t features, set_features, cid;
	struct vhost_memory_region regions[8];
	unsigned nregions;
	struct vhost_vring_addr addr[2];
	unsigned num[2], base[2];
	int kick[2], call[2], error[2];
	int running;
	unsigned long fail; /* this request */
	int fail_code;
	uint64_t taken; /* this cid is another guest's */
} kernel;

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	const struct vhost_vring_state *state = arg;
	const struct vhost_vring_file *file = arg;
	const struct vhost_memory *memory = arg;

	assert_true(fd >= 0);
	kernel.calls++;
	if (request == kernel.fail) {
		errno = kernel.fail_code;
		return -1;
	}
	switch (request) {
	case VHOST_SET_OWNER:
		kernel.owned = true;
		break;
	case VHOST_GET_FEATURES:
		memcpy(arg, &kernel.features, 8);
		break;
	case VHOST_SET_FEATURES:
		memcpy(&kernel.set_features, arg, 8);
		break;
	case VHOST_SET_MEM_TABLE:
		kernel.nregions = memory->nregions;
		memcpy(kernel.regions, memory->regions,
		       memory->nregions * sizeof(kernel.regions[0]));
		break;
	case VHOST_SET_VRING_NUM:
		kernel.num[state->index] = state->num;
		break;
	case VHOST_SET_VRING_BASE:
		kernel.base[state->index] = state->num;
		break;
	case VHOST_SET_VRING_ADDR:
		kernel.addr[((struct vhost_vring_addr *)arg)->index] =
		    *(struct vhost_vring_addr *)arg;
		break;
	case VHOST_SET_VRING_KICK:
		kernel.kick[file->index] = file->fd;
		break;
	case VHOST_SET_VRING_CALL:
		kernel.call[file->index] = file->fd;
		break;
	case VHOST_SET_VRING_ERR:
		kernel.error[file->index] = file->fd;
		break;
	case VHOST_VSOCK_SET_GUEST_CID:
		memcpy(&kernel.cid, arg, 8);
		if (kernel.cid == kernel.taken) {
			errno = EADDRINUSE;
			return -1;
		}
		break;
	case VHOST_VSOCK_SET_RUNNING:
		memcpy(&kernel.running, arg, sizeof(int));
		break;
	default:
		fail_msg("unknown request %#lx", request);
	}
	return 0;
}

struct fixture {
	struct fake_platform fp;
	struct loop_thread lt;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
};

static int setup(void **state)
{
	static struct fixture f;
	struct vhost v = VHOST_INIT;

	memset(&f, 0, sizeof(f));
	memset(&kernel, 0, sizeof(kernel));
	kernel.features = UINT64_MAX >> 20;
	fake_platform_init_hole(&f.fp, 8 * MIB, HOLE_GPA, MIB);
	loop_thread_new(&f.lt, LOOP_AUTO);
	assert_int_equal(vhost_vsock_open("/dev/null", fake_ioctl, &v, NULL), 0);
	assert_true(kernel.owned);
	assert_int_equal(vhost_vsock_set_cid(&v, 77), 0);
	assert_int_equal(virtio_vhost_vsock_new(&v, 77, &f.fp.plat, f.lt.loop, &f.dev, NULL), 0);
	assert_int_equal(v.fd, -1);
	assert_int_equal(virtio_mmio_new(&f.fp.plat, 0xd0000000, 4, f.dev, &f.t, NULL), 0);
	vdrv_init_mmio(&f.d, &f.fp, 0xd0000000, 4, 0x10000);
	loop_thread_start(&f.lt);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_transport_free(f->t);
	assert_int_equal(kernel.running, 0);
	loop_thread_free(&f->lt);
	fake_platform_fini(&f->fp);
	return 0;
}

static void test_driver_sets_the_kernel_up(void **state)
{
	struct fixture *f = *state;
	struct vring *r = f->d.rings;

	assert_true(vdrv_start(&f->d, VDRV_EVENT | VDRV_INDIRECT, 3, 64));
	assert_int_equal(vdrv_status(&f->d), 0xf);
	assert_int_equal(vdrv_id(&f->d), 19);
	assert_int_equal(vdrv_config(&f->d, 0, 4), 77);
	assert_int_equal(kernel.set_features, NEEDS_ALL);
	assert_int_equal(kernel.running, 1);
	assert_int_equal(kernel.nregions, 2);
	assert_int_equal(kernel.regions[0].guest_phys_addr, 0);
	assert_int_equal(kernel.regions[0].memory_size, 8 * MIB);
	assert_ptr_equal((void *)(uintptr_t)kernel.regions[0].userspace_addr,
			 fake_mem(&f->fp, 0, 1));
	assert_int_equal(kernel.regions[1].guest_phys_addr, HOLE_GPA);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(kernel.num[i], 64);
		assert_int_equal(kernel.base[i], 0);
		assert_ptr_equal((void *)(uintptr_t)kernel.addr[i].desc_user_addr,
				 fake_mem(&f->fp, r[i].desc, 1));
		assert_ptr_equal((void *)(uintptr_t)kernel.addr[i].avail_user_addr,
				 fake_mem(&f->fp, r[i].avail, 1));
		assert_ptr_equal((void *)(uintptr_t)kernel.addr[i].used_user_addr,
				 fake_mem(&f->fp, r[i].used, 1));
		assert_int_equal(kernel.kick[i], f->dev->kick_fd[i]);
	}
}

static void test_only_what_was_negotiated(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->d, 0, 3, 0));
	assert_int_equal(kernel.set_features, VDRV_V1);
}

static void test_interrupts_pass(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	for (unsigned i = 0; i < 100; i++) {
		uint64_t irqs = 0;

		assert_int_equal(eventfd_write(kernel.call[i & 1], 1), 0);
		for (unsigned ms = 0; !irqs && ms < VDRV_WAIT_MS; ms++) {
			irqs = vdrv_queue_irqs(&f->d, i & 1);
			if (!irqs)
				usleep(1000);
		}
		assert_true(irqs);
		assert_int_equal(vdrv_isr(&f->d), 1);
	}
}

static void test_kernel_gives_up(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	assert_int_equal(eventfd_write(kernel.error[1], 1), 0);
	assert_true(vdrv_wait_config(&f->d));
	assert_int_equal(vdrv_status(&f->d), 0xf | 0x40);
	f->d.heap = 0x10000;
	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	assert_int_equal(vdrv_status(&f->d), 0xf);
}

static void test_reset_stops_it(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 50; i++) {
		f->d.heap = 0x10000;
		assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
		assert_int_equal(kernel.running, 1);
		eventfd_write(kernel.call[0], 1);
		vdrv_reset(&f->d);
		assert_int_equal(kernel.running, 0);
	}
}

/* Was it rung since the last call? */
static bool rung(int eventfd)
{
	struct pollfd p = {.fd = eventfd, .events = POLLIN};
	eventfd_t n;

	return poll(&p, 1, 0) == 1 && !eventfd_read(eventfd, &n);
}

/* The kernel keeps its place in the rings, and looks at them again. */
static void test_pause_and_resume(void **state)
{
	struct fixture *f = *state;
	struct news quiet = NEWS_INIT;

	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	for (unsigned i = 0; i < 50; i++) {
		unsigned calls;

		virtio_transport_pause(f->t, news_tell, &quiet);
		news_wait(&quiet);
		assert_int_equal(kernel.running, 0);
		rung(kernel.kick[0]);
		rung(kernel.kick[1]);
		calls = kernel.calls;
		vdrv_notify(&f->d, 2); /* nobody's but the event queue's */
		eventfd_write(kernel.call[0], 1);
		loop_rounds(f->lt.loop);
		assert_int_equal(kernel.calls, calls);
		virtio_transport_resume(f->t);
		assert_int_equal(kernel.running, 1);
		assert_int_equal(kernel.calls, calls + 1);
		assert_true(rung(kernel.kick[0]));
		assert_true(rung(kernel.kick[1]));
	}
}

static void test_reset_while_paused(void **state)
{
	struct fixture *f = *state;
	struct news quiet = NEWS_INIT;

	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	assert_true(virtio_transport_pause(f->t, news_tell, &quiet));
	news_wait(&quiet);
	vdrv_reset(&f->d);
	assert_int_equal(kernel.running, 0);
	assert_false(virtio_transport_pause(f->t, news_tell, &quiet));
	f->d.heap = 0x10000;
	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	assert_int_equal(kernel.running, 1);
}

static void test_refused_set_up(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_SET_FEATURES,	  VHOST_SET_MEM_TABLE,	VHOST_SET_VRING_NUM,
	    VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK,
	    VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,	VHOST_VSOCK_SET_RUNNING,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		kernel.fail = requests[i];
		kernel.fail_code = EFAULT;
		f->d.heap = 0x10000;
		vdrv_start(&f->d, VDRV_EVENT, 3, 0);
		assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
		assert_int_equal(kernel.running, 0);
		kernel.fail = 0;
	}
	f->d.heap = 0x10000;
	assert_true(vdrv_start(&f->d, VDRV_EVENT, 3, 0));
	assert_int_equal(vdrv_status(&f->d), 0xf);
}

static void test_queues_that_lack(void **state)
{
	struct fixture *f = *state;

	vdrv_start(&f->d, VDRV_EVENT, 1, 0);
	assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
	f->d.heap = 0x10000;
	assert_true(vdrv_start(&f->d, VDRV_EVENT, 2, 0)); /* without events: fine */
	assert_int_equal(vdrv_status(&f->d), 0xf);
}

static void test_opening_fails(void **state)
{
	struct vhost v = VHOST_INIT;
	struct err err = ERR_INIT;
	(void)state;

	memset(&kernel, 0, sizeof(kernel));
	assert_int_equal(vhost_vsock_open("/no/such", fake_ioctl, &v, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "modprobe vhost_vsock"));
	err = (struct err)ERR_INIT;
	kernel.features = VDRV_V1;
	assert_int_equal(vhost_vsock_open("/dev/null", fake_ioctl, &v, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "backend=builtin"));
	kernel.fail = VHOST_SET_OWNER;
	kernel.fail_code = EBUSY;
	assert_int_equal(vhost_vsock_open("/dev/null", fake_ioctl, &v, NULL), -EBUSY);
	assert_int_equal(v.fd, -1);
	kernel.fail = 0;
	kernel.features = NEEDS_ALL;
	kernel.taken = 3;
	assert_int_equal(vhost_vsock_open("/dev/null", fake_ioctl, &v, NULL), 0);
	assert_int_equal(vhost_vsock_set_cid(&v, 3), -EADDRINUSE);
	assert_int_equal(vhost_vsock_set_cid(&v, 4), 0);
	assert_int_equal(kernel.cid, 4);
	vhost_close(&v);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_driver_sets_the_kernel_up),
	    T(test_only_what_was_negotiated),
	    T(test_interrupts_pass),
	    T(test_kernel_gives_up),
	    T(test_reset_stops_it),
	    T(test_pause_and_resume),
	    T(test_reset_while_paused),
	    T(test_refused_set_up),
	    T(test_queues_that_lack),
	    cmocka_unit_test(test_opening_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
