/* Reports a panic as Linux' pvpanic driver does, says its last words, and waits for its end. */
#include "lib/payload.h"

void payload_main(void)
{
	tell_panic();
	print("last words\n");
	for (;;)
		;
}
