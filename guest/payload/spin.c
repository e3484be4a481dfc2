/* Runs for ever, without an exit. */
#include "lib/payload.h"

void payload_main(void)
{
	print("spinning\n");
	for (;;)
		;
}
