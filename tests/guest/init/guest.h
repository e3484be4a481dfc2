/*
 * The test program: runs as /init of a guest, does what the kernel command line tells it to, and
 * reports on the console.
 *
 *   test=NAME[:ARG,ARG...][+NAME...]     commands, run in order; after the last one it powers off
 *
 * A report is one line that begins with "@ ". A command that finds a fault says
 * "@ fail NAME: what", and the next one is run all the same.
 */
#ifndef TESTS_GUEST_INIT_GUEST_H
#define TESTS_GUEST_INIT_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARGS_MAX 8

struct args {
	unsigned n;
	char *v[ARGS_MAX];
};

/* A command: 0, or -1 after it has said what failed. */
typedef int command_fn(const struct args *args);

/* Prints "@ TEXT\n" in one write. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "@ fail COMMAND: TEXT\n"; always -1. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The n-th argument as a number (K, M and G multiply), or `otherwise` where it is absent. */
uint64_t arg_number(const struct args *args, unsigned n, uint64_t otherwise);

/* Reads a small file whole, without its last newline; -1 where it cannot. */
long read_file(const char *path, char *buf, size_t size);
int write_file(const char *path, const char *text);

/* Monotonic milliseconds. */
uint64_t now_ms(void);

/* A small generator of random numbers (xorshift64*), so that a seed gives the same run again. */
uint64_t random_next(uint64_t *state);

/* facts.c */
command_fn cmd_hello, cmd_cat, cmd_write, cmd_disks, cmd_dmesg, cmd_irqs, cmd_cpus, cmd_memory,
    cmd_flag, cmd_clock, cmd_rng;
/* end.c */
command_fn cmd_poweroff, cmd_reboot, cmd_panic, cmd_exit, cmd_sleep, cmd_spin, cmd_button;
/* console.c */
command_fn cmd_wait, cmd_flood, cmd_drain;
/* blk.c */
command_fn cmd_pread, cmd_pwrite, cmd_fsync, cmd_discard, cmd_zeroout, cmd_unbind;
/* blkio.c */
command_fn cmd_blkio, cmd_blkverify;
/* vsock.c */
command_fn cmd_vsockecho, cmd_vsockcall, cmd_vsockrefused, cmd_vsockhold, cmd_vsockrebind;
/* machine.c: what one processor alone has */
command_fn cmd_ports, cmd_undecoded;
/* poke.c */
command_fn cmd_uart, cmd_config, cmd_registers;
/* rings.c */
command_fn cmd_rings, cmd_garbage, cmd_inflight;

#endif
