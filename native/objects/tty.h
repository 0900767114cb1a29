/* tty.h - terminals are made before the processes: who is forked by the leader of a session has the terminal that the
 * leader had taken by then.
 */
#ifndef PHAUL_TTY_H
#define PHAUL_TTY_H

#include "../husk.h"
#include "descriptors.h"

struct tree;

/* Masters that were made before anything else was known of them. */
struct tty_masters {
	struct tty_master { uint32_t index; int fd; } *at;
	size_t count;
};

/* Which session of the tree has which terminal, for a round. */
int ttys_put_sessions(const struct tree *tree, struct image_set *to);
/* Makes the masters that a round tells of. */
int ttys_reserve(struct tty_masters *m, const struct image_set *images, struct phaul_error *err);
void tty_masters_free(struct tty_masters *m);

/* Makes all pseudo terminals of the images; takes masters that are made already. */
int ttys_make(struct built_files *f, const struct image_set *images, struct tty_masters *made, struct phaul_error *err);
/* The session that this one leads takes its terminal; or says which process group has it. */
int ttys_take(const struct built_files *f, const struct image_set *images, struct husk *session, bool group,
	      struct phaul_error *err);
/* Opens /dev/tty where a process of the session had it open; `free_number` is the lowest that the husk has free. */
int ttys_finish(struct build *b, struct call_stream *s, int free_number);

/* tty_data.c: what waits at the end `own` to be read; what is written to `other` arrives there. */
int tty_data_dump(struct dump *dump, uint32_t info_id, int own, int other);
int tty_data_build(const struct image_set *images, uint32_t info_id, int other);

#endif
