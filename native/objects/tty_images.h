/* tty_images.h - what images tell of terminals, for tty*.c. */
#ifndef PHAUL_TTY_IMAGES_H
#define PHAUL_TTY_IMAGES_H

#include <sys/sysmacros.h>

#include "tty.h"
#include "tty.pb-c.h"

struct ttys {
	struct built_files *f;
	const struct image_set *images;
	struct tty_masters *made;
	TtyInfoEntry **infos;
	size_t count;
	struct phaul_error *err;
};

int tty_infos_read(const struct image_set *images, TtyInfoEntry ***ret, size_t *count, struct phaul_error *err);
const TtyInfoEntry *tty_info_of(const struct ttys *t, const FileEntry *file);
const RegFileEntry *tty_name_of(const struct built_files *f, const FileEntry *file);
bool tty_is_master(const TtyInfoEntry *e);

/* tty_master.c: that of this number, or any. Returns a descriptor. */
int tty_open_master(const char *path, uint32_t index, bool any, struct phaul_error *error);
/* One that was reserved; -1: none was. */
int tty_take_master(struct tty_masters *made, uint32_t index);

#define PTY_FIRST 136		/* majors of slaves */
#define PTY_LAST 143

static inline bool tty_is_slave(dev_t device)
{
	return major(device) >= PTY_FIRST && major(device) <= PTY_LAST;
}

static inline uint32_t tty_slave_index(dev_t device)
{
	return (major(device) - PTY_FIRST) * 256 + minor(device);
}

#endif
