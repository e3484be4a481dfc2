/*
 * A terminal in raw mode, put back as it was on every way out.
 *
 * Normal ends call tty_restore(). Crash signals (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS,
 * SIGTRAP) are caught, the terminal is restored, and the signal goes on to whoever had it before
 * (a core dump, a sanitizer's report). Signals that ask for an end are the caller's: it restores
 * and ends. SIGKILL alone leaves the terminal raw; `stty sane` helps.
 *
 * A process in the background leaves the terminal alone: its shell owns it then.
 *
 * Threads: one; the crash handler may run on any. There is one terminal for each process, and its
 * saved settings are a global, since a signal handler can be handed nothing.
 */
#ifndef CONTROL_TERMINAL_TTY_H
#define CONTROL_TERMINAL_TTY_H

#include <stdbool.h>

/* Notes `fd`, which must stay open until tty_forget(), and catches the crash signals. -ENOTTY;
 * -errno. */
int tty_adopt(int fd);

/* Is this process in the terminal's foreground? */
bool tty_foreground(void);

/* Raw mode; does nothing without a terminal or in the background. 0 or -errno. */
int tty_raw(void);

/* As it was before tty_raw(), which is then forgotten: settings made since the last restore by
 * others (a shell while this process was stopped) are saved anew by the next tty_raw(). */
void tty_restore(void);

/*
 * A line on standard error for the person who started this, without control characters. While the
 * terminal is raw it stands on a line of its own, and is lost where the terminal takes nothing.
 */
void tty_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Restores, and gives the crash signals back. */
void tty_forget(void);

#endif
