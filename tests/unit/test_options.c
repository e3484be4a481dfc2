/*
 * control/options: what arguments of `lodge run` mean, and what is said about wrong ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "control/options/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 80
#define BOOT	 "--kernel", "k", "--root", "path=r,format=raw"

struct parsed {
	struct run_options options;
	struct err err;
	int rc;
};

/* Parses the words up to NULL. */
static void parse(struct parsed *p, ...)
{
	char *argv[ARGS_MAX];
	char run[] = "run";
	int argc = 0;
	va_list ap;

	argv[argc++] = run;
	va_start(ap, p);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	memset(p, 0, sizeof(*p));
	run_options_init(&p->options);
	p->rc = run_options_parse(&p->options, argc, argv, &p->err);
	if (p->rc)
		print_message("%s\n", p->err.msg);
}

/* The last words fail, and the message has `part`; it is one line without a full stop. */
#define assert_refused(part, ...)                          \
	do {                                               \
		struct parsed p_;                          \
		parse(&p_, __VA_ARGS__, NULL);             \
		assert_int_equal(p_.rc, -EINVAL);          \
		assert_int_equal(p_.err.code, EINVAL);     \
		assert_non_null(strstr(p_.err.msg, part)); \
		assert_null(strchr(p_.err.msg, '\n'));     \
		run_options_fini(&p_.options);             \
	} while (0)

static void defaults(void **state)
{
	const struct machine_config *m;
	struct parsed p;

	(void)state;
	parse(&p, BOOT, NULL);
	m = &p.options.machine;
	assert_int_equal(p.rc, 0);
	assert_string_equal(m->kernel, "k");
	assert_int_equal(m->cpus, 1);
	assert_int_equal(m->memory_bytes, 512 * MIB);
	assert_int_equal(m->transport, MACHINE_PCI);
	assert_int_equal(m->initramfs, MACHINE_INITRAMFS_AUTO);
	assert_int_equal(m->loop_backend, LOOP_AUTO);
	assert_true(m->console);
	assert_true(m->rng);
	assert_true(m->has_root);
	assert_int_equal(m->ndisks, 1);
	assert_string_equal(m->disks[0].image.path, "r");
	assert_false(m->disks[0].image.read_only);
	assert_int_equal(p.options.console, RUN_CONSOLE_STDIO);
	assert_int_equal(p.options.stop_timeout_s, 10);
	run_options_fini(&p.options);
}

static void agent(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, BOOT, "--agent", NULL);
	assert_int_equal(p.rc, 0);
	assert_true(p.options.machine.agent && p.options.machine.vsock.on);
	assert_int_equal(strlen(p.options.machine.agent_token), 32);
	run_options_fini(&p.options);
	parse(&p, BOOT, NULL);
	assert_false(p.options.machine.agent || p.options.machine.vsock.on);
	run_options_fini(&p.options);
	assert_refused("own initramfs", BOOT, "--agent", "--initrd", "i");
	assert_refused("own initramfs", BOOT, "--agent", "--initramfs", "none");
}

static void every_option(void **state)
{
	const struct machine_config *m;
	struct parsed p;

	(void)state;
	parse(&p, BOOT, "--cpus=4", "--memory", "2G", "--cmdline", "--odd a=b", "--initrd", "i",
	      "--initramfs", "none", "--modules", "/m", "--init", "/bin/sh", "--cpu",
	      "host,-avx,-x2apic", "--console", "file:log", "--transport", "mmio", "--hugepages",
	      "2M", "--prealloc", "--io", "epoll", "--log", "debug", "--no-rng", "--stop-timeout",
	      "0", NULL);
	m = &p.options.machine;
	assert_int_equal(p.rc, 0);
	assert_int_equal(m->cpus, 4);
	assert_int_equal(m->memory_bytes, 2 * GIB);
	assert_string_equal(m->cmdline, "--odd a=b");
	assert_string_equal(m->initrd, "i");
	assert_int_equal(m->initramfs, MACHINE_INITRAMFS_NONE);
	assert_string_equal(m->modules, "/m");
	assert_string_equal(m->init, "/bin/sh");
	assert_int_equal(m->ncpu_masked, 2);
	assert_string_equal(m->cpu_masked[0], "avx");
	assert_string_equal(m->cpu_masked[1], "x2apic");
	assert_int_equal(p.options.console, RUN_CONSOLE_FILE);
	assert_string_equal(p.options.console_path, "log");
	assert_int_equal(m->transport, MACHINE_MMIO);
	assert_int_equal(m->hugepages, MACHINE_PAGES_2M);
	assert_true(m->prealloc);
	assert_int_equal(m->loop_backend, LOOP_EPOLL);
	assert_int_equal(p.options.log_level, LOG_LEVEL_DEBUG);
	assert_false(m->rng);
	assert_int_equal(p.options.stop_timeout_s, 0);
	run_options_fini(&p.options);
}

static void later_options_replace_earlier(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, BOOT, "--memory", "1G", "--memory", "2G", "--kernel", "k2", "--cpu", "host,-avx",
	      "--cpu", "host", NULL);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.options.machine.memory_bytes, 2 * GIB);
	assert_string_equal(p.options.machine.kernel, "k2");
	assert_int_equal(p.options.machine.ncpu_masked, 0);
	run_options_fini(&p.options);
}

static void disk_keys(void **state)
{
	const struct machine_disk *d;
	struct parsed p;

	(void)state;
	parse(&p, "--kernel", "k", "--disk",
	      "path=a,,b=c,format=raw,ro=on,direct=on,discard=off,cache=writethrough,"
	      "serial=S-1,queues=8,bytes_per_s=20M,ops_per_s=500",
	      "--root", "path=r,format=raw,fstype=xfs,partition=2,ro=on", "--disk",
	      "format=raw,path=/dev/x", NULL);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.options.machine.ndisks, 3);

	/* the root is the first disk wherever it stood */
	d = &p.options.machine.disks[0];
	assert_string_equal(d->image.path, "r");
	assert_true(d->image.read_only);
	assert_true(p.options.machine.root_read_only);
	assert_string_equal(p.options.machine.root_fstype, "xfs");
	assert_int_equal(p.options.machine.root_partition, 2);

	d = &p.options.machine.disks[1];
	assert_string_equal(d->image.path, "a,b=c");
	assert_true(d->image.read_only);
	assert_true(d->image.direct);
	assert_true(d->image.no_discard);
	assert_true(d->write_through);
	assert_string_equal(d->serial, "S-1");
	assert_int_equal(d->queues, 8);
	assert_int_equal(d->bytes_per_s, 20 << 20);
	assert_int_equal(d->ops_per_s, 500);

	d = &p.options.machine.disks[2];
	assert_string_equal(d->image.path, "/dev/x");
	assert_false(d->image.no_discard);
	assert_false(d->write_through);
	assert_int_equal(d->bytes_per_s, 0);
	assert_int_equal(d->ops_per_s, 0);
	run_options_fini(&p.options);
}

static void wrong_disks(void **state)
{
	(void)state;
	assert_refused("--root: the format of r is not stated and is never guessed; add format=raw",
		       "--kernel", "k", "--root", "path=r");
	assert_refused("say --disk path=FILE,format=raw", BOOT, "--disk", "format=raw");
	assert_refused("it knows raw", BOOT, "--disk", "path=x,format=vmdk");
	assert_refused("did you mean format?", BOOT, "--disk", "path=x,fromat=raw");
	assert_refused("say path=disk.img", BOOT, "--disk", "disk.img");
	assert_refused("'ro' lacks its value", BOOT, "--disk", "path=x,format=raw,ro");
	assert_refused("'maybe' is neither on nor off", BOOT, "--disk", "path=x,ro=maybe");
	assert_refused("'path' is given twice", BOOT, "--disk", "path=x,path=y,format=raw");
	assert_refused("'partition' belongs to --root", BOOT, "--disk", "path=x,partition=1");
	assert_refused("partition: '0'", "--kernel", "k", "--root", "path=r,partition=0");
	assert_refused("path: is empty", BOOT, "--disk", "path=,format=raw");
	assert_refused("no file system type", "--kernel", "k", "--root", "path=r,fstype=a b");
	assert_refused("21 characters; 1 to 20", BOOT, "--disk",
		       "path=x,format=raw,serial=123456789012345678901");
	assert_refused("printable ASCII", BOOT, "--disk", "path=x,format=raw,serial=a b");
	assert_refused("number from 1 to 8", BOOT, "--disk", "path=x,queues=9");
	assert_refused("bytes_per_s: '0' is no rate", BOOT, "--disk", "path=x,bytes_per_s=0");
	assert_refused("bytes_per_s: '99999999T' is no rate", BOOT, "--disk",
		       "path=x,bytes_per_s=99999999T");
	assert_refused("ops_per_s: '-1' is no rate", BOOT, "--disk", "path=x,ops_per_s=-1");
	assert_refused("key=value", BOOT, "--disk", "path=x,format=raw,");
	assert_refused("key=value", BOOT, "--disk", "");
	assert_refused("given twice", BOOT, "--root", "path=q,format=raw");
}

static void net_keys(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0x12, 0x34, 0x56};
	const struct machine_net *n;
	struct parsed p;

	(void)state;
	parse(&p, BOOT, "--net",
	      "pool,subnets=10.0.0.0/8,nat=on,forward=tcp:8022:22,forward=udp:192.0.2.1:53:5353,"
	      "dns=192.0.2.2,dns=192.0.2.3,mac=02:00:00:12:34:56,mtu=9000,queues=4,"
	      "backend=builtin,rx_bytes_per_s=10M,tx_packets_per_s=5000",
	      "--net",
	      "bridge=br0,address=192.0.2.6/24,gateway=192.0.2.1,address6=2001:db8::6/64,"
	      "address6=fd00::6/48,spoof=on",
	      NULL);
	assert_int_equal(p.rc, 0);
	assert_int_equal(p.options.machine.nnets, 2);
	n = &p.options.machine.nets[0];
	assert_int_equal(n->kind, NET_POOL);
	assert_int_equal(n->pool, 0x0a000000);
	assert_int_equal(n->pool_prefix, 8);
	assert_true(n->nat);
	assert_int_equal(n->nforwards, 2);
	assert_false(n->forwards[0].udp);
	assert_int_equal(n->forwards[0].host_port, 8022);
	assert_int_equal(n->forwards[0].guest_port, 22);
	assert_true(n->forwards[1].udp);
	assert_int_equal(n->forwards[1].host_address, 0xc0000201);
	assert_int_equal(n->addresses.ndns, 2);
	assert_int_equal(n->addresses.dns[1], 0xc0000203);
	assert_memory_equal(n->mac, mac, 6);
	assert_int_equal(n->mtu, 9000);
	assert_int_equal(n->queues, 4);
	assert_int_equal(n->backend, NET_BACKEND_BUILTIN);
	assert_int_equal(n->rx_bytes_per_s, 10 << 20);
	assert_int_equal(n->tx_packets_per_s, 5000);
	assert_false(n->may_spoof);
	n = &p.options.machine.nets[1];
	assert_int_equal(n->kind, NET_BRIDGE);
	assert_string_equal(n->name, "br0");
	assert_int_equal(n->addresses.guest, 0xc0000206);
	assert_int_equal(n->addresses.prefix, 24);
	assert_int_equal(n->addresses.nipv6, 2);
	assert_int_equal(n->addresses.ipv6[0].bytes[15], 6);
	assert_int_equal(n->addresses.ipv6[1].prefix, 48);
	assert_true(n->may_spoof);
	run_options_fini(&p.options);
}

static void wrong_nets(void **state)
{
	(void)state;
	assert_refused("no kind is said", BOOT, "--net", "mtu=1500");
	assert_refused("is a second kind", BOOT, "--net", "pool,passt");
	assert_refused("did you mean", BOOT, "--net", "pol");
	assert_refused("'a/b' is no name of an interface", BOOT, "--net", "tap=a/b");
	assert_refused("no number of a descriptor", BOOT, "--net", "fd=2");
	assert_refused("is no address/bits with 8 to 30 bits", BOOT, "--net",
		       "pool,subnets=10.0.0.0/31");
	assert_refused("'10.0.0' is no IPv4 address", BOOT, "--net", "pool,subnets=10.0.0/8");
	assert_refused("is not tcp:PORT:PORT", BOOT, "--net", "pool,forward=tcp:0:22");
	assert_refused("is not tcp:PORT:PORT", BOOT, "--net", "pool,forward=sctp:1:1");
	assert_refused("'::1' is no IPv6 address/bits", BOOT, "--net", "tap=a,address6=::1");
	assert_refused("is no IPv6 address/bits", BOOT, "--net", "tap=a,address6=ff02::1/16");
	assert_refused("is no IPv6 address/bits", BOOT, "--net", "tap=a,address6=::1/129");
	assert_refused("there are 4 already", BOOT, "--net",
		       "tap=a,address6=::1/64,address6=::2/64,address6=::3/64,address6=::4/64,"
		       "address6=::5/64");
	assert_refused("passt has IPv4 alone", BOOT, "--net", "passt,address6=fd00::2/64");
	assert_refused("address= is the pool's to choose", BOOT, "--net",
		       "pool,address=10.0.0.2/30");
	assert_refused("gateway= needs address=", BOOT, "--net", "tap=a,gateway=10.0.0.1");
	assert_refused("nat=on belongs to pool", BOOT, "--net", "tap=a,nat=on");
	assert_refused("forward= belongs to pool and passt", BOOT, "--net",
		       "bridge=b,forward=tcp:1:1");
	assert_refused("no address of one interface", BOOT, "--net", "pool,mac=03:00:00:00:00:01");
	assert_refused("is not as 02:00:00:12:34:56", BOOT, "--net", "pool,mac=2:0:0:0:0:1");
	assert_refused("queues=2: passt has one", BOOT, "--net", "passt,queues=2");
	assert_refused("limits belong to backend=builtin", BOOT, "--net",
		       "pool,backend=vhost,rx_bytes_per_s=1M");
	assert_refused("none goes with no other", BOOT, "--net", "pool", "--net", "none");
}

static void one_file_two_writers(void **state)
{
	struct parsed p;

	(void)state;
	assert_refused("r is given as two disks", BOOT, "--disk", "path=r,format=raw,ro=on");
	parse(&p, BOOT, "--disk", "path=x,format=raw,ro=on", "--disk", "path=x,format=raw,ro=on",
	      NULL);
	assert_int_equal(p.rc, 0);
	run_options_fini(&p.options);
}

static void too_many_disks(void **state)
{
	char *argv[ARGS_MAX];
	char words[MACHINE_DISKS_MAX + 1][32];
	struct run_options options;
	struct err err = ERR_INIT;
	char run[] = "run", disk[] = "--disk";
	int argc = 0;

	(void)state;
	argv[argc++] = run;
	for (int i = 0; i <= MACHINE_DISKS_MAX; i++) {
		snprintf(words[i], sizeof(words[i]), "path=d%d,format=raw", i);
		argv[argc++] = disk;
		argv[argc++] = words[i];
	}
	run_options_init(&options);
	assert_int_equal(run_options_parse(&options, argc, argv, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "more than 24 disks"));
	run_options_fini(&options);
}

static void wrong_options(void **state)
{
	(void)state;
	assert_refused("unknown option --memroy; did you mean --memory?", BOOT, "--memroy", "1G");
	assert_refused("unknown option --network", BOOT, "--network");
	assert_refused("`lodge run --help`", BOOT, "--network");
	assert_refused("options are long", BOOT, "-m", "512");
	assert_refused("unexpected argument 'vmlinuz'", "vmlinuz");
	assert_refused("unexpected argument ''", "");
	assert_refused("unknown option --", "--");
	assert_refused("--kernel lacks its value", "--kernel");
	assert_refused("--kernel lacks its value (--root follows)", "--kernel", "--root", "x");
	assert_refused("--kernel: is empty", "--kernel", "");
	assert_refused("--prealloc takes no value", BOOT, "--prealloc=on");
	assert_refused("--cpus: '0' is not a number from 1 to 64", BOOT, "--cpus", "0");
	assert_refused("--cpus: '65'", BOOT, "--cpus", "65");
	assert_refused("the only model is host", BOOT, "--cpu", "qemu64");
	assert_refused("say -feature", BOOT, "--cpu", "host,avx");
	assert_refused("say -feature", BOOT, "--cpu", "host,");
	assert_refused("say -feature", BOOT, "--cpu", "host,-");
	assert_refused("none of stdio, file:PATH and none", BOOT, "--console", "pty");
	assert_refused("say file:PATH", BOOT, "--console", "file:");
	assert_refused("neither pci nor mmio", BOOT, "--transport", "isa");
	assert_refused("neither 2M nor 1G", BOOT, "--hugepages", "4K");
	assert_refused("none of auto, io_uring and epoll", BOOT, "--io", "aio");
	assert_refused("none of error, warn, info and debug", BOOT, "--log", "loud");
	assert_refused("--initrd FILE", BOOT, "--initramfs", "file");
	assert_refused("no absolute path", BOOT, "--init", "sh");
	assert_refused("control characters", BOOT, "--init", "/bin/sh\nroot=/dev/x");
	assert_refused("--stop-timeout", BOOT, "--stop-timeout", "forever");
}

static void wrong_memory(void **state)
{
	(void)state;
	assert_refused("not a size; say for example 512M", BOOT, "--memory", "lots");
	assert_refused("less than 64M; sizes without a unit are bytes", BOOT, "--memory", "512");
	assert_refused("'63M' is less than 64M", BOOT, "--memory", "63M");
	assert_refused("more than 16T", BOOT, "--memory", "17T");
	assert_refused("more than 16T", BOOT, "--memory", "99999999999999999999G");
	assert_refused("whole number of MiB", BOOT, "--memory", "65537K");
	assert_refused("not a multiple of the huge pages' size", BOOT, "--memory", "513M",
		       "--hugepages", "2M");
	assert_refused("not a multiple of the huge pages' size", BOOT, "--hugepages", "1G");
}

static void something_to_boot(void **state)
{
	struct parsed p;

	(void)state;
	assert_refused("no kernel; say --kernel FILE", "--root", "path=r,format=raw");
	assert_refused("nothing to boot into", "--kernel", "k");
	parse(&p, "--kernel", "k", "--initrd", "i", NULL);
	assert_int_equal(p.rc, 0);
	run_options_fini(&p.options);
	parse(&p, "--kernel", "k", "--initramfs", "none", NULL);
	assert_int_equal(p.rc, 0);
	run_options_fini(&p.options);
}

static void long_command_line(void **state)
{
	char text[MACHINE_CMDLINE_MAX + 2];
	struct parsed p;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[MACHINE_CMDLINE_MAX + 1] = '\0';
	assert_refused("--cmdline: 2048 bytes; a kernel takes 2047", BOOT, "--cmdline", text);
	text[MACHINE_CMDLINE_MAX] = '\0';
	parse(&p, BOOT, "--cmdline", text, NULL);
	assert_int_equal(p.rc, 0);
	run_options_fini(&p.options);
}

static void help_wins(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--help", "--nonsense", NULL);
	assert_int_equal(p.rc, 0);
	assert_true(p.options.help);
	run_options_fini(&p.options);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults),
	    cmocka_unit_test(agent),
	    cmocka_unit_test(every_option),
	    cmocka_unit_test(later_options_replace_earlier),
	    cmocka_unit_test(disk_keys),
	    cmocka_unit_test(wrong_disks),
	    cmocka_unit_test(net_keys),
	    cmocka_unit_test(wrong_nets),
	    cmocka_unit_test(one_file_two_writers),
	    cmocka_unit_test(too_many_disks),
	    cmocka_unit_test(wrong_options),
	    cmocka_unit_test(wrong_memory),
	    cmocka_unit_test(something_to_boot),
	    cmocka_unit_test(long_command_line),
	    cmocka_unit_test(help_wins),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
