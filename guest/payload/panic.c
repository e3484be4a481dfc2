/* Reports a panic as Linux' pvpanic driver does, says its last words, and waits for its end. */
#include "lib/payload.h"

#define PVPANIC	 0x505
#define PANICKED 1

void payload_main(void)
{
	outb(PVPANIC, PANICKED);
	print("last words\n");
	for (;;)
		;
}
