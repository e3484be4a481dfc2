/* disk/raw: which files are taken, what is said about the others, and who may share one. */
#include "tests/unit/raw_fixture.h"

#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static char dir[200];

static int setup_dir(void **state)
{
	(void)state;
	alarm(WATCHDOG_S);
	return temp_dir(dir, sizeof(dir));
}

static int teardown_dir(void **state)
{
	char cmd[256];

	(void)state;
	alarm(0);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

static const char *in_dir(const char *name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int try_open(struct image_opts opts, struct err *err)
{
	struct image *img = NULL;
	int r;

	*err = (struct err)ERR_INIT;
	r = image_open(&opts, &img, err);
	if (!r) {
		image_close(img);
		return 0;
	}
	assert_null(img);
	assert_int_equal(err->code, -r);
	/* every message names the file */
	assert_non_null(strstr(err->msg, opts.path));
	return r;
}

static void names_of_formats(void **state)
{
	enum image_format format = (enum image_format)99;

	(void)state;
	assert_int_equal(image_format_parse("raw", &format), 0);
	assert_int_equal(format, IMAGE_RAW);
	assert_string_equal(image_format_name(IMAGE_RAW), "raw");
	assert_int_equal(image_format_parse("vhdx", &format), -EINVAL);
	assert_int_equal(image_format_parse("", &format), -EINVAL);
}

static void missing(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(try_open((struct image_opts){.path = in_dir("none")}, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "does not exist"));
}

static void not_a_disk(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct err err;
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(try_open((struct image_opts){.path = dir}, &err), -EISDIR);
	assert_non_null(strstr(err.msg, "directory"));

	assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
	assert_int_equal(try_open((struct image_opts){.path = in_dir("fifo")}, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "pipe"));

	assert_int_equal(chdir(dir), 0);
	strcpy(sa.sun_path, "sock");
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(try_open((struct image_opts){.path = in_dir("sock")}, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "socket"));
	close(s);

	assert_int_equal(try_open((struct image_opts){.path = "/dev/null"}, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "character device"));
}

static void too_small(void **state)
{
	struct err err;

	(void)state;
	for (uint64_t size = 0; size < 512; size += 511) {
		make_file(in_dir("tiny"), size);
		assert_int_equal(try_open((struct image_opts){.path = in_dir("tiny")}, &err),
				 -EINVAL);
		assert_non_null(strstr(err.msg, "512"));
	}
	make_file(in_dir("tiny"), 512);
	assert_int_equal(try_open((struct image_opts){.path = in_dir("tiny")}, &err), 0);
}

static void odd_size_is_rounded_down(void **state)
{
	struct image_opts opts = {.path = in_dir("odd")};
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	make_file(opts.path, 10 * 512 + 100);
	assert_int_equal(image_open(&opts, &img, &err), 0); /* and a warning goes to the log */
	assert_true(image_info(img)->size_bytes == 10 * 512);
	image_close(img);
}

/* In a process without root's powers. */
static void no_permission(void **state)
{
	struct image_opts opts = {.path = in_dir("private")};
	int status;
	pid_t pid;

	(void)state;
	make_file(opts.path, 4096);
	assert_int_equal(chmod(opts.path, 0444), 0);
	assert_int_equal(chmod(dir, 0755), 0);
	pid = fork();
	if (!pid) {
		struct err err = ERR_INIT;
		struct image *img;

		if (!geteuid() && setuid(65534))
			_exit(77);
		if (image_open(&opts, &img, &err) != -EACCES || !strstr(err.msg, "permission"))
			_exit(1);
		opts.read_only = true;
		_exit(image_open(&opts, &img, &err) ? 2 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void null_is_closed(void **state)
{
	(void)state;
	image_close(NULL);
}

/* Locks. Open file descriptions exclude each other also within one process. */

static void one_writer_or_many_readers(void **state)
{
	struct image_opts rw = {.path = in_dir("shared")}, ro = rw, held = rw;
	struct image *a, *b;
	struct err err = ERR_INIT;

	(void)state;
	make_file(rw.path, 4096);
	ro.read_only = true;
	held.no_lock = true;

	assert_int_equal(image_open(&rw, &a, &err), 0);
	assert_int_equal(try_open(rw, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, "another process"));
	assert_int_equal(try_open(ro, &err), -EAGAIN);
	assert_int_equal(try_open(held, &err), 0);
	image_close(a);

	assert_int_equal(try_open(rw, &err), 0);
	assert_int_equal(image_open(&ro, &a, &err), 0);
	assert_int_equal(image_open(&ro, &b, &err), 0);
	assert_int_equal(try_open(rw, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, "read-only"));
	image_close(a);
	assert_int_equal(try_open(rw, &err), -EAGAIN);
	image_close(b);
	assert_int_equal(try_open(rw, &err), 0);
}

/* Of many that come at once at most one gets it. */
static void writers_race(void **state)
{
	enum { N = 8, ROUNDS = 40 };
	const char *path = in_dir("raced");
	int start[2], report[2];

	(void)state;
	make_file(path, 4096);
	for (int round = 0; round < ROUNDS; round++) {
		char got[N];
		ssize_t n, owners = 0;
		pid_t pids[N];

		assert_int_equal(pipe2(start, O_CLOEXEC), 0);
		assert_int_equal(pipe2(report, O_CLOEXEC), 0);
		for (int i = 0; i < N; i++) {
			pids[i] = fork();
			if (!pids[i]) {
				struct image_opts opts = {.path = path};
				struct image *img;
				char c;

				close(start[1]);
				if (read(start[0], &c, 1)) /* until the pipe ends */
					_exit(1);
				c = image_open(&opts, &img, NULL) ? 'n' : 'y';
				if (write(report[1], &c, 1) != 1)
					_exit(1);
				/* holds it until all have tried */
				pause();
			}
		}
		close(start[0]);
		close(start[1]);
		for (n = 0; n < N; n += read(report[0], got + n, (size_t)(N - n)))
			;
		for (int i = 0; i < N; i++)
			owners += got[i] == 'y';
		assert_in_range(owners, 0, 1);
		for (int i = 0; i < N; i++) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
		}
		close(report[0]);
		close(report[1]);
	}
}

/* QEMU's tools keep the same convention. */

static bool have_qemu(void)
{
	if (!system("command -v qemu-io >/dev/null 2>&1"))
		return true;
	print_message("SKIP: qemu-io is not installed (package qemu-utils)\n");
	return false;
}

static int qemu_io(const char *flags, const char *path)
{
	char cmd[600];

	snprintf(cmd, sizeof(cmd), "qemu-io %s -f raw -c 'read 0 512' '%s' >/dev/null 2>&1", flags,
		 path);
	return system(cmd);
}

static void qemu_respects_our_lock(void **state)
{
	struct image_opts opts = {.path = in_dir("ours")};
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	if (!have_qemu())
		skip();
	make_file(opts.path, 65536);
	assert_int_equal(qemu_io("", opts.path), 0);

	assert_int_equal(image_open(&opts, &img, &err), 0);
	assert_int_not_equal(qemu_io("", opts.path), 0);
	assert_int_equal(qemu_io("-r", opts.path), 0); /* a tool that only looks bears writers */
	image_close(img);

	opts.read_only = true;
	assert_int_equal(image_open(&opts, &img, &err), 0);
	assert_int_not_equal(qemu_io("", opts.path), 0);
	assert_int_equal(qemu_io("-r", opts.path), 0);
	image_close(img);
	assert_int_equal(qemu_io("", opts.path), 0);
}

/* Runs qemu-io until its input ends; returns once it has the image open. */
static pid_t hold_with_qemu(const char *path, int *ret_stdin)
{
	static const char ask[] = "read 0 512\n";
	int in[2], out[2];
	char b[512] = "";
	size_t n = 0;
	pid_t pid;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execlp("qemu-io", "qemu-io", "-f", "raw", path, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	assert_int_equal(write(in[1], ask, sizeof(ask) - 1), sizeof(ask) - 1);
	while (!strstr(b, "512/512")) {
		ssize_t r = read(out[0], b + n, sizeof(b) - 1 - n);

		assert_true(r > 0);
		n += (size_t)r;
	}
	close(out[0]);
	*ret_stdin = in[1];
	return pid;
}

static void we_respect_the_lock_of_qemu(void **state)
{
	struct image_opts rw = {.path = in_dir("theirs")}, ro = rw;
	struct err err;
	pid_t pid;
	int in;

	(void)state;
	if (!have_qemu())
		skip();
	make_file(rw.path, 65536);
	ro.read_only = true;

	pid = hold_with_qemu(rw.path, &in);
	assert_int_equal(try_open(rw, &err), -EAGAIN);
	assert_int_equal(try_open(ro, &err), -EAGAIN);
	close(in);
	assert_int_equal(waitpid(pid, NULL, 0), pid);

	assert_int_equal(try_open(rw, &err), 0);
}

/* Block devices, by way of a loop device. */

struct blockdev {
	char path[64];
	int fd;
};

static bool blockdev_new(struct blockdev *b, const char *file, uint32_t block, bool read_only)
{
	struct loop_config config = {
	    .block_size = block,
	    .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0)}};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n;

	if (control < 0)
		return false;
	config.fd = (uint32_t)open(file, O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 10; i++) { /* others may take the free one first */
		n = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(b->path, sizeof(b->path), "/dev/loop%d", n);
		b->fd = n < 0 ? -1 : open(b->path, O_RDWR | O_CLOEXEC);
		if (b->fd < 0)
			break;
		if (!ioctl(b->fd, LOOP_CONFIGURE, &config))
			break;
		close(b->fd);
		b->fd = -1;
	}
	close((int)config.fd);
	close(control);
	return b->fd >= 0;
}

static void block_device(void **state, uint32_t block, bool direct)
{
	struct fixture f = {.mode = {LOOP_AUTO, direct}};
	struct err err = ERR_INIT;
	struct blockdev b;
	char out[65536], in[65536];

	(void)state;
	make_file(in_dir("backing"), 8 * MIB);
	if (!blockdev_new(&b, in_dir("backing"), block, false)) {
		print_message("SKIP: no loop devices here\n");
		skip();
	}
	assert_int_equal(loop_new(NULL, &f.loop, &err), 0);
	assert_int_equal(fixture_open(&f, (struct image_opts){.path = b.path}, &err), 0);
	assert_true(image_info(f.img)->size_bytes == 8 * MIB);
	assert_int_equal(image_info(f.img)->logical_block_bytes, block);
	assert_int_equal(try_open((struct image_opts){.path = b.path, .read_only = true}, &err),
			 -EAGAIN);

	fill_random(out, sizeof(out), 1);
	assert_int_equal(run_write(&f, out, MIB, sizeof(out)), 0);
	assert_int_equal(run_op(&f, IMAGE_FLUSH, 0, 0, 0), 0);
	assert_int_equal(run_read(&f, in, MIB, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	file_read(in_dir("backing"), in, sizeof(in), MIB);
	assert_memory_equal(in, out, sizeof(in));
	if (block > 512)
		assert_int_equal(run_read(&f, in, 512, block), -EINVAL);

	for (unsigned flags = 0; flags <= IMAGE_MAY_UNMAP; flags += IMAGE_MAY_UNMAP) {
		assert_int_equal(run_write(&f, out, MIB, sizeof(out)), 0);
		assert_int_equal(run_op(&f, IMAGE_WRITE_ZEROES, flags, MIB, 32768), 0);
		assert_int_equal(run_read(&f, in, MIB, sizeof(in)), 0);
		for (int i = 0; i < 32768; i++)
			assert_int_equal(in[i], 0);
		assert_memory_equal(in + 32768, out + 32768, sizeof(out) - 32768);
	}
	assert_int_equal(run_op(&f, IMAGE_DISCARD, 0, 0, 4 * MIB), 0);
	fixture_close(&f);
	loop_free(f.loop);
	close(b.fd);
}

static void block_device_512(void **state)
{
	block_device(state, 512, false);
}

static void block_device_4096(void **state)
{
	block_device(state, 4096, false);
}

static void block_device_512_direct(void **state)
{
	block_device(state, 512, true);
}

static void block_device_4096_direct(void **state)
{
	block_device(state, 4096, true);
}

static void block_device_in_use_by_the_host(void **state)
{
	struct blockdev b;
	struct err err;
	int fd;

	(void)state;
	make_file(in_dir("backing"), MIB);
	if (!blockdev_new(&b, in_dir("backing"), 512, false)) {
		print_message("SKIP: no loop devices here\n");
		skip();
	}
	fd = open(b.path, O_RDONLY | O_EXCL | O_CLOEXEC); /* as a mount does */
	assert_true(fd >= 0);
	assert_int_equal(try_open((struct image_opts){.path = b.path}, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "mounted"));
	assert_int_equal(try_open((struct image_opts){.path = b.path, .read_only = true}, &err), 0);
	close(fd);
	assert_int_equal(try_open((struct image_opts){.path = b.path}, &err), 0);
	close(b.fd);
}

static void block_device_write_protected(void **state)
{
	struct blockdev b;
	struct err err;
	int r;

	(void)state;
	make_file(in_dir("backing"), MIB);
	if (!blockdev_new(&b, in_dir("backing"), 512, true)) {
		print_message("SKIP: no loop devices here\n");
		skip();
	}
	r = try_open((struct image_opts){.path = b.path}, &err);
	assert_true(r == -EROFS || r == -EACCES);
	assert_non_null(strstr(err.msg, "read-only"));
	assert_int_equal(try_open((struct image_opts){.path = b.path, .read_only = true}, &err), 0);
	close(b.fd);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup_dir, teardown_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(names_of_formats),
	    TEST(missing),
	    TEST(not_a_disk),
	    TEST(too_small),
	    TEST(odd_size_is_rounded_down),
	    TEST(no_permission),
	    TEST(null_is_closed),
	    TEST(one_writer_or_many_readers),
	    TEST(writers_race),
	    TEST(qemu_respects_our_lock),
	    TEST(we_respect_the_lock_of_qemu),
	    TEST(block_device_512),
	    TEST(block_device_4096),
	    TEST(block_device_512_direct),
	    TEST(block_device_4096_direct),
	    TEST(block_device_in_use_by_the_host),
	    TEST(block_device_write_protected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
