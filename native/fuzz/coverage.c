#include "coverage.h"

#include <stdint.h>
#include <string.h>

#define MAP_SIZE (1u << 16)

static uint8_t map[MAP_SIZE];		/* how often each place was reached by this input */
static uint8_t seen[MAP_SIZE];		/* a bit for each power of two of that, by any */
static size_t places;
static volatile bool tracing;

/* A place is a step from one piece of code to another. */
void __sanitizer_cov_trace_pc(void)
{
	static __thread uint32_t before;
	uint32_t here = (uint64_t)__builtin_return_address(0) * 0x9e3779b97f4a7c15ull >> 40;

	if (!tracing)
		return;
	map[(here ^ before) % MAP_SIZE]++;
	before = here >> 1;
}

void coverage_begin(void)
{
	memset(map, 0, sizeof(map));
	tracing = true;
}

void coverage_end(void)
{
	tracing = false;
}

bool coverage_is_new(void)
{
	bool ret = false;

	for (size_t i = 0; i < MAP_SIZE; i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, map + i, sizeof(word));
		for (size_t n = i; word && n < i + sizeof(word); n++) {
			uint8_t bit = map[n] ? 1 << (31 - __builtin_clz(map[n])) : 0;

			places += bit && !seen[n];
			ret |= bit & ~seen[n];
			seen[n] |= bit;
		}
	}
	return ret;
}

size_t coverage_places(void)
{
	return places;
}
