/* Resets the machine by its keyboard controller. */
#include "lib/x86/x86.h"

#define I8042_COMMAND 0x64
#define I8042_RESET   0xfe

void payload_main(void)
{
	print("resetting\n");
	outb(I8042_COMMAND, I8042_RESET);
	print("still here\n");
	for (;;)
		;
}
