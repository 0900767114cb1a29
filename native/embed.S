/* embed.S - the programs of husk/ inside the library: nothing has to be found on the target's disk. */
	.section .rodata
	.balign 16
	.global husk_program, husk_program_end
	.hidden husk_program, husk_program_end
	.type husk_program, @object
husk_program:
	.incbin "husk/husk"
husk_program_end:
	.size husk_program, . - husk_program
	.global init_program, init_program_end
	.hidden init_program, init_program_end
	.type init_program, @object
	.balign 16
init_program:
	.incbin "husk/init"
init_program_end:
	.size init_program, . - init_program
	.section .note.GNU-stack, "", @progbits
