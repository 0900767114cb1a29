/* chain.h - the directory of a checkpoint, with those that came before it: a dump leaves out the pages that the one
 * before has the same, to which the symbolic link "parent" in its directory leads, and so on. CRIU's, or ours.
 */
#ifndef PHAUL_CHAIN_H
#define PHAUL_CHAIN_H

#include <sys/stat.h>
#include <sys/types.h>

#include "image.h"

#define CHAIN_PREFIX_SIZE 64

struct chain_link {
	int directory;
	struct image_set *images;
	dev_t dev;
	ino_t ino;
};

struct chain {
	struct chain_link *at;	/* [0] is the checkpoint itself, [1] its parent */
	size_t count;
};

/* `directory` and `images` stay the caller's; a checkpoint that is still to be written has no images. Those of the parents
 * are read, and must be whole. */
int chain_open(int directory, struct image_set *images, struct chain *ret, struct phaul_error *err);
void chain_close(struct chain *c);
/* Can a dump of this process follow the checkpoint before, that is, does that have its memory? */
int chain_check_pid(const struct chain *c, pid_t pid, struct phaul_error *err);

/* What leads from the checkpoint's directory to that of `link`: "", "parent/", "parent/parent/". */
const char *chain_prefix(size_t link, char ret[CHAIN_PREFIX_SIZE]);

#endif
