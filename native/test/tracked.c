#include "tracked.h"

#include <stdio.h>
#include <stdlib.h>

#include "freeze.h"

struct phaul_error err;

void must(int code, const char *doing)
{
	if (code < 0) {
		printf("%s: %s\n", doing, err.what);
		exit(1);
	}
}

struct tracker open_tracker(pid_t pid, const struct tracker_kind *kind)
{
	struct memory_map map;
	remote_addr syscall_at;
	struct frozen leader;
	struct tracker t;
	struct remote r;

	must(memory_map_read(pid, false, &map, &err), "reading the map");
	must(remote_find_syscall(pid, &map, &syscall_at), "finding a syscall");
	memory_map_free(&map);
	must(freeze_leader(pid, 1000, &leader, &err), "stopping");
	must(remote_begin(&r, pid, syscall_at), "borrowing");
	must(tracker_open(&t, kind, pid, &r, &err), "opening a tracker");
	remote_end(&r);
	thaw(&leader);
	return t;
}

bool holds(const struct range_list *list, uint64_t page)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->at[i].address <= page && page < range_end(&list->at[i]))
			return true;
	return false;
}
