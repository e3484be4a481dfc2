/* Resets the machine: by the ACPI register, or with "i8042" on the command line by the keyboard
 * controller. */
#include "lib/payload.h"

static bool has_word(const char *text, const char *word, size_t n)
{
	for (; *text; text++) {
		if (!memcmp(text, word, n))
			return true;
	}
	return false;
}

void payload_main(void)
{
	print("resetting\n");
	if (has_word(payload_cmdline(), "i8042", 5))
		outb(0x64, 0xfe);
	else
		reset();
	print("still here\n");
	for (;;)
		;
}
