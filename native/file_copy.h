/* file_copy.h - files that go along with a process: their content as notes of a channel, in passes. Each pass sends what has
 * changed since the one before, the last one in the freeze.
 *
 *	FILES  ((DIRECTORY | HEAD (DATA | ZERO)*) TAIL ATTRIBUTE* DONE)*  FILES_END
 */
#ifndef PHAUL_FILE_COPY_H
#define PHAUL_FILE_COPY_H

#include <stdbool.h>

#include "phaul.h"

#define FILE_BLOCK (64u << 10)		/* what has changed is found by sums of these */
#define FILE_DATA_MAX (256u << 10)	/* in one note, behind its offset; more than an attribute and its name may have */
#define FILE_PATH_MAX 4096u
#define FILE_TIMEOUT_MS 600000		/* between two notes: a large file is read, of which nothing has changed */

enum {
	FILE_DIRECTORY = 8,		/* struct file_head, for a directory that may be missing */
	FILE_HEAD = 9,			/* struct file_head: which file is meant from here on */
	FILE_DATA = 10,			/* an offset of 8 bytes, and what is there */
	FILE_ZERO = 11,			/* struct file_range: a hole, or zeros */
	FILE_TAIL = 12,			/* struct file_head without a path: what it is now */
	FILE_ATTRIBUTE = 13,		/* its name, a 0, its value; those that aren't sent aren't there any more */
	FILE_DONE = 14,
};

/* In the byte order of x86, as all of it. The path follows, without a 0. */
struct file_head {
	uint64_t size, inode;
	int64_t born_s, modified_s;	/* when it was made; 0: unknown */
	uint32_t born_ns, modified_ns;
	uint32_t mode, uid, gid, unused;
};

struct file_range {
	uint64_t offset, size;
};

/* Access control lists, capabilities, and what users and administrators have noted. Labels of security modules are the host's own. */
bool file_attribute_goes_along(const char *name);

#endif
