/* direct_reads.h - memory that disks are just writing to, past the caches (O_DIRECT), where no tracker sees it: a page counts as
 * written when the request for it begins. */
#ifndef PHAUL_DIRECT_READS_H
#define PHAUL_DIRECT_READS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct range_list;

/* What a process had read from disks at the last look. */
struct direct_reads {
	bool known;
	uint64_t bytes;
};

/* Makes `buffers` the pages that threads of the process wait for in a read(), or one of its kind, from a file with O_DIRECT. Those
 * of io_submit() can't be seen from outside. */
int direct_reads_find(pid_t pid, struct direct_reads *last, struct range_list *buffers);
/* Is that descriptor open with O_DIRECT? */
bool direct_reads_from(pid_t pid, int fd);

#endif
