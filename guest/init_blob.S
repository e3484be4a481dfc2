/* The guest's init and agent (guest/init, guest/agent), as bytes in the executable: see
 * vmm/boot/initramfs.c. */
	.section .rodata
	.balign 16
	.globl guest_init_start
	.globl guest_init_end
	.globl guest_agent_start
	.globl guest_agent_end
	.hidden guest_init_start
	.hidden guest_init_end
	.hidden guest_agent_start
	.hidden guest_agent_end
guest_init_start:
	.incbin "guest/init/init"
guest_init_end:
	.byte 0
	.balign 16
guest_agent_start:
	.incbin "lodge-agent"
guest_agent_end:
	.byte 0

	.section .note.GNU-stack,"",%progbits
