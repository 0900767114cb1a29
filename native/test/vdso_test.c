/* vdso_test.c - the functions of an old vdso lead into this kernel's, and whoever was in one comes out with the right time. */
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vdso.h"

#define PAGE 4096ul
#define DATA (16 * PAGE)	/* more than any kernel has in front of it */

static struct phaul_error err;

static int get_time(const uint8_t *vdso, uint64_t offset, clockid_t clock, struct timespec *ret)
{
	int (*function)(clockid_t, struct timespec *) = (void *)(vdso + offset);

	return function(clock, ret);
}

static int64_t ns_of(struct timespec t)
{
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* As the process has it after the move: zeros where the data were. */
static uint8_t *load(const struct vdso *v)
{
	uint8_t *at = mmap(NULL, DATA + VDSO_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(at + DATA, VDSO_MAX, PROT_READ | PROT_WRITE);
	memcpy(at + DATA, v->bytes, v->size);
	mprotect(at + DATA, VDSO_MAX, PROT_READ | PROT_EXEC);
	return at + DATA;
}

/* By name, as a process finds it. */
static uint64_t offset_of(const uint8_t *vdso, const char *name)
{
	const Elf64_Ehdr *header = (void *)vdso;
	const Elf64_Shdr *sections = (void *)(vdso + header->e_shoff);

	for (size_t i = 0; i < header->e_shnum; i++) {
		const Elf64_Sym *symbols = (void *)(vdso + sections[i].sh_offset);
		const char *names = (void *)(vdso + sections[sections[i].sh_link].sh_offset);

		for (size_t n = 0; sections[i].sh_type == SHT_DYNSYM && n < sections[i].sh_size / sizeof(*symbols); n++)
			if (!strcmp(names + symbols[n].st_name, name))
				return symbols[n].st_value;
	}
	printf("the vdso has no %s\n", name);
	return 0;
}

static int check_times(const uint8_t *vdso, const char *what)
{
	static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME };
	uint64_t at = offset_of(vdso, "clock_gettime");
	int failed = !at;

	for (size_t i = 0; i < sizeof(clocks) / sizeof(*clocks); i++) {
		struct timespec before, now, after;

		clock_gettime(clocks[i], &before);
		if (at && get_time(vdso, at, clocks[i], &now))
			failed = printf("%s fails for clock %d\n", what, clocks[i]);
		clock_gettime(clocks[i], &after);
		if (at && (ns_of(now) < ns_of(before) || ns_of(now) > ns_of(after)))
			failed = printf("%s tells %lld of clock %d, at %lld\n", what, (long long)ns_of(now), clocks[i],
					(long long)ns_of(after));
	}
	return failed;
}

/* All symbols are called something else. */
static void rename_all(struct vdso *v)
{
	for (size_t i = 0; i + 4 < v->size; i++)
		if (!memcmp(v->bytes + i, "cloc", 4) || !memcmp(v->bytes + i, "time", 4))
			v->bytes[i] = 'X';
}

static int damaged(const struct vdso *own)
{
	unsigned int seed = 1;

	for (int i = 0; i < 20000; i++) {
		struct vdso old = *own;
		int code;

		for (int n = 0; n < 3; n++) {
			seed = seed * 1103515245 + 12345;
			/* Headers and tables are at both ends. */
			old.bytes[seed >> 8 & 1 ? (seed >> 9) % 0x800 : old.size - 1 - (seed >> 9) % (old.size - 0x1200)] = seed >> 24;
		}
		if (i % 7 == 0)
			old.size = (seed >> 4) % own->size;
		code = vdso_redirect(&old, own, 0x1000);
		if (code && code != -EPROTO)
			return printf("a damaged vdso is answered with %d\n", code);
	}
	return 0;
}

int main(void)
{
	struct memory_map map;
	struct vdso own, old, none;
	uint8_t *at;
	int failed;

	if (memory_map_read(getpid(), false, &map, &err) || vdso_read(getpid(), &map, &own) || !own.size) {
		puts("skipped: there is no vdso here");
		return 77;
	}
	failed = vdso_is_ours(&own) ? 0 : puts("the own vdso is taken for another");
	old = own;
	old.bytes[old.size - 1] ^= 1;
	if (vdso_is_ours(&old))
		failed = puts("another vdso is taken for the own");

	/* In the middle of a function, which the beginning is as good as. */
	failed |= check_times(load(&own), "the function of a vdso without data");
	if (vdso_redirect(&old, &own, getauxval(AT_SYSINFO_EHDR)))
		failed = puts("an old vdso can't be redirected");
	at = load(&old);
	failed |= check_times(at, "an old vdso");
	none = own;
	rename_all(&none);
	old = own;
	if (vdso_redirect(&old, &none, getauxval(AT_SYSINFO_EHDR)))
		failed = puts("an old vdso with more functions can't be redirected");
	failed |= check_times(load(&old), "a function that the new vdso lacks");
	memory_map_free(&map);
	return failed || damaged(&own);
}
