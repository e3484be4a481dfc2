#include "payload.h"

static void print_char(char c)
{
	while (!(uart_read(UART_LSR) & UART_LSR_THRE))
		;
	uart_write(UART_DATA, (uint8_t)c);
}

void print(const char *text)
{
	for (; *text; text++)
		print_char(*text);
}

void print_hex(uint64_t v)
{
	int shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		print_char("0123456789abcdef"[v >> shift & 0xf]);
}

void print_dec(uint64_t v)
{
	char digits[20];
	int n = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		print_char(digits[--n]);
}

void print_reset(void)
{
	uart_write(UART_LCR, 3); /* eight bits, no divisor */
	uart_write(UART_IER, 0); /* no interrupts */
	uart_write(UART_MCR, 0); /* no loop */
}

void fail(const char *what)
{
	print_reset();
	print("FAIL: ");
	print(what);
	print("\n");
	power_off();
}

void payload_start(void);

void payload_start(void)
{
	payload_main();
	power_off();
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++) {
		if (x[i] != y[i])
			return x[i] - y[i];
	}
	return 0;
}
