/*
 * The guest's serial console on a terminal, a pipe or a file of the host.
 *
 * Output: the sink of the UART. It never blocks: a terminal or FIFO is opened anew without
 * O_NONBLOCK leaking to those who share it (a shell), a socket is written with MSG_DONTWAIT, a
 * file is written straight; for what allows none of these one write at a time goes through the
 * loop. A reader that is gone (EPIPE) ends output and nothing else.
 *
 * Input: a terminal is put into raw mode and its escapes are heeded (control/terminal/escape.h)
 * even while the guest reads nothing; typing beyond a bounded buffer is dropped with a bell. Of a
 * pipe or file as much is read as the guest takes, byte for byte; its end ends input and nothing
 * else. In the background a terminal is left alone.
 *
 * Life: new -> connect (input starts) -> drain -> close -> loop_free() -> free.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_TERMINAL_CONSOLE_H
#define CONTROL_TERMINAL_CONSOLE_H

#include "base/err.h"
#include "base/loop.h"
#include "control/terminal/escape.h"
#include "devices/legacy/uart.h"

#include <stdbool.h>
#include <sys/stat.h>

struct console;

struct console_callbacks {
	/* ESCAPE_QUIT or ESCAPE_POWER was typed; break and help the console does itself. */
	void (*action)(void *ctx, enum escape_action action);
	void *ctx;
};

/*
 * `in_fd` may be -1 (no input); both descriptors stay the caller's and must live until
 * console_free(). The terminal is not touched before console_connect().
 */
int console_new(struct loop *loop, int in_fd, int out_fd, const struct console_callbacks *callbacks,
		struct console **ret_console, struct err *err);

/* What machine_new() is handed; valid as long as the console. */
const struct uart_sink *console_sink(struct console *console);

/* Starts input into `uart`. */
void console_connect(struct console *console, struct uart *uart);

/* Before this process stops, and after it goes on: gives the terminal back, takes it again. */
void console_suspend(struct console *console);
void console_resume(struct console *console);

/*
 * After loop_run() has returned and no vCPU runs: hands the rest of the output over, running the
 * loop, for as long as something moves within `stall_ms`. The UART may be freed afterwards.
 */
void console_drain(struct console *console, unsigned stall_ms);

/* Restores the terminal and cancels what is in flight. */
void console_close(struct console *console);

/* After loop_free(). NULL is accepted. */
void console_free(struct console *console);

/*
 * Opens the file of `--console file:PATH` for appending, as it is; *ret_created says whether it is
 * new. It must not be one of the machine's own files: `is_taken` says whether a file is. Errors
 * name the path.
 */
int console_open_file(const char *path, bool (*is_taken)(const void *ctx, const struct stat *st),
		      const void *ctx, int *ret_fd, bool *ret_created, struct err *err);

#endif
