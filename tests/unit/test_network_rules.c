/*
 * Rules of nftables under real packets: this process is the host, in a network of its own; `guest`
 * and `outside` are two more networks, joined to it by pairs of veth.
 *
 *	guest 100.115.92.2 -- tap0 100.115.92.1, host, 192.0.2.1 wan0 -- outside 192.0.2.9
 */
#include "base/cleanup.h"
#include "control/network/rules.h"
#include "tests/unit/net_frames6.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define GUEST	 0x64735c02
#define HOST	 0x64735c01
#define IN_GUEST "nsenter -t $GUEST -n "
#define IN_OUT	 "nsenter -t $OUTSIDE -n "

/* Tells each client its address; on TCP and UDP. */
static const char server[] = "import socket, select, sys\n"
			     "p = int(sys.argv[1])\n"
			     "t = socket.create_server(('', p))\n"
			     "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
			     "u.bind(('', p))\n"
			     "print(flush=True)\n"
			     "while True:\n"
			     "    for s in select.select([t, u], [], [])[0]:\n"
			     "        if s is t:\n"
			     "            c, a = t.accept()\n"
			     "            c.sendall(a[0].encode())\n"
			     "            c.close()\n"
			     "        else:\n"
			     "            _, a = u.recvfrom(99)\n"
			     "            u.sendto(a[0].encode(), a)\n";

/* client.py tcp|udp ADDRESS PORT SEEN: asks, and compares what the server says. */
static const char client[] =
    "import socket, sys\n"
    "s = socket.socket(type=socket.SOCK_STREAM if sys.argv[1] == 'tcp' else socket.SOCK_DGRAM)\n"
    "s.settimeout(float(sys.argv[5]) if len(sys.argv) > 5 else 10)\n"
    "s.connect((sys.argv[2], int(sys.argv[3])))\n"
    "if sys.argv[1] == 'udp': s.send(b'?')\n"
    "seen = s.recv(99).decode()\n"
    "assert seen == sys.argv[4], seen\n";

/* arp.py ETHER-SOURCE ARP-MAC ARP-ADDRESS [TAG]: is it answered? Exit code 0 or 3. */
static const char arp[] =
    "import socket, sys, time\n"
    "def mac(t): return bytes.fromhex(t.replace(':', ''))\n"
    "source, arp_mac, address = mac(sys.argv[1]), mac(sys.argv[2]), socket.inet_aton(sys.argv[3])\n"
    "tag = bytes.fromhex(sys.argv[4]) if len(sys.argv) > 4 else b''\n"
    "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n"
    "s.bind(('eth0', 0x0806))\n"
    "s.send(b'\\xff' * 6 + source + tag + bytes.fromhex('08060001080006040001') + arp_mac +\n"
    "       address + b'\\0' * 6 + socket.inet_aton('100.115.92.1'))\n"
    "end = time.time() + 1\n"
    "while time.time() < end:\n"
    "    s.settimeout(max(0.01, end - time.time()))\n"
    "    try: f = s.recv(2000)\n"
    "    except TimeoutError: break\n"
    "    if f[12:14] == b'\\x08\\x06' and f[20:22] == b'\\0\\2' and f[32:38] == arp_mac: "
    "sys.exit(0)\n"
    "sys.exit(3)\n";

/* udp.py FROM: a datagram of any source to the host's port 7 and back; exit code 0 or 3. The answer
 * is seen on its way out of the host, whatever it is worth. */
static const char spoof[] =
    "import socket, struct, sys, time\n"
    "source = socket.inet_aton(sys.argv[1])\n"
    "to = socket.inet_aton(sys.argv[2])\n"
    "udp = struct.pack('!HHHH', 4711, int(sys.argv[3]), 9, 0) + b'?'\n"
    "head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + source + to\n"
    "total = sum(struct.unpack('!10H', head))\n"
    "total = (total & 0xffff) + (total >> 16)\n"
    "head = head[:10] + struct.pack('!H', ~(total + (total >> 16)) & 0xffff) + head[12:]\n"
    "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
    "s.bind(('eth0', 0x0800))\n"
    "s.send(bytes.fromhex(sys.argv[4].replace(':', '') + '020000000002') + b'\\x08\\0' + head + "
    "udp)\n";

/* frame.py HEX: as it is. */
static const char frame[] = "import socket, sys\n"
			    "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
			    "s.bind(('eth0', 0x86dd))\n"
			    "s.send(bytes.fromhex(sys.argv[1]))\n";

static const char *why;
static char folder[] = "/tmp/lodge-rules-XXXXXX";
static pid_t servers[3], spaces[2];

__attribute__((format(printf, 1, 2))) static int sh(const char *fmt, ...)
{
	char text[1024];
	va_list args;
	int status;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	status = system(text);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void save(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* A process of `command`, which has begun when it has written something. */
static pid_t begin(const char *command)
{
	int fds[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		dup2(fds[1], 1);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
	return pid;
}

static void end(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static pid_t make_space(const char *variable)
{
	char text[16];
	pid_t pid = begin("exec unshare -n sh -c 'ip link set lo up; echo; exec sleep 1000'");

	snprintf(text, sizeof(text), "%d", (int)pid);
	setenv(variable, text, 1);
	return pid;
}

static int setup(void **state)
{
	(void)state;
	if (geteuid() || unshare(CLONE_NEWNET) ||
	    sh("ip link add x type veth peer y 2>/dev/null") ||
	    sh("ip link del x; nft list tables >/dev/null 2>&1")) {
		why = "needs root, ip and nft";
		return 0;
	}
	assert_non_null(mkdtemp(folder));
	setenv("D", folder, 1);
	save("server.py", server);
	save("client.py", client);
	save("arp.py", arp);
	save("spoof.py", spoof);
	save("frame.py", frame);
	spaces[0] = make_space("GUEST");
	spaces[1] = make_space("OUTSIDE");
	assert_int_equal(
	    sh("set -e; ip link set lo up\n"
	       "ip link add tap0 address 02:00:00:00:00:01 type veth peer name eth0 netns $GUEST\n"
	       "ip link add wan0 type veth peer name eth0 netns $OUTSIDE\n"
	       "ip addr add 100.115.92.1/30 dev tap0; ip link set tap0 up\n"
	       "ip addr add 192.0.2.1/24 dev wan0; ip link set wan0 up\n"
	       "for f in all default tap0 wan0; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; "
	       "done\n"							  //
	       IN_GUEST "ip link set eth0 address 02:00:00:00:00:02 up\n" //
	       IN_GUEST "ip addr add 100.115.92.2/30 dev eth0\n"	  //
	       IN_GUEST "ip route add default via 100.115.92.1\n"	  //
	       IN_OUT "ip addr add 192.0.2.9/24 dev eth0\n"		  //
	       IN_OUT "ip link set eth0 up\n"),
	    0);
	servers[0] = begin("exec " IN_GUEST "/usr/bin/python3 $D/server.py 7");
	servers[1] = begin("exec " IN_OUT "/usr/bin/python3 $D/server.py 7");
	servers[2] = begin("exec /usr/bin/python3 $D/server.py 7");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		end(servers[i]);
	for (int i = 0; i < 2; i++)
		end(spaces[i]);
	return sh("[ -z \"$D\" ] || rm -r \"$D\"");
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
	return (struct machine_net){.mac = {2, 0, 0, 0, 0, 2}, .addresses.guest = GUEST};
}

static struct rules *open_rules(const struct machine_net *net, bool guard)
{
	struct err err = ERR_INIT;
	struct rules *rules = NULL;

	if (rules_open(net, "tap0", HOST, guard, &rules, &err))
		fail_msg("%s", err.msg);
	return rules;
}

static bool has_tables(void)
{
	return sh("nft list tables | grep -q lodge-tap0") == 0;
}

static void test_nothing(void **state)
{
	struct machine_net net = net_of_guest();

	(void)state;
	need_space();
	assert_null(open_rules(&net, false));
}

static void test_nat(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	assert_int_not_equal(
	    sh(IN_GUEST "/usr/bin/python3 $D/client.py tcp 192.0.2.9 7 - 0.3 2>/dev/null"), 0);
	net.nat = true;
	rules = open_rules(&net, false);
	assert_int_equal(sh(IN_GUEST "/usr/bin/python3 $D/client.py tcp 192.0.2.9 7 192.0.2.1"), 0);
	assert_int_equal(sh(IN_GUEST "/usr/bin/python3 $D/client.py udp 192.0.2.9 7 192.0.2.1"), 0);
	rules_free(rules);
	assert_false(has_tables());
}

static void test_forwards(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	net.forwards[0] = (struct net_forward){.host_port = 8007, .guest_port = 7};
	net.forwards[1] = (struct net_forward){.udp = true, .host_port = 8007, .guest_port = 7};
	net.forwards[2] =
	    (struct net_forward){.host_address = 0xc0000201, .host_port = 8008, .guest_port = 7};
	net.nforwards = 3;
	rules = open_rules(&net, false);
	assert_int_equal(
	    sh(IN_OUT "/usr/bin/python3 $D/client.py tcp 192.0.2.1 8007 192.0.2.9 && " //
	       IN_OUT "/usr/bin/python3 $D/client.py udp 192.0.2.1 8007 192.0.2.9 && " //
	       IN_OUT "/usr/bin/python3 $D/client.py tcp 192.0.2.1 8008 192.0.2.9"),
	    0);
	/* the host itself, as the address of its own in the guest's network */
	assert_int_equal(sh("/usr/bin/python3 $D/client.py tcp 127.0.0.1 8007 100.115.92.1"), 0);
	assert_int_equal(sh("/usr/bin/python3 $D/client.py udp 127.0.0.1 8007 100.115.92.1"), 0);
	assert_int_equal(sh("/usr/bin/python3 $D/client.py tcp 192.0.2.1 8008 192.0.2.1"), 0);
	/* another address than the forward's */
	assert_int_not_equal(
	    sh("/usr/bin/python3 $D/client.py tcp 127.0.0.1 8008 100.115.92.1 2>/dev/null"), 0);
	rules_free(rules);
	assert_int_not_equal(
	    sh("/usr/bin/python3 $D/client.py tcp 127.0.0.1 8007 100.115.92.1 2>/dev/null"), 0);
}

/* Of the host's end, for the guest's own server: neither others nor the host itself. */
static void test_shares(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	net.share_ports[0] = 2049;
	net.share_ports[1] = 7;
	net.nshare_ports = 2;
	assert_int_equal(sh(IN_OUT "ip route add 100.115.92.0/30 via 192.0.2.1"), 0);
	assert_int_equal(sh(IN_OUT "/usr/bin/python3 $D/client.py tcp 100.115.92.1 7 192.0.2.9"),
			 0);
	rules = open_rules(&net, false);
	assert_int_equal(
	    sh(IN_GUEST "/usr/bin/python3 $D/client.py tcp 100.115.92.1 7 100.115.92.2"), 0);
	assert_int_not_equal(
	    sh(IN_OUT "/usr/bin/python3 $D/client.py tcp 100.115.92.1 7 - 0.3 2>/dev/null"), 0);
	assert_int_not_equal(
	    sh("/usr/bin/python3 $D/client.py tcp 100.115.92.1 7 - 0.3 2>/dev/null"), 0);
	/* another address of the guest's tap */
	assert_int_equal(sh(IN_GUEST "ip addr add 100.115.92.9/24 dev eth0"), 0);
	assert_int_equal(sh("ip route add 100.115.92.9/32 dev tap0"), 0);
	assert_int_not_equal(sh(IN_GUEST
				"/usr/bin/python3 -c \"import socket; s = socket.socket(); "
				"s.settimeout(0.3); s.bind(('100.115.92.9', 0)); "
				"s.connect(('100.115.92.1', 7))\" 2>/dev/null"),
			     0);
	assert_int_equal(sh(IN_GUEST "ip addr del 100.115.92.9/24 dev eth0"), 0);
	assert_int_equal(sh("ip route del 100.115.92.9/32 dev tap0"), 0);
	assert_int_equal(sh(IN_OUT "ip route del 100.115.92.0/30"), 0);
	/* its other ports are as they were */
	net.share_ports[1] = 2050;
	rules_free(rules);
	rules = open_rules(&net, false);
	assert_int_equal(sh("/usr/bin/python3 $D/client.py tcp 100.115.92.1 7 100.115.92.1"), 0);
	rules_free(rules);
	assert_false(has_tables());
}

/* What the host's UDP has taken so far, of the socket at port 7: its drops and queue do not tell.
 */
static unsigned long datagrams_in(void)
{
	unsigned long in = 0;
	char line[512];
	bool names = true;
	FILE *f = fopen("/proc/thread-self/net/snmp", "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "Udp: ", 5) != 0)
			continue;
		if (!names)
			in = strtoul(line + 5, NULL, 10);
		names = false;
	}
	fclose(f);
	return in;
}

/* A datagram from `source`, and an honest one after it: how many arrive. */
static unsigned long spoofed(const char *source, const char *to)
{
	unsigned long before = datagrams_in();

	assert_int_equal(
	    sh(IN_GUEST "/usr/bin/python3 $D/spoof.py %s %s 7 02:00:00:00:00:01", source, to), 0);
	assert_int_equal(
	    sh(IN_GUEST "/usr/bin/python3 $D/client.py udp 100.115.92.1 7 100.115.92.2"), 0);
	return datagrams_in() - before;
}

/* route_localnet, which forwards need, opens nothing */
static void test_loopback_closed(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	assert_int_equal(sh("echo 1 >/proc/sys/net/ipv4/conf/tap0/route_localnet"), 0);
	assert_int_equal(spoofed("100.115.92.2", "127.0.0.1"), 2);
	net.forwards[0] = (struct net_forward){.host_port = 8007, .guest_port = 7};
	net.nforwards = 1;
	rules = open_rules(&net, false);
	assert_int_equal(spoofed("100.115.92.2", "127.0.0.1"), 1);
	assert_int_equal(spoofed("127.0.0.1", "100.115.92.1"), 1);
	rules_free(rules);
}

static int arp_from(const char *ether, const char *mac, const char *address, const char *tag)
{
	return sh(IN_GUEST "/usr/bin/python3 $D/arp.py %s %s %s %s", ether, mac, address, tag);
}

static void test_guard(void **state)
{
	static const char good[] = "02:00:00:00:00:02", bad[] = "02:00:00:00:00:03";
	static const char address[] = "100.115.92.2", other[] = "192.0.2.77";
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	for (int on = 0; on <= 1; on++) {
		int dropped = on ? 3 : 0;

		rules = open_rules(&net, on);
		assert_int_equal(arp_from(good, good, address, ""), 0);
		assert_int_equal(arp_from(good, good, "0.0.0.0", ""), 0);
		assert_int_equal(arp_from(bad, good, address, ""), dropped);
		assert_int_equal(arp_from(good, bad, address, ""), dropped);
		assert_int_equal(arp_from(good, good, other, ""), dropped);
		assert_int_equal(arp_from(good, good, other, "81000000"), dropped);
		/* without a guard, the host believes the last of them */
		assert_int_equal(arp_from(good, good, address, ""), 0);
		assert_int_equal(spoofed("192.0.2.9", "100.115.92.1"), on ? 1 : 2);
		rules_free(rules);
	}
	assert_false(has_tables());
}

/* Containers behind the guest are let through the guard, and translated. */
static void test_containers(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	assert_int_equal(sh("ip route add 100.115.92.192/28 via 100.115.92.2"), 0);
	rules = open_rules(&net, true);
	assert_int_equal(spoofed("100.115.92.193", "100.115.92.1"), 1);
	rules_free(rules);
	net.addresses.containers = 0x64735cc0;
	rules = open_rules(&net, true);
	assert_int_equal(spoofed("100.115.92.193", "100.115.92.1"), 2);
	assert_int_equal(spoofed("100.115.92.207", "100.115.92.1"), 2);
	assert_int_equal(spoofed("100.115.92.208", "100.115.92.1"), 1);
	assert_int_equal(arp_from("02:00:00:00:00:02", "02:00:00:00:00:02", "100.115.92.193", ""),
			 3);
	rules_free(rules);
	assert_int_equal(sh(IN_GUEST "ip address add 100.115.92.193/32 dev lo"), 0);
	net.nat = true;
	rules = open_rules(&net, false);
	assert_int_equal(
	    sh(IN_GUEST
	       "/usr/bin/python3 -c 'import socket; s = socket.socket(); s.settimeout(10); "
	       "s.bind((\"100.115.92.193\", 0)); s.connect((\"192.0.2.9\", 7)); "
	       "assert s.recv(99) == b\"192.0.2.1\"'"),
	    0);
	rules_free(rules);
	assert_int_equal(sh(IN_GUEST "ip address del 100.115.92.193/32 dev lo"), 0);
	assert_int_equal(sh("ip route del 100.115.92.192/28"), 0);
}

/* Of a guest whose address nobody knows, on a bridge. */
static void test_guard_mac(void **state)
{
	static const char good[] = "02:00:00:00:00:02", bad[] = "02:00:00:00:00:03";
	struct machine_net net = net_of_guest();
	struct rules *rules;

	(void)state;
	need_space();
	net.addresses.guest = 0;
	rules = open_rules(&net, true);
	assert_int_equal(arp_from(good, good, "10.9.9.9", ""), 0);
	assert_int_equal(arp_from(bad, bad, "10.9.9.9", ""), 3);
	assert_int_equal(arp_from(good, bad, "10.9.9.9", ""), 3);
	rules_free(rules);
}

/* Of each frame the rules say what the device says; behind them a table counts what they let pass.
 */
static void test_guard_ipv6(void **state)
{
	struct machine_net net = net_of_guest();
	struct frame6 cases[FRAMES6_MAX];
	const unsigned n = frames6_build(cases, net.mac);
	struct rules *rules;

	(void)state;
	need_space();
	net.addresses.nipv6 = 1;
	memcpy(net.addresses.ipv6[0].bytes, frame6_own, 16);
	rules = open_rules(&net, true);
	assert_int_equal(sh("nft 'add table netdev watch; add counter netdev watch seen; "
			    "add chain netdev watch in { type filter hook ingress device tap0 "
			    "priority 0; }; add rule netdev watch in ether saddr "
			    "02:00:00:00:00:02 ip6 hoplimit 255 counter name seen'"),
			 0);
	for (unsigned i = 0; i < n; i++) {
		char hex[2 * sizeof(cases[i].bytes) + 1];
		bool passed;

		for (size_t k = 0; k < cases[i].len; k++)
			snprintf(hex + 2 * k, 3, "%02x", cases[i].bytes[k]);
		assert_int_equal(sh("nft reset counter netdev watch seen >/dev/null"), 0);
		assert_int_equal(sh(IN_GUEST "/usr/bin/python3 $D/frame.py %s", hex), 0);
		passed = !sh("nft list counter netdev watch seen | grep -q 'packets 1 '");
		if (passed != cases[i].good)
			fail_msg("%s", cases[i].name);
	}
	rules_free(rules);
	assert_int_equal(sh("nft delete table netdev watch"), 0);
}

/* Killed, the process leaves neither nft nor tables; the next may have them at once. */
static void test_killed(void **state)
{
	struct machine_net net = net_of_guest();
	struct rules *rules;
	int fds[2];
	pid_t pid;
	char c;

	(void)state;
	need_space();
	net.nat = true;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		rules = NULL;
		c = rules_open(&net, "tap0", HOST, true, &rules, NULL) ? 'n' : 'y';
		(void)!write(fds[1], &c, 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(c, 'y');
	assert_true(has_tables());
	/* nobody's child: init's */
	assert_int_equal(sh("[ -z \"$(pgrep -P %d)\" ]", (int)pid), 0);
	end(pid);
	rules = open_rules(&net, true);
	assert_true(has_tables());
	rules_free(rules);
	assert_false(has_tables());
}

static void test_refused(void **state)
{
	struct machine_net net = net_of_guest();
	struct err err = ERR_INIT;
	struct rules *rules = NULL, *first;

	(void)state;
	need_space();
	first = open_rules(&net, true);
	assert_int_equal(rules_open(&net, "tap0", 0, true, &rules, &err), -EPERM);
	assert_non_null(strstr(err.msg, "rules of tap0: nft: Error: "));
	assert_null(strchr(err.msg, '\n'));
	rules_free(first);
	err = (struct err)ERR_INIT;
	assert_int_equal(rules_open(&net, "nosuch0", 0, true, &rules, &err), -ENODEV);
	err = (struct err)ERR_INIT;
	assert_int_equal(rules_open(&net, "a\";b", 0, true, &rules, &err), -EINVAL);
	err = (struct err)ERR_INIT;
	net.addresses.guest = 0;
	net.nat = true;
	assert_int_equal(rules_open(&net, "tap0", 0, true, &rules, &err), -EINVAL);
	assert_null(rules);
	assert_int_equal(sh("nft list tables | grep lodge"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nothing),	    cmocka_unit_test(test_nat),
	    cmocka_unit_test(test_forwards),	    cmocka_unit_test(test_shares),
	    cmocka_unit_test(test_loopback_closed), cmocka_unit_test(test_containers),
	    cmocka_unit_test(test_guard),	    cmocka_unit_test(test_guard_mac),
	    cmocka_unit_test(test_guard_ipv6),	    cmocka_unit_test(test_killed),
	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
