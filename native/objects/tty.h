/* tty.h - terminals are made before the processes: who is forked by the leader of a session has the terminal that the
 * leader had taken by then.
 */
#ifndef PHAUL_TTY_H
#define PHAUL_TTY_H

#include "descriptors.h"

/* Makes all pseudo terminals of the images. */
int ttys_make(struct built_files *f, const struct image_set *images, struct phaul_error *err);
/* The session of `leader` takes its terminal; or says which process group has it. */
int ttys_take(const struct built_files *f, const struct image_set *images, struct remote *leader, bool group,
	      struct phaul_error *err);
/* Opens /dev/tty where a process of the session had it open; `free_number` is the lowest that the husk has free. */
int ttys_finish(struct build *b, struct call_stream *s, int free_number);

/* tty_data.c: what waits at the end `own` to be read; what is written to `other` arrives there. */
int tty_data_dump(struct dump *dump, uint32_t info_id, int own, int other);
int tty_data_build(const struct image_set *images, uint32_t info_id, int other);

#endif
