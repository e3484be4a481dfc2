/*
 * What of the tests depends on the processor: tests/guest/init/ARCH/machine.c.
 */
#ifndef TESTS_GUEST_INIT_MACHINE_H
#define TESTS_GUEST_INIT_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

/* Makes the serial port's registers accessible; -1 after it has said why not. */
int uart_open(void);

/* One access to registers 0 to 7, and several in one instruction where there is such. */
uint32_t uart_read(unsigned reg, unsigned size);
void uart_write(unsigned reg, unsigned size, uint32_t value);
void uart_string(unsigned reg, unsigned size, bool in, unsigned count);

/* What /proc/iomem calls the memory-mapped configuration space (ECAM). */
extern const char config_iomem[];

/* Whether configuration space is there through I/O ports as well, and nonsense written through
 * them. */
bool config_has_ports(void);
void config_ports(unsigned slot, uint64_t *random);

#endif
