/* mm.h - what the kernel knows about an address space beside its mappings: where code, data, heap, stack,
 * arguments and environment lie, the auxiliary vector, the executable. /proc/PID/{exe,cmdline,environ,auxv,
 * stat} and brk() come from it.
 */
#ifndef PHAUL_MM_H
#define PHAUL_MM_H

#include "object.h"

/* Those of all processes of a dump: one that several have mapped is told of once, which CRIU takes for what they may share. */
struct mapped_files {
	struct mapped_file {
		uint64_t dev, inode;
		char *path;
		int flags;		/* O_RDONLY, O_RDWR */
		uint32_t id;		/* in "files" */
	} *at;
	size_t count;
};

void mapped_files_free(struct mapped_files *files);

/* `brk` is what the remote call brk(0) answered. Writes "mm-PID" without mappings, and its file. */
int mm_dump(struct dump *d, uint64_t brk);
/* The husk has no descriptors. */
int mm_build(struct build *b);
/* What the process has set for its memory as a whole: b->dumpable, b->thp_disabled. */
int mm_read_settings(struct build *b);

#endif
