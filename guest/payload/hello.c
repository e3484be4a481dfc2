/* Says hello, repeats its command line, powers off. */
#include "lib/payload.h"

void payload_main(void)
{
	static const char text[] = "a string at once\n";

	print("hello from the payload\n");
	print("cmdline: ");
	print(payload_cmdline());
	print("\n");
	uart_write_all(text, sizeof(text) - 1);
}
