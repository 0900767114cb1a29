/* memory_map_test.c - what /proc tells of a process that maps and unmaps meanwhile is put in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory_map.h"

static int check(const char *text, size_t count, const uint64_t (*ranges)[3])
{
	struct memory_map map;
	int failed = 0;

	if (memory_map_parse(strdup(text), &map))
		return 1;
	if (map.count != count)
		failed = printf("%zu mappings instead of %zu\n", map.count, count);
	for (size_t i = 0; i < count && !failed; i++)
		if (map.at[i].start != ranges[i][0] || map.at[i].end != ranges[i][1] || map.at[i].offset != ranges[i][2])
			failed = printf("mapping %zu is %lx-%lx at %lx\n", i, map.at[i].start, map.at[i].end, map.at[i].offset);
	memory_map_free(&map);
	return failed;
}

/* Without smaps a map knows by an older one of what size its pages are. */
static int inherits(void)
{
	const char *with_flags =
		"40000000-c0000000 rw-p 00000000 00:11 7          /anon_hugepage (deleted)\n"
		"KernelPageSize:  1048576 kB\n"
		"VmFlags: rd wr mr mw me de nr ht \n";
	const char *bare = "40000000-80000000 rw-p 00000000 00:11 7          /anon_hugepage (deleted)\n";
	struct memory_map known, map;
	int failed = 0;

	if (memory_map_parse(strdup(with_flags), &known) || memory_map_parse(strdup(bare), &map))
		return 1;
	memory_map_inherit_flags(&map, &known);
	if (map.at[0].huge_shift != 30 || !(map.at[0].flags & VMA_HUGETLB) || !(map.at[0].flags & VMA_NORESERVE))
		failed = printf("what is known of a mapping of huge pages is forgotten: %x, pages of 1 << %u\n", map.at[0].flags,
				map.at[0].huge_shift);
	memory_map_free(&known);
	memory_map_free(&map);
	return failed;
}

int main(void)
{
	/* The second has merged with what follows; the third is told again. */
	const char *merged =
		"10000-20000 rw-p 00000000 00:00 0 \n"
		"20000-30000 rw-p 00000000 00:00 0 \n"
		"20000-50000 rw-p 00000000 00:00 0 \n"
		"40000-50000 rw-p 00000000 00:00 0 \n"
		"60000-70000 r--p 00000000 08:01 7          /bin/x\n"
		"60000-90000 r--p 00000000 08:01 7          /bin/x\n";
	const uint64_t apart[][3] = {
		{ 0x10000, 0x20000, 0 }, { 0x20000, 0x30000, 0 }, { 0x30000, 0x50000, 0 }, { 0x60000, 0x70000, 0 },
		{ 0x70000, 0x90000, 0x10000 },
	};
	/* One has grown to below those told before it. */
	const char *grown =
		"30000-40000 rw-p 00000000 00:00 0 \n"
		"10000-50000 rw-p 00000000 00:00 0 \n";
	const uint64_t first[][3] = { { 0x30000, 0x40000, 0 }, { 0x40000, 0x50000, 0 } };

	return check(merged, 5, apart) || check(grown, 2, first) || inherits();
}
