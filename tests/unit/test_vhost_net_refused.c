/* vhost-net where the kernel refuses, or the tap goes: on a kernel that only records, and in part
 * on a real tap. */
#include "tests/unit/vhost_net_rig.h"

#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/socket.h>

/* ---- refusals ---- */

static void test_refused_set_up(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_SET_FEATURES,	  VHOST_SET_MEM_TABLE,	VHOST_SET_VRING_NUM,  VHOST_SET_VRING_BASE,
	    VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < 2 * ARRAY_LEN(requests); i++) {
		const unsigned long request = requests[i / 2];
		const bool of_ring =
		    request != VHOST_SET_FEATURES && request != VHOST_SET_MEM_TABLE;

		fake_vhost_fail(request, of_ring ? (int)(i & 1) : -1, EFAULT);
		start(f, ALL);
		assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
		for (unsigned k = 0; k < 3; k++)
			assert_false(fake_served(k));
		fake_vhost_fail(0, -1, 0);
	}
	assert_true(start(f, ALL));
	assert_int_equal(vdrv_status(&f->d), 0xf);
	assert_true(fake_served(0));
}

/* The driver lives, without a link, and the next one has it again. */
static void test_refused_backend(void **state)
{
	struct fixture *f = *state;

	for (int ring = 0; ring < 2; ring++) {
		fake_vhost_fail(VHOST_NET_SET_BACKEND, ring, EBADFD);
		assert_true(start(f, ALL));
		assert_int_equal(vdrv_status(&f->d), 0xf);
		assert_false(fake_served(0));
		assert_false(link_is_up(f));
		fake_vhost_fail(0, -1, 0);
		virtio_net_set_link(f->dev, true);
		assert_false(link_is_up(f));
		assert_true(start(f, ALL));
		assert_true(link_is_up(f));
		assert_true(fake_served(0));
	}
}

static void test_refused_pair(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	fake_vhost_fail(VHOST_NET_SET_BACKEND, 1, ENOMEM);
	assert_int_equal(set_pairs(f, 2), 1);
	assert_true(fake_served(0));
	assert_false(fake_served(1));
	assert_true(link_is_up(f));
	fake_vhost_fail(0, -1, 0);
	assert_int_equal(set_pairs(f, 2), 0);
	assert_true(fake_served(1));
}

static void test_refused_pause_and_resume(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_GET_VRING_BASE,
	    VHOST_SET_VRING_BASE,
	    VHOST_NET_SET_BACKEND,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		assert_true(start(f, ALL));
		assert_true(fake_served(0));
		fake_vhost_fail(requests[i], -1, EFAULT);
		do_pause(f);
		do_resume(f);
		assert_false(fake_served(0));
		assert_false(link_is_up(f));
		fake_vhost_fail(0, -1, 0);
	}
	fake_vhost_fail(VHOST_NET_SET_BACKEND, -1, EFAULT);
	assert_true(start(f, ALL));
	fake_vhost_fail(0, -1, 0);
	assert_true(start(f, ALL));
	virtio_net_set_link(f->dev, false);
	fake_vhost_fail(VHOST_NET_SET_BACKEND, -1, EFAULT);
	virtio_net_set_link(f->dev, true);
	assert_false(link_is_up(f));
	fake_vhost_fail(0, -1, 0);
}

/* A kernel that does not let go of the rings is made to. */
static void test_kernel_does_not_stop(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	kernel.fail_unbind = true;
	fake_vhost_fail(VHOST_NET_SET_BACKEND, 1, EIO);
	vdrv_reset(&f->d);
	assert_int_equal(fcntl(kernel.pairs[0].fd, F_GETFD), -1);
	assert_int_not_equal(fcntl(kernel.pairs[1].fd, F_GETFD), -1);
	start(f, ALL);
	assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
}

static void test_opening_fails(void **state)
{
	struct vhost_net v = VHOST_NET_INIT;
	struct err err = ERR_INIT;
	(void)state;

	fake_vhost_init();
	assert_int_equal(vhost_net_open("/no/such", 1, fake_ioctl, &v, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "modprobe vhost_net"));
	assert_int_equal(vhost_net_open("/dev/null", 0, fake_ioctl, &v, NULL), -EINVAL);
	assert_int_equal(vhost_net_open("/dev/null", 8, fake_ioctl, &v, NULL), -EINVAL);
	err = (struct err)ERR_INIT;
	kernel.features = VDRV_V1;
	assert_int_equal(vhost_net_open("/dev/null", 1, fake_ioctl, &v, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "backend=builtin"));
	fake_vhost_fail(VHOST_SET_OWNER, -1, EBUSY);
	assert_int_equal(vhost_net_open("/dev/null", 2, fake_ioctl, &v, NULL), -EBUSY);
	assert_int_equal(v.n, 0);
	fake_vhost_init();
	assert_int_equal(vhost_net_open("/dev/null", 7, fake_ioctl, &v, NULL), 0);
	assert_int_equal(v.n, 7);
	vhost_net_close(&v);
	assert_int_equal(v.n, 0);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(fcntl(kernel.pairs[i].fd, F_GETFD), -1);
}

/* What is refused stays the caller's. */
static void test_making_fails(void **state)
{
	struct fixture *f = *state;
	const struct virtio_net_config bad = {.mac = {1, 1, 2, 3, 4, 5}};
	struct vhost_net v = VHOST_NET_INIT;
	struct tap tap = make_tap(2);
	struct virtio_dev *dev = NULL;
	struct err err = ERR_INIT;
	struct stat_fds {
		int zero;
	} before = {fcntl(0, F_GETFD)};

	kernel.npairs = 0;
	assert_int_equal(vhost_net_open("/dev/null", 1, fake_ioctl, &v, NULL), 0);
#define NEW(c) virtio_vhost_net_new(c, &tap, &v, &f->fp.plat, f->lt.loop, &dev, &err)
	assert_int_equal(NEW(&config), -EINVAL);
	vhost_net_close(&v);
	assert_int_equal(vhost_net_open("/dev/null", 2, fake_ioctl, &v, NULL), 0);
	assert_int_equal(NEW(&bad), -EINVAL);
	tap.socket = true;
	err = (struct err)ERR_INIT;
	assert_int_equal(NEW(&config), -EINVAL);
	assert_non_null(strstr(err.msg, "backend=builtin"));
#undef NEW
	assert_null(dev);
	assert_int_equal(fcntl(0, F_GETFD), before.zero);
	assert_int_equal(v.n, 2);
	assert_int_equal(tap.queues, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_not_equal(fcntl(v.pairs[i].fd, F_GETFD), -1);
		assert_int_not_equal(fcntl(tap.fds[i], F_GETFD), -1);
	}
	vhost_net_close(&v);
	tap_close(&tap);
}

/* ---- a real tap ---- */

static void delete_interface(const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} m = {
	    .head = {.nlmsg_len = sizeof(m),
		     .nlmsg_type = RTM_DELLINK,
		     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
	    .info = {.ifi_index = (int)if_nametoindex(name)},
	};
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	assert_true(fd >= 0 && m.info.ifi_index > 0);
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	assert_true(recv(fd, &answer, sizeof(answer), 0) >= (ssize_t)sizeof(answer));
	assert_int_equal(answer.error.error, 0);
	close(fd);
}

static void test_tap_deleted(void **state)
{
	static struct fixture f;
	const uint8_t on = 1;
	void *s = &f;
	struct tap tap;

	(void)state;
	/* a network of our own, where this process may make one */
	if ((unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) ||
	    tap_open("vhost0", 2, true, &tap, NULL)) {
		skip();
		return;
	}
	memset(&f, 0, sizeof(f));
	fake_vhost_init();
	build(&f, &tap, false);
	assert_true(start(&f, ALL));
	assert_int_equal(set_pairs(&f, 2), 0);
	assert_int_equal(control(&f, 4, 0, 1, &on, 1), 0); /* all of a group */
	assert_int_equal(set_pairs(&f, 1), 0);
	assert_int_equal(set_pairs(&f, 2), 0);
	assert_true(link_is_up(&f));
	vdrv_config_irqs(&f.d);
	delete_interface("vhost0");
	assert_true(vdrv_wait_config(&f.d));
	assert_false(link_is_up(&f));
	loop_rounds(f.lt.loop);
	assert_false(fake_served(0));
	assert_false(fake_served(1));
	assert_int_equal(vdrv_status(&f.d), 0xf);
	virtio_net_set_link(f.dev, true);
	assert_false(link_is_up(&f));
	start(&f, ALL);
	assert_false(link_is_up(&f));
	assert_false(fake_served(0));
	teardown(&s);
}

int main(void)
{
#define T1(f) cmocka_unit_test_setup_teardown(f, setup_one, teardown)
#define T3(f) cmocka_unit_test_setup_teardown(f, setup_three, teardown)
	const struct CMUnitTest tests[] = {
	    T3(test_refused_set_up),	   T1(test_refused_backend),
	    T3(test_refused_pair),	   T1(test_refused_pause_and_resume),
	    T3(test_kernel_does_not_stop), cmocka_unit_test(test_opening_fails),
	    T1(test_making_fails),	   cmocka_unit_test(test_tap_deleted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
