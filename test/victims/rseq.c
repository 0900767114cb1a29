/* rseq.c - REPORT: threads that are in restartable sequences nearly all the time, as allocators are with memory of a CPU: one that is
 * interrupted must be given up, and never go on.
 */
#include <pthread.h>
#include <sys/rseq.h>

#include "victim.h"

#define ROUNDS 400000ul		/* about a millisecond */

static volatile int ends, wrong;
static volatile unsigned long completed, given_up;

/* Writes down that it has begun, and looks at the end if the kernel has forgotten it: then it was interrupted. */
static void run_sequence(struct rseq *area)
{
	unsigned long left = ROUNDS, found = 0, expected = 0;

	__asm__ goto volatile(
		".pushsection __rseq_cs, \"aw\"\n"
		".balign 32\n"
		"7:	.long 0, 0\n"
		"	.quad 1f, 2f - 1f, 3f\n"
		".popsection\n"
		"	leaq 7b(%%rip), %%rax\n"
		"1:	movq %%rax, %[place]\n"
		"4:	decq %[left]\n"
		"	jnz 4b\n"
		"	movq %%rax, %[expected]\n"
		"	movq %[place], %%rax\n"
		"	movq %%rax, %[found]\n"
		"2:\n"
		".pushsection __rseq_abort, \"ax\"\n"
		"	.byte 0x0f, 0xb9, 0x3d\n"
		"	.long %c[signature]\n"
		"3:	jmp %l[given_up]\n"
		".popsection\n"
		: : [place] "m" (area->rseq_cs), [left] "m" (left), [found] "m" (found), [expected] "m" (expected),
		    [signature] "i" (RSEQ_SIG)
		: "memory", "cc", "rax" : given_up);
	__asm__ volatile("" : : : "memory");
	area->rseq_cs = 0;
	if (*(volatile unsigned long *)&found != *(volatile unsigned long *)&expected)
		wrong = 1;
	__sync_fetch_and_add(&completed, 1);
	return;
given_up:
	__sync_fetch_and_add(&given_up, 1);
}

static struct rseq *own_area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void *thread(void *arg)
{
	(void)arg;
	while (!ends)
		run_sequence(own_area());
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t other;

	victim_begin(argc, argv);
	victim_check(__rseq_size > 0);
	victim_check(pthread_create(&other, NULL, thread, NULL) == 0);
	victim_ready();
	while (victim_tick())
		run_sequence(own_area());

	ends = 1;
	pthread_join(other, NULL);
	if (wrong)
		victim_fail("a sequence went on after it was interrupted (%lu ended, %lu were given up)", completed, given_up);
	victim_check(completed > 0);
	return victim_ok();
}
