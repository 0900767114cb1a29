/* vectors.c - REPORT: vector and mask registers of AVX-512 and AMX tiles, as far as the CPU has them, stay as they are while the
 * process sleeps with them; and what it may use stays permitted.
 */
#include <cpuid.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "victim.h"

#define ARCH_REQ_XCOMP_PERM 0x1023
#define TILE_DATA 18

#define VECTORS 32
#define VECTOR_BYTES 64
#define MASKS 8

static struct state {
	uint8_t vectors[VECTORS][VECTOR_BYTES];
	uint64_t masks[MASKS];
} before, after;

static struct { uint8_t palette, start, reserved[14]; uint16_t columns[16]; uint8_t rows[16]; } tiles = { .palette = 1 };
static uint8_t tile[16][64], tile_after[16][64];

static bool cpu_has(unsigned leaf, int reg, int bit)
{
	unsigned regs[4] = { 0 };

	return __get_cpuid_count(leaf, 0, &regs[0], &regs[1], &regs[2], &regs[3]) && regs[reg] >> bit & 1;
}

static void fill(void *to, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)to)[i] = 1 + i * 37 % 251;
}

#define VECTOR(n, from) "vmovdqu64 " #n "*64(%[" #from "]), %%zmm" #n "\n\t"
#define STORED(n, to) "vmovdqu64 %%zmm" #n ", " #n "*64(%[" #to "])\n\t"
#define MASK(n, from) "kmovq 2048+" #n "*8(%[" #from "]), %%k" #n "\n\t"
#define MASK_STORED(n, to) "kmovq %%k" #n ", 2048+" #n "*8(%[" #to "])\n\t"
#define EIGHT(act, at, a, b, c, d, e, f, g, h) act(a, at) act(b, at) act(c, at) act(d, at) act(e, at) act(f, at) act(g, at) act(h, at)
#define ALL(act, at) \
	EIGHT(act, at, 0, 1, 2, 3, 4, 5, 6, 7) EIGHT(act, at, 8, 9, 10, 11, 12, 13, 14, 15) \
	EIGHT(act, at, 16, 17, 18, 19, 20, 21, 22, 23) EIGHT(act, at, 24, 25, 26, 27, 28, 29, 30, 31)

_Static_assert(offsetof(struct state, masks) == 2048, "the code below knows it");

/* Nothing but these instructions runs between the first and the last. */
static void sleep_with_vectors(void)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };

	asm volatile(ALL(VECTOR, before) EIGHT(MASK, before, 0, 1, 2, 3, 4, 5, 6, 7)
		     "1:\n\t"
		     "mov %[call], %%eax\n\t"
		     "mov %[moment], %%rdi\n\t"
		     "xor %%esi, %%esi\n\t"
		     "syscall\n\t"
		     "cmpl $0, %[ended]\n\t"
		     "je 1b\n\t"
		     ALL(STORED, after) EIGHT(MASK_STORED, after, 0, 1, 2, 3, 4, 5, 6, 7)
		     "vzeroupper\n\t"
		     : [ended] "+m"(victim_ended)
		     : [before] "r"(&before), [after] "r"(&after), [moment] "r"(&moment), [call] "i"(SYS_nanosleep)
		     : "rax", "rcx", "rdi", "rsi", "r11", "memory", "cc");
}

/* Used before the move, released, as programs do it after each piece of work, and used again. */
__attribute__((target("amx-tile"))) static void use_tile(void)
{
	memset(tile_after, 0, sizeof(tile_after));
	asm volatile("ldtilecfg %[tiles]\n\t"
		     "tileloadd (%[from], %[stride], 1), %%tmm0\n\t"
		     "tilestored %%tmm0, (%[to], %[stride], 1)\n\t"
		     "tilerelease\n\t"
		     :: [tiles] "m"(tiles), [from] "r"(tile), [to] "r"(tile_after), [stride] "r"(64ul) : "memory");
	victim_check(!memcmp(tile, tile_after, sizeof(tile)));
}

int main(int argc, char **argv)
{
	bool vectors = cpu_has(7, 1, 16) && cpu_has(7, 1, 30), amx = cpu_has(7, 3, 24);

	victim_begin(argc, argv);
	fill(&before, sizeof(before));
	fill(tile, sizeof(tile));
	tiles.columns[0] = 64;
	tiles.rows[0] = 16;
	if (amx && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA))
		use_tile();
	else
		amx = false;
	victim_report("has%s%s", vectors ? " avx512" : "", amx ? " amx" : "");
	victim_ready();
	if (vectors)
		sleep_with_vectors();
	while (victim_tick())
		usleep(1000);

	if (vectors && memcmp(&before, &after, sizeof(before)))
		for (size_t i = 0; i < sizeof(before); i++)
			if (((uint8_t *)&before)[i] != ((uint8_t *)&after)[i])
				victim_fail("byte %zu of %s %zu is another", i % (i < 2048 ? 64 : 8), i < 2048 ? "vector" : "mask",
					    i < 2048 ? i / 64 : (i - 2048) / 8);
	if (amx)
		use_tile();
	return victim_ok();
}
