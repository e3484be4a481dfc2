/*
 * The guest's side of the benchmarks: /init of an initramfs, static, without a shell.
 *
 * It prints one line and then does what `bench=` on the kernel command line says:
 *   idle               sleeps (memory is measured from outside)
 *   off                switches the machine off (the default)
 *   io=PATTERN,SECONDS PATTERN is randread, randwrite (4 KiB, depth 32), seqread or seqwrite (1
 * MiB, depth 4) on /dev/vda with O_DIRECT and Linux AIO; several with '+' between
 *   vsock              serves port 9000, a connection after the other, by its first byte: 'i' takes
 * all, 'o' gives all that is taken, 'p' echoes
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
/* after sys/socket.h, whose types it needs */
#include <linux/vm_sockets.h>

#define VSOCK_PORT  9000
#define VSOCK_BLOCK 65536
#define DEPTH_MAX   32
#ifndef BLKGETSIZE64
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)
#endif

struct pattern {
	const char *name;
	size_t block;
	unsigned depth;
	bool write, random;
};

static const struct pattern patterns[] = {
    {"randread", 4096, 32, false, true},   {"randwrite", 4096, 32, true, true},
    {"randread1", 4096, 1, false, true},   {"seqread", 1 << 20, 4, false, false},
    {"seqwrite", 1 << 20, 4, true, false},
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int submit(aio_context_t ctx, struct iocb *cb, const struct pattern *p, uint64_t nblocks,
		  uint64_t *position, uint64_t *seed)
{
	uint64_t block = p->random ? next_random(seed) % nblocks : (*position)++ % nblocks;

	cb->aio_offset = (int64_t)(block * p->block);
	return (int)syscall(SYS_io_submit, ctx, 1L, &cb);
}

/* Runs one pattern; prints "io NAME OPS NS". */
static void run_pattern(const struct pattern *p, unsigned seconds)
{
	static struct iocb cbs[DEPTH_MAX];
	struct io_event events[DEPTH_MAX];
	aio_context_t ctx = 0;
	uint64_t size = 0, position = 0, seed = 88172645463325252u, done = 0, start, end;
	int fd = open("/dev/vda", O_RDWR | O_DIRECT);
	char *mem = mmap(NULL, p->block * p->depth, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) || size < p->block || mem == MAP_FAILED ||
	    syscall(SYS_io_setup, DEPTH_MAX, &ctx)) {
		printf("io %s failed: %s\n", p->name, strerror(errno));
		return;
	}
	start = now_ns();
	end = start + (uint64_t)seconds * 1000000000u;
	for (unsigned i = 0; i < p->depth; i++) {
		cbs[i] = (struct iocb){
		    .aio_lio_opcode = p->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		    .aio_fildes = (uint32_t)fd,
		    .aio_buf = (uintptr_t)(mem + i * p->block),
		    .aio_nbytes = p->block,
		};
		submit(ctx, &cbs[i], p, size / p->block, &position, &seed);
	}
	while (now_ns() < end) {
		long n = syscall(SYS_io_getevents, ctx, 1L, (long)p->depth, events, NULL);

		for (long i = 0; i < n; i++) {
			if (events[i].res != (int64_t)p->block) {
				printf("io %s failed: result %lld\n", p->name,
				       (long long)events[i].res);
				return;
			}
			done++;
			submit(ctx, (struct iocb *)(uintptr_t)events[i].obj, p, size / p->block,
			       &position, &seed);
		}
	}
	printf("io %s %llu %llu\n", p->name, (unsigned long long)done,
	       (unsigned long long)(now_ns() - start));
	syscall(SYS_io_destroy, ctx); /* waits for what is in flight */
	close(fd);
}

static void run_io(char *spec)
{
	char *comma = strchr(spec, ',');
	unsigned seconds = comma ? (unsigned)atoi(comma + 1) : 5;

	if (comma)
		*comma = 0;
	for (char *name = strtok(spec, "+"); name; name = strtok(NULL, "+"))
		for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
			if (!strcmp(patterns[i].name, name))
				run_pattern(&patterns[i], seconds);
}

static void serve_stream(int fd)
{
	static char block[VSOCK_BLOCK];
	char what = 0;
	ssize_t n = read(fd, &what, 1);

	while (n > 0) {
		n = what == 'o' ? 1 : read(fd, block, sizeof(block));
		if (n > 0 && what != 'i')
			n = send(fd, block, what == 'o' ? sizeof(block) : (size_t)n, MSG_NOSIGNAL);
	}
	if (what == 'i') /* now all of it is here */
		send(fd, block, 1, MSG_NOSIGNAL);
	close(fd);
}

static void serve_vsock(void)
{
	const struct sockaddr_vm any = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = VSOCK_PORT};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (const struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 8)) {
		printf("vsock failed: %s\n", strerror(errno));
		return;
	}
	puts("bench-init: vsock");
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd >= 0)
			serve_stream(fd);
	}
}

int main(void)
{
	static char cmdline[4096];
	char *bench;
	int fd;

	setvbuf(stdout, NULL, _IONBF, 0);
	puts("bench-init: first line");
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd >= 0 && read(fd, cmdline, sizeof(cmdline) - 1) < 0)
		perror("bench-init: /proc/cmdline");
	bench = strstr(cmdline, "bench=");
	if (bench) {
		bench += strlen("bench=");
		bench[strcspn(bench, " \n")] = 0;
		if (!strcmp(bench, "idle")) {
			puts("bench-init: idle");
			for (;;)
				pause();
		}
		if (!strncmp(bench, "io=", 3))
			run_io(bench + 3);
		if (!strcmp(bench, "vsock"))
			serve_vsock();
	}
	puts("bench-init: done");
	reboot(RB_POWER_OFF);
	return 1;
}
