/* Waits for the power button, then powers off. */
#include "lib/payload.h"

#define PM_EVENT       0x603
#define PM_EVENT_POWER 1

void payload_main(void)
{
	print("waiting\n");
	while (!(inb(PM_EVENT) & PM_EVENT_POWER))
		;
	print("pressed\n");
}
