/* Waits for the power button, then powers off. */
#include "lib/payload.h"

void payload_main(void)
{
	print("waiting\n");
	while (!power_pressed())
		;
	print("pressed\n");
}
