/* embed.S - the husk program inside the library: nothing has to be found on the target's disk. */
	.section .rodata
	.balign 16
	.global husk_program, husk_program_end
	.hidden husk_program, husk_program_end
	.type husk_program, @object
husk_program:
	.incbin "husk/husk"
husk_program_end:
	.size husk_program, . - husk_program
	.section .note.GNU-stack, "", @progbits
