/* threads.c - REPORT: threads whose state is in registers, in thread-local memory, in locks and with the kernel.
 */
#include <cpuid.h>
#include <errno.h>
#include <fenv.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include "victim.h"

#define SPINNERS 3
#define MEETING 3

static volatile bool over;
static pthread_barrier_t barrier;
static pthread_mutex_t robust, plain = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn, meetings;
static sem_t semaphore;
static __thread long mine;
static __thread char text[64];

/* All vector registers hold values of their own while it spins, and no function is called. */
#define HOLD(name, target_isa, registers, load, same)							\
	__attribute__((target(target_isa), noinline)) static bool name(const uint8_t *from, uint8_t *to)	\
	{												\
		__asm__ volatile (load								\
			"1: cmpb $0, (%2)\n\tpause\n\tje 1b\n\t" same					\
			:: "r" (from), "r" (to), "r" (&over) : "memory", "cc" registers);		\
		return true;										\
	}

#define CLOBBER , "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",	\
	"xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define MOVE_ALL(move, prefix, size, order)									\
	order(move, prefix, size, 0) order(move, prefix, size, 1) order(move, prefix, size, 2)			\
	order(move, prefix, size, 3) order(move, prefix, size, 4) order(move, prefix, size, 5)			\
	order(move, prefix, size, 6) order(move, prefix, size, 7) order(move, prefix, size, 8)			\
	order(move, prefix, size, 9) order(move, prefix, size, 10) order(move, prefix, size, 11)		\
	order(move, prefix, size, 12) order(move, prefix, size, 13) order(move, prefix, size, 14)		\
	order(move, prefix, size, 15)
#define LOAD(move, prefix, size, n) move " " #n "*" #size "(%0), %%" prefix #n "\n\t"
#define STORE(move, prefix, size, n) move " %%" prefix #n ", " #n "*" #size "(%1)\n\t"

HOLD(hold_sse, "sse2", CLOBBER, MOVE_ALL("movdqu", "xmm", 16, LOAD), MOVE_ALL("movdqu", "xmm", 16, STORE))
HOLD(hold_avx, "avx", CLOBBER, MOVE_ALL("vmovdqu", "ymm", 32, LOAD), MOVE_ALL("vmovdqu", "ymm", 32, STORE))
HOLD(hold_avx512, "avx512f", CLOBBER, MOVE_ALL("vmovdqu64", "zmm", 64, LOAD), MOVE_ALL("vmovdqu64", "zmm", 64, STORE))

static void *spin(void *arg)
{
	long number = (long)arg, size = 16;
	uint8_t from[16 * 64], to[16 * 64];
	volatile double third;
	unsigned mxcsr = 0x1f80 | (number & 3) << 13;
	unsigned short control = 0x037f | (number & 3) << 10, told;
	char name[16];

	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = i * 31 + number;
	mine = number;
	snprintf(text, sizeof(text), "thread %ld", number);
	snprintf(name, sizeof(name), "spinner-%ld", number);
	pthread_setname_np(pthread_self(), name);
	_mm_setcsr(mxcsr);
	__asm__ volatile ("fldcw %0" :: "m" (control));
	__asm__ volatile ("fldpi");
	if (number % 3 == 2 && __builtin_cpu_supports("avx512f")) {
		size = 64;
		hold_avx512(from, to);
	} else if (number % 3 && __builtin_cpu_supports("avx")) {
		size = 32;
		hold_avx(from, to);
	} else {
		hold_sse(from, to);
	}
	__asm__ volatile ("fstpl %0" : "=m" (third));
	__asm__ volatile ("fnstcw %0" : "=m" (told));
	victim_check(!memcmp(from, to, 16 * size));
	victim_check(_mm_getcsr() >> 13 == mxcsr >> 13 && told == control && third > 3.14159 && third < 3.1416);
	_mm_setcsr(0x1f80);
	victim_check(mine == number && atol(text + 7) == number);
	prctl(PR_GET_NAME, name);
	victim_check(atol(name + 8) == number);
	return (void *)(number * 1000);
}

static void *meet(void *arg)
{
	(void)arg;
	while (!over) {
		pthread_barrier_wait(&barrier);
		pthread_mutex_lock(&plain);
		meetings++;
		pthread_mutex_unlock(&plain);
		pthread_barrier_wait(&barrier);
		usleep(500);
	}
	/* The others may be at the first barrier still. */
	return NULL;
}

/* Two that hand a turn to each other. */
static void *take_turns(void *arg)
{
	int own = (long)arg;

	while (!over) {
		pthread_mutex_lock(&plain);
		while (turn % 2 != own && !over)
			pthread_cond_wait(&condition, &plain);
		turn++;
		pthread_cond_signal(&condition);
		usleep(100);
		pthread_mutex_unlock(&plain);
	}
	pthread_cond_broadcast(&condition);
	return NULL;
}

/* Ends with a robust mutex locked: the kernel walks its list, which it must know. */
static void *owner(void *arg)
{
	(void)arg;
	victim_check(pthread_mutex_lock(&robust) == 0);
	sem_post(&semaphore);
	while (!over)
		usleep(1000);
	return NULL;
}

static void *idle(void *arg)
{
	sem_wait(arg);
	return arg;
}

static void check_rseq(void)
{
	struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	unsigned cpu;

	if (!__rseq_size)
		return;
	sched_yield();
	victim_check(syscall(SYS_getcpu, &cpu, NULL, NULL) == 0);
	victim_check((int)__atomic_load_n(&area->cpu_id, __ATOMIC_RELAXED) >= 0);
	/* Registered, so that registering again is refused. */
	victim_check(syscall(SYS_rseq, area, __rseq_size < 32 ? 32 : __rseq_size, 0, 0x53053053) < 0 && errno != ENOSYS);
}

int main(int argc, char **argv)
{
	pthread_t spinners[SPINNERS], meeting[MEETING], turns[2], last, idler;
	pthread_mutexattr_t attr;
	sem_t never;
	void *result;
	int before;

	victim_begin(argc, argv);
	pthread_barrier_init(&barrier, NULL, MEETING);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	sem_init(&semaphore, 0, 0);
	sem_init(&never, 0, 0);
	mine = 4711;
	for (long i = 0; i < SPINNERS; i++)
		victim_check(pthread_create(&spinners[i], NULL, spin, (void *)i) == 0);
	for (long i = 0; i < MEETING; i++)
		victim_check(pthread_create(&meeting[i], NULL, meet, NULL) == 0);
	for (long i = 0; i < 2; i++)
		victim_check(pthread_create(&turns[i], NULL, take_turns, (void *)i) == 0);
	victim_check(pthread_create(&last, NULL, owner, NULL) == 0);
	victim_check(pthread_create(&idler, NULL, idle, &never) == 0);
	sem_wait(&semaphore);
	usleep(50000);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	before = meetings;
	usleep(200000);
	victim_check(meetings > before && turn > 0 && mine == 4711);
	check_rseq();
	over = true;
	for (long i = 0; i < SPINNERS; i++) {
		pthread_join(spinners[i], &result);
		victim_check((long)result == i * 1000);
	}
	for (long i = 0; i < 2; i++)
		pthread_join(turns[i], NULL);
	pthread_join(last, NULL);
	victim_check(pthread_mutex_lock(&robust) == EOWNERDEAD);
	sem_post(&never);
	pthread_join(idler, &result);
	victim_check(result == &never);
	/* And new ones can be made. */
	victim_check(pthread_create(&idler, NULL, idle, &never) == 0);
	sem_post(&never);
	victim_check(pthread_join(idler, NULL) == 0);
	return victim_ok();
}
