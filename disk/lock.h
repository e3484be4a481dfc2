/*
 * The advisory lock of an image file, understood by QEMU as well. For disk/ only.
 *
 * Each holder states what it does with the image and what it bears others doing, one byte of the
 * file for each, as an OFD lock (fcntl(2)) for reading, so that equal statements coexist:
 *
 *   byte 100 + n   "I need permission n"
 *   byte 200 + n   "nobody else may have permission n"
 *
 *   n   permission
 *   0   see consistent contents
 *   1   write
 *   2   write what is there already
 *   3   change the size
 *
 * Who comes states first and looks second, whether anyone's statement is against one of its own;
 * so of two who come together at most one goes on. A writer needs 0 and 1 and bears no 1 and 3; a
 * reader needs 0 and bears no 1 and 3. The lock lives as long as the open file.
 */
#ifndef DISK_LOCK_H
#define DISK_LOCK_H

#include "base/err.h"

#include <stdbool.h>

/*
 * Locks the open file; waits for 0.2 s where another has it, because one that was killed lets go a
 * little later than it ends. -EAGAIN: another process has it, -ENOLCK: its file system cannot lock.
 * The message has no path.
 */
int image_lock(int fd, bool read_only, struct err *err);

/* At once, where closing the descriptor waits for I/O that the kernel has yet to end. */
void image_unlock(int fd);

#endif
