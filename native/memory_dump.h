/* memory_dump.h - what a process has in memory, into the images of a directory. */
#ifndef PHAUL_MEMORY_DUMP_H
#define PHAUL_MEMORY_DUMP_H

#include "page_file.h"
#include "shmem.h"

/* Its own pages, and memory that it shares and that `known` hasn't yet. While it is `running` pages may go, which count as
 * zero: whoever dumps it at last compares. */
int memory_dump(pid_t pid, const struct memory_map *map, bool running, struct shmem_set *known, struct page_writer *w);

#endif
