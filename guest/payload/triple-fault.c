/* Faults with no way to handle the fault. */
#include "lib/x86/x86.h"

void payload_kernel(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none;

	print("faulting\n");
	__asm__ volatile("lidt %0; ud2" ::"m"(none));
}

void payload_main(void)
{
	print("still here\n");
}
