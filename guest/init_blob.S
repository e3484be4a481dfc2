/* The guest's init (guest/init), as bytes in the executable: see vmm/boot/initramfs.c. */
	.section .rodata
	.balign 16
	.globl guest_init_start
	.globl guest_init_end
	.hidden guest_init_start
	.hidden guest_init_end
guest_init_start:
	.incbin "init"
guest_init_end:
	.byte 0

	.section .note.GNU-stack,"",%progbits
