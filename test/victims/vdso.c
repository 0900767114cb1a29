/* vdso.c - reads all clocks all the time, by the vdso and by the kernel, in threads and in a signal handler: none steps back,
 * both ways tell the same, and timers go off when their time has come.
 *
 *	vdso REPORT [other|stuck]
 *
 * "other": by a vdso as only another build of the kernel has it, where the function that it uses lies elsewhere. "stuck": a thread
 * never gets on in it, nor could it be led on.
 */
#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "victim.h"

#define SPINNERS 2
#define NS 1000000000ll
#define TICK_NS (20 * NS / 1000)
#define FAR_NS (3600 * NS)

static const clockid_t clocks[] = {
	CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME, CLOCK_MONOTONIC_RAW,
};
#define CLOCKS (sizeof(clocks) / sizeof(*clocks))

static int (*get_time)(clockid_t, struct timespec *) = clock_gettime;

static volatile sig_atomic_t handled;

/* ---- a vdso of another build ---- */

#define JUMP_LENGTH 16
#define ENDLESS 6	/* behind the jump, where nothing comes by */

static Elf64_Sym *find_symbol(uint8_t *vdso, const char *name)
{
	const Elf64_Ehdr *header = (void *)vdso;
	const Elf64_Shdr *sections = (void *)(vdso + header->e_shoff);

	for (int i = 0; i < header->e_shnum; i++) {
		Elf64_Sym *symbols = (void *)(vdso + sections[i].sh_offset);
		const char *names = (void *)(vdso + sections[sections[i].sh_link].sh_offset);

		for (size_t n = 0; sections[i].sh_type == SHT_DYNSYM && n < sections[i].sh_size / sizeof(*symbols); n++)
			if (!strcmp(names + symbols[n].st_name, name))
				return &symbols[n];
	}
	victim_fail("the vdso has no %s", name);
}

/* The function begins at the end of the vdso, which was unused, and jumps to where it was. */
static void change_vdso(void)
{
	uint8_t *vdso = (void *)getauxval(AT_SYSINFO_EHDR), *function;
	const Elf64_Ehdr *header = (void *)vdso;
	size_t size = (header->e_shoff + header->e_shnum * sizeof(Elf64_Shdr) + 4095) & ~4095ul;
	Elf64_Sym *symbol = find_symbol(vdso, "clock_gettime");
	int32_t distance;

	function = vdso + size - JUMP_LENGTH;
	victim_check(!memcmp(function, (uint8_t[JUMP_LENGTH]){0}, JUMP_LENGTH));
	victim_check(!mprotect(vdso, size, PROT_READ | PROT_WRITE));
	distance = vdso + symbol->st_value - (function + 5);
	*function = 0xe9;
	memcpy(function + 1, &distance, sizeof(distance));
	memcpy(function + ENDLESS, "\xeb\xfe", 2);	/* jmp . */
	symbol->st_value = function - vdso;
	symbol->st_size = JUMP_LENGTH;
	victim_check(!mprotect(vdso, size, PROT_READ | PROT_EXEC));
	get_time = (void *)function;
}

static void *be_stuck(void *arg)
{
	((void (*)(void))((uint8_t *)get_time + ENDLESS))();
	return arg;
}

/* ---- looking at clocks ---- */

static int64_t read_clock(clockid_t clock, int by_kernel)
{
	struct timespec t;

	victim_check((by_kernel ? syscall(SYS_clock_gettime, clock, &t) : get_time(clock, &t)) == 0);
	return t.tv_sec * NS + t.tv_nsec;
}

/* One look at a clock, which must not be behind the one before, nor behind or ahead of the kernel's. */
static void look(size_t i, int64_t last[CLOCKS])
{
	int64_t before = read_clock(clocks[i], 1), now = read_clock(clocks[i], 0), after = read_clock(clocks[i], 1);

	if (now < before || now > after)
		victim_fail("clock %d is %lld by the vdso, and %lld to %lld by the kernel", clocks[i], (long long)now,
			    (long long)before, (long long)after);
	/* The kernel has one offset for CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW, which drift apart from boot on. */
	if (clocks[i] != CLOCK_REALTIME && clocks[i] != CLOCK_MONOTONIC_RAW && before < last[i])
		victim_fail("clock %d stepped back by %lld ns", clocks[i], (long long)(last[i] - before));
	last[i] = after;
}

static void *spin(void *arg)
{
	int64_t last[CLOCKS] = {0}, last_ns = 0;
	struct timeval tv;

	(void)arg;
	while (!victim_ended) {
		for (size_t i = 0; i < CLOCKS; i++)
			look(i, last);
		for (int i = 0; i < 200; i++) {
			int64_t now = read_clock(CLOCK_MONOTONIC, 0);

			victim_check(now >= last_ns);
			last_ns = now;
			gettimeofday(&tv, NULL);
			victim_check(time(NULL) - tv.tv_sec <= 1);
		}
	}
	return NULL;
}

static void on_alarm(int signal)
{
	static __thread int64_t last[CLOCKS];

	(void)signal;
	look(handled++ % 2 ? 0 : 1, last);
}

/* Sleeps until a time of the process's own clock: neither less nor much more. */
static void *sleep_until(void *arg)
{
	(void)arg;
	while (!victim_ended) {
		int64_t until = read_clock(CLOCK_MONOTONIC, 0) + TICK_NS;
		struct timespec t = { until / NS, until % NS };

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
			;
		victim_check(read_clock(CLOCK_MONOTONIC, 0) >= until);
	}
	return NULL;
}

/* A time that is far away stays so. */
static void *sleep_long(void *arg)
{
	int64_t until = read_clock(CLOCK_BOOTTIME, 0) + FAR_NS;
	struct timespec t = { until / NS, until % NS };

	(void)arg;
	while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL))
		;
	victim_fail("an hour has passed");
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } };
	void *(*const all[])(void *) = { spin, spin, sleep_until, sleep_long };
	pthread_t thread;

	victim_begin(argc, argv);
	if (argc > 2)
		change_vdso();
	if (argc > 2 && !strcmp(argv[2], "stuck")) {
		signal(SIGTRAP, SIG_IGN);
		victim_check(pthread_create(&thread, NULL, be_stuck, NULL) == 0);
	}
	sigaction(SIGALRM, &action, NULL);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		victim_check(pthread_create(&thread, NULL, all[i], NULL) == 0);
	setitimer(ITIMER_REAL, &every, NULL);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	victim_check(handled > 10);
	return victim_ok();
}
