/*
 * Entry of a payload as the Image of a 64-bit Arm kernel (Linux Documentation/arm64/booting.rst):
 * X0 = device tree, EL1, MMU off, so all memory is device memory and no access may be unaligned.
 * Exceptions end the payload with a message.
 */
	.section .text.start, "ax"
	.globl	_start
_start:
	b	start
	.long	0
	.quad	0			/* text_offset */
	.quad	_end - _start		/* image_size */
	.quad	0xa			/* little-endian, pages of 4 KiB, anywhere */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

start:
	adrp	x1, payload_dtb
	str	x0, [x1, :lo12:payload_dtb]
	adrp	x1, vectors
	add	x1, x1, :lo12:vectors
	msr	vbar_el1, x1
	isb
	adrp	x1, stack_end
	add	x1, x1, :lo12:stack_end
	mov	sp, x1
	bl	payload_start

	.align	11
vectors:
	.rept	16
	.align	7
	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	bl	payload_trap
	.endr

	.bss
	.align	4
	.skip	16384
stack_end:

	.section .note.GNU-stack, "", %progbits
