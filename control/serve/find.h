/*
 * The VMs that a former `lodge serve` left running, from the runtime directory.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_SERVE_FIND_H
#define CONTROL_SERVE_FIND_H

#include "control/serve/vm.h"

/*
 * Takes the runtime directory over, which is made if it is absent, and finds the VMs in it;
 * table->finding counts those that have not answered. *ret_lock_fd, to be closed at the end, keeps
 * other servers out: -EBUSY.
 */
int serve_find(struct vm_table *table, int *ret_lock_fd, struct err *err);

#endif
