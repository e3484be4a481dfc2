/* Resets the machine: by the ACPI register, or by PSCI. */
#include "lib/payload.h"

void payload_main(void)
{
	print("resetting\n");
	reset();
}
