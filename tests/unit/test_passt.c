/* passt(1) at the other end of our socket: it answers, and ends when we do. */
#include "base/cleanup.h"
#include "control/network/passt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define GUEST	0x64735c02
#define GATEWAY 0x64735c01
#define PORT	7 /* of the host, which is a network of our own */

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 2};
static const char *why;

static int setup(void **state)
{
	(void)state;
	/* passt wants a default route, which none of its packets takes here */
	if (geteuid() || access("/usr/bin/passt", X_OK) || unshare(CLONE_NEWNET) ||
	    system("ip link set lo up && ip link add e0 type veth peer name e1 && "
		   "ip addr add 192.0.2.2/24 dev e0 && ip link set e0 up && "
		   "ip link set e1 up && ip route add default via 192.0.2.1"))
		why = "needs root, ip and passt";
	return 0;
}

static void need_space(void)
{
	if (why) {
		print_message("SKIP: %s\n", why);
		skip();
	}
}

static struct machine_net net_of_guest(void)
{
	struct machine_net net = {.mtu = 1500};

	memcpy(net.mac, mac, sizeof(mac));
	return net;
}

static struct child open_passt(const struct machine_net *net, struct net_addresses *addresses)
{
	struct err err = ERR_INIT;
	struct child passt;

	if (passt_open(net, addresses, &passt, &err))
		fail_msg("%s", err.msg);
	return passt;
}

/* A frame of ARP for the gateway, byte by byte as RFC 826 has it. */
static void send_request(int fd)
{
	static const uint8_t frame[] = {
	    0,	  0,	0,    42, /* its length on the stream */
	    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,   0,	  0,  0, 0, 2, 8, 6, /* Ethernet */
	    0,	  1,	8,    0,    6,	  4,	0,   1,			     /* a request */
	    2,	  0,	0,    0,    0,	  2,	100, 115, 92, 2,	     /* of the guest */
	    0,	  0,	0,    0,    0,	  0,	100, 115, 92, 1,	     /* for the gateway */
	};

	assert_int_equal(send(fd, frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
}

static size_t take_frame(int fd, uint8_t *frame, size_t size)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint32_t length;

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(recv(fd, &length, 4, MSG_WAITALL), 4);
	length = ntohl(length);
	assert_true(length <= size);
	assert_int_equal(recv(fd, frame, length, MSG_WAITALL), length);
	return length;
}

/* In our network: nobody else's passt is looked at. */
static bool anybody_has(const char *net_ns)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "for p in $(pgrep -x 'passt(.avx2)?'); do "
		 "[ \"$(readlink /proc/$p/ns/net)\" = '%s' ] && exit 0; done; exit 1",
		 net_ns);
	return system(text) == 0;
}

static bool gone(void)
{
	char net_ns[64];
	ssize_t n = readlink("/proc/thread-self/ns/net", net_ns, sizeof(net_ns) - 1);

	assert_true(n > 0);
	net_ns[n] = 0;
	for (int i = 0; i < 500; i++) {
		if (!anybody_has(net_ns))
			return true;
		poll(NULL, 0, 10);
	}
	return false;
}

static void test_answers(void **state)
{
	static const uint8_t gateway[] = {100, 115, 92, 1};
	struct machine_net net = net_of_guest();
	struct net_addresses a = {0};
	uint8_t frame[2048];
	struct child passt;

	(void)state;
	need_space();
	passt = open_passt(&net, &a);
	assert_int_equal(a.guest, GUEST);
	assert_int_equal(a.gateway, GATEWAY);
	assert_int_equal(a.prefix, 30);
	send_request(passt.fd);
	assert_int_equal(take_frame(passt.fd, frame, sizeof(frame)), 42);
	assert_memory_equal(frame, mac, 6);
	assert_int_equal(frame[21], 2); /* a reply */
	assert_memory_equal(frame + 28, gateway, 4);
	child_close(&passt);
	assert_true(gone());
}

/* Killed, it is there again, on another socket. */
static void test_again(void **state)
{
	struct machine_net net = net_of_guest();
	struct net_addresses a = {0};
	struct pollfd p = {.events = POLLIN};
	uint8_t frame[2048];
	struct child passt;
	char ended[32];

	(void)state;
	need_space();
	passt = open_passt(&net, &a);
	assert_int_equal(child_news(&passt, ended, sizeof(ended)), CHILD_NOTHING);
	assert_int_equal(system("pkill -KILL --ns $$ --nslist net -x 'passt(.avx2)?'"), 0);
	p.fd = passt.keeper;
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(child_news(&passt, ended, sizeof(ended)), CHILD_ENDED);
	assert_string_equal(ended, "signal 9");
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(child_news(&passt, ended, sizeof(ended)), CHILD_BEGUN);
	send_request(passt.fd);
	assert_int_equal(take_frame(passt.fd, frame, sizeof(frame)), 42);
	child_close(&passt);
	assert_true(gone());
}

/* A connection to the host's port comes as a SYN to the guest's. */
static void test_forward(void **state)
{
	const struct sockaddr_in at = {.sin_family = AF_INET,
				       .sin_port = htons(8022),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct machine_net net = net_of_guest();
	struct net_addresses a = {0};
	autofd int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	uint8_t frame[2048];
	struct child passt;

	(void)state;
	need_space();
	net.forwards[0] = (struct net_forward){
	    .host_address = INADDR_LOOPBACK, .host_port = 8022, .guest_port = 22};
	net.nforwards = 1;
	passt = open_passt(&net, &a);
	assert_int_equal(connect(client, (const struct sockaddr *)&at, sizeof(at)), -1);
	assert_int_equal(errno, EINPROGRESS);
	do {
		take_frame(passt.fd, frame, sizeof(frame));
	} while (frame[12] != 8 || frame[13] != 0 || frame[23] != 6);
	assert_int_equal(frame[33], 2);			  /* to 100.115.92.2 */
	assert_int_equal(frame[36] << 8 | frame[37], 22); /* its port */
	assert_int_equal(frame[47] & 0x3f, 2);		  /* SYN */
	child_close(&passt);
	assert_true(gone());
}

static void test_wished(void **state)
{
	struct machine_net net = net_of_guest();
	struct net_addresses a = {
	    .guest = 0x0a00000f, .prefix = 24, .dns = {0x01010101}, .ndns = 1};
	struct child passt;

	(void)state;
	need_space();
	passt = open_passt(&net, &a);
	assert_int_equal(a.guest, 0x0a00000f);
	assert_int_equal(a.gateway, 0x0a000001);
	assert_int_equal(a.ndns, 1);
	child_close(&passt);
	assert_true(gone());
}

static void test_killed(void **state)
{
	struct machine_net net = net_of_guest();
	struct net_addresses a = {0};
	struct child passt;
	int fds[2];
	pid_t pid;
	char c;

	(void)state;
	need_space();
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* of a test that failed */
		c = passt_open(&net, &a, &passt, NULL) ? 'n' : 'y';
		(void)!write(fds[1], &c, 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(c, 'y');
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(gone());
}

/* Its words are the error: here of a port that is taken, and of no route at all. */
static void test_words(void **state)
{
	const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(8023)};
	autofd int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct machine_net net = net_of_guest();
	struct net_addresses a = {0};
	struct err err = ERR_INIT;
	struct child passt;

	(void)state;
	need_space();
	assert_int_equal(bind(taken, (const struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(taken, 1), 0);
	net.forwards[0] = (struct net_forward){.host_port = 8023, .guest_port = 22};
	net.nforwards = 1;
	assert_int_equal(passt_open(&net, &a, &passt, &err), -EIO);
	assert_non_null(strstr(err.msg, "passt: Failed to bind"));
	assert_non_null(strstr(err.msg, "8023"));
	assert_non_null(strstr(err.msg, "a port in use"));
	err = (struct err)ERR_INIT;
	assert_int_equal(system("ip route del default"), 0);
	net.nforwards = 0;
	assert_int_equal(passt_open(&net, &a, &passt, &err), -EIO);
	assert_non_null(strstr(err.msg, "needs a default route"));
	assert_null(strchr(err.msg, '\n'));
	assert_int_equal(a.guest, 0);
	assert_int_equal(passt.fd, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_answers), cmocka_unit_test(test_again),
	    cmocka_unit_test(test_forward), cmocka_unit_test(test_wished),
	    cmocka_unit_test(test_killed),  cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
