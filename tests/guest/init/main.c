/*
 * First process of a test guest: mounts, modules, then the commands of the kernel command line.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	command_fn *run;
} commands[] = {
    {"hello", cmd_hello},
    {"button", cmd_button},
    {"cat", cmd_cat},
    {"write", cmd_write},
    {"disks", cmd_disks},
    {"dmesg", cmd_dmesg},
    {"irqs", cmd_irqs},
    {"cpus", cmd_cpus},
    {"memory", cmd_memory},
    {"flag", cmd_flag},
    {"clock", cmd_clock},
    {"rng", cmd_rng},
    {"poweroff", cmd_poweroff},
    {"reboot", cmd_reboot},
    {"panic", cmd_panic},
    {"exit", cmd_exit},
    {"sleep", cmd_sleep},
    {"spin", cmd_spin},
    {"wait", cmd_wait},
    {"flood", cmd_flood},
    {"drain", cmd_drain},
    {"pread", cmd_pread},
    {"pwrite", cmd_pwrite},
    {"fsync", cmd_fsync},
    {"discard", cmd_discard},
    {"zeroout", cmd_zeroout},
    {"unbind", cmd_unbind},
    {"blkio", cmd_blkio},
    {"ports", cmd_ports},
    {"undecoded", cmd_undecoded},
    {"uart", cmd_uart},
    {"config", cmd_config},
    {"rings", cmd_rings},
    {"garbage", cmd_garbage},
    {"inflight", cmd_inflight},
    {"blkverify", cmd_blkverify},
    {"registers", cmd_registers},
    {"vsockecho", cmd_vsockecho},
    {"vsockcall", cmd_vsockcall},
    {"vsockrefused", cmd_vsockrefused},
    {"vsockhold", cmd_vsockhold},
    {"vsockrebind", cmd_vsockrebind},
};

static const char *running = "init";

static void vsay(const char *what, const char *format, va_list ap)
{
	char line[4096]; /* a whole kernel command line and more */
	int head = snprintf(line, sizeof(line), "@ %s", what);
	int len = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, format, ap);

	if (len < 0)
		return;
	len += head;
	if (len > (int)sizeof(line) - 2)
		len = (int)sizeof(line) - 2;
	line[len++] = '\n';
	for (int done = 0; done < len;) {
		ssize_t n = write(STDOUT_FILENO, line + done, (size_t)(len - done));

		if (n < 0 && errno != EINTR)
			return;
		done += n > 0 ? (int)n : 0;
	}
}

void say(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsay("", format, ap);
	va_end(ap);
}

int fail(const char *format, ...)
{
	char what[64];
	va_list ap;

	snprintf(what, sizeof(what), "fail %s: ", running);
	va_start(ap, format);
	vsay(what, format, ap);
	va_end(ap);
	return -1;
}

uint64_t arg_number(const struct args *args, unsigned n, uint64_t otherwise)
{
	uint64_t value;
	char *end;

	if (n >= args->n || !*args->v[n])
		return otherwise;
	value = strtoull(args->v[n], &end, 0);
	switch (*end) {
	case 'G':
		value <<= 10; /* fallthrough */
		__attribute__((fallthrough));
	case 'M':
		value <<= 10;
		__attribute__((fallthrough));
	case 'K':
		value <<= 10;
	}
	return value;
}

long read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -1;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	if (n < 0)
		return -1;
	while (len && buf[len - 1] == '\n')
		len--;
	buf[len] = 0;
	return (long)len;
}

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;
	int saved;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	saved = errno;
	close(fd);
	errno = saved;
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t random_next(uint64_t *state)
{
	uint64_t x = *state ? *state : 88172645463325252u;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 2685821657736338717u;
}

/* A kernel without a console leaves these closed: what is opened next would get the reports. */
static void open_standard(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/null", O_RDWR);
}

/* Mounts that are there already (a root that another init has set up) stay as they are. */
static void mount_all(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

/* /modules/order: one file name of /modules a line, dependencies first. */
static void load_modules(void)
{
	static char order[8192];
	char path[256], *save;

	if (read_file("/modules/order", order, sizeof(order)) <= 0)
		return;
	for (char *name = strtok_r(order, "\n", &save); name; name = strtok_r(NULL, "\n", &save)) {
		int fd;

		snprintf(path, sizeof(path), "/modules/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			fail("module %s: %s", name, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
}

/* NAME[:ARG,ARG...], taken apart in place. */
static void run(char *word)
{
	struct args args = {0};
	char *list = strchr(word, ':'), *save;

	if (list) {
		*list++ = 0;
		for (char *arg = strtok_r(list, ",", &save); arg && args.n < ARGS_MAX;
		     arg = strtok_r(NULL, ",", &save))
			args.v[args.n++] = arg;
	}
	running = word;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, word)) {
			commands[i].run(&args);
			return;
		}
	fail("no such command");
}

int main(void)
{
	static char cmdline[4096];
	char *at, *end, *save;

	mount_all();
	open_standard();
	load_modules();
	if (read_file("/proc/cmdline", cmdline, sizeof(cmdline)) < 0) {
		fail("/proc/cmdline: %s", strerror(errno));
		cmdline[0] = 0;
	}
	at = strstr(cmdline, " test=");
	if (at) {
		at += strlen(" test=");
		end = at + strcspn(at, " \n");
		*end = 0;
		for (char *word = strtok_r(at, "+", &save); word; word = strtok_r(NULL, "+", &save))
			run(word);
	} else {
		fail("no test= on the command line");
	}
	running = "poweroff";
	cmd_poweroff(&(struct args){0});
	return 0;
}
