/* control/share/preload as bytes in the executable: see control/share/jail.c. */
	.section .rodata
	.balign 16
	.globl share_handles_start
	.globl share_handles_end
	.hidden share_handles_start
	.hidden share_handles_end
share_handles_start:
	.incbin "share-handles.so"
share_handles_end:
	.byte 0

	.section .note.GNU-stack,"",%progbits
