/*
 * Entry of a payload, by Linux' 64-bit boot protocol: long mode, flat segments, RSI = zero page,
 * privilege level 0. Everything that needs level 0 happens here, once. Other machine monitors enter
 * by PVH instead: see start_pvh.
 *
 * GDT: 0x10 kernel code, 0x18 kernel data, 0x20 user data, 0x28 user code, 0x30 TSS.
 */
	.set	KERNEL_CS, 0x10
	.set	KERNEL_DS, 0x18
	.set	USER_DS, 0x20 | 3
	.set	USER_CS, 0x28 | 3
	.set	TSS_SEL, 0x30
	.set	IOPL3, 0x3000		/* some hosts drop it: hence the TSS's bitmap as well */
	.set	IF, 0x200
	.set	MSR_APIC_BASE, 0x1b
	.set	MSR_X2APIC_EOI, 0x80b
	.set	MSR_X2APIC_SPURIOUS, 0x80f

	.section .text.start, "ax"
	.globl	_start
_start:
	movq	%rsi, payload_zero_page(%rip)
start64:
	leaq	kernel_stack_end(%rip), %rsp
	leaq	pml4(%rip), %rax
	movq	%rax, %cr3
	lgdt	gdt_pointer(%rip)
	movl	$KERNEL_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss

	/* The TSS descriptor takes its base in pieces. */
	leaq	tss(%rip), %rax
	movw	%ax, gdt_tss+2(%rip)
	shrq	$16, %rax
	movb	%al, gdt_tss+4(%rip)
	movb	%ah, gdt_tss+7(%rip)
	shrq	$16, %rax
	movl	%eax, gdt_tss+8(%rip)
	movl	$TSS_SEL, %eax
	ltr	%ax

	/* 64 gates of 16 bytes; the stubs are 16 bytes apart. */
	leaq	stubs(%rip), %rax
	leaq	idt(%rip), %rdi
	movl	$64, %ecx
1:	movw	%ax, (%rdi)
	movw	$KERNEL_CS, 2(%rdi)
	movw	$0x8e00, 4(%rdi)	/* present, interrupt gate */
	movq	%rax, %rdx
	shrq	$16, %rdx
	movw	%dx, 6(%rdi)
	shrq	$16, %rdx
	movl	%edx, 8(%rdi)
	movl	$0, 12(%rdi)
	addq	$16, %rax
	addq	$16, %rdi
	decl	%ecx
	jnz	1b
	lidt	idt_pointer(%rip)

	/* The old interrupt controllers: silent. Their vectors would look like exceptions. */
	movb	$0xff, %al
	outb	%al, $0x21
	outb	%al, $0xa1

	/* Local APIC: on, x2APIC (registers are MSRs), spurious vector 0xff. */
	movl	$MSR_APIC_BASE, %ecx
	rdmsr
	orl	$0xc00, %eax
	wrmsr
	movl	$MSR_X2APIC_SPURIOUS, %ecx
	movl	$0x1ff, %eax
	xorl	%edx, %edx
	wrmsr

	leaq	payload_kernel(%rip), %rax
	testq	%rax, %rax
	jz	2f
	call	*%rax

	/* Interrupts are on: with an emulated level 0, level 3 cannot switch them. */
2:	pushq	$USER_DS
	leaq	user_stack_end-8(%rip), %rax
	pushq	%rax
	pushq	$IOPL3 | IF | 2
	pushq	$USER_CS
	leaq	payload_start(%rip), %rax
	pushq	%rax
	iretq

	.weak	payload_kernel

/*
 * Entry by PVH (Xen's docs/misc/pvh.pandoc; the note at the end tells of it): 32 bits, no paging,
 * EBX = hvm_start_info, whose command line is at 24. Goes to 64 bits with our own tables.
 */
	.code32
start_pvh:
	movl	%ebx, payload_pvh_info
	lgdt	gdt_pointer
	movl	%cr4, %eax
	orl	$0x20, %eax		/* PAE */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER: long mode */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000000, %eax	/* paging */
	movl	%eax, %cr0
	ljmp	$KERNEL_CS, $start64
	.code64

/*
 * One stub for each vector: those below 32 end the payload with a message, those from VECTOR_FIRST
 * (48) up are counted and acknowledged, those between are only acknowledged.
 */
	.align	16
stubs:
	.set	vector, 0
	.rept	64
	.align	16
	.if	vector < 32
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	pushq	$0			/* no error code */
	.endif
	.endif
	pushq	$vector
	.if	vector < 32
	jmp	exception
	.else
	jmp	interrupt
	.endif
	.set	vector, vector + 1
	.endr

	.align	16
exception:
	movq	%rsp, %rdi
	call	payload_trap

interrupt:				/* (%rsp): the vector */
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	movq	24(%rsp), %rax
	subq	$48, %rax
	jb	1f
	leaq	interrupts(%rip), %rdx
	incq	(%rdx,%rax,8)
1:	movl	$MSR_X2APIC_EOI, %ecx
	xorl	%eax, %eax
	xorl	%edx, %edx
	wrmsr
	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$8, %rsp
	iretq

	.data
	.align	16
gdt:
	.quad	0
	.quad	0
	.quad	0x00af9b000000ffff	/* kernel code */
	.quad	0x00cf93000000ffff	/* kernel data */
	.quad	0x00cff3000000ffff	/* user data */
	.quad	0x00affb000000ffff	/* user code */
gdt_tss:
	.quad	0x0000890000000000 | (tss_end - tss - 1)
	.quad	0
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
idt_pointer:
	.word	64 * 16 - 1
	.quad	idt

	.align	16
tss:
	.long	0
	.quad	kernel_stack_end	/* stack for level 0 */
	.fill	90, 1, 0
	.word	104			/* I/O bitmap: every port is allowed */
	.fill	8192, 1, 0
	.byte	0xff
tss_end:

/* 0 to 8 GiB, pages of 2 MiB: present, writable, user, accessed, dirty, large */
	.align	4096
pml4:
	.quad	pdpt + 0x27
	.fill	511, 8, 0
pdpt:
	.set	i, 0
	.rept	8
	.quad	pds + i * 4096 + 0x27
	.set	i, i + 1
	.endr
	.fill	504, 8, 0
pds:
	.set	i, 0
	.rept	8 * 512
	.quad	i * 0x200000 + 0xe7
	.set	i, i + 1
	.endr

	.bss
	.align	16
idt:
	.skip	64 * 16
kernel_stack:
	.skip	16384
kernel_stack_end:
user_stack:
	.skip	65536
user_stack_end:

	.section .note.pvh, "a", @note	/* name "Xen", type 18: XEN_ELFNOTE_PHYS32_ENTRY */
	.align	4
	.long	4, 8, 18
	.asciz	"Xen"
	.quad	start_pvh

	.section .note.GNU-stack, "", @progbits
