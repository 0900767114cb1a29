/* image_sink.h - where the files of a checkpoint are written to: a directory here, or one on another host, by notes.
 *
 *	here				there (page_server.c)
 *			<----	BEFORE ...	pages of the checkpoint before, if there is one: their digests
 *			<----	BEGIN
 *	OPEN	name	---->			again and again
 *	WRITE ...	---->
 *	CLOSE		---->			synced
 *	END		---->
 *			<----	DONE		the directory is synced
 */
#ifndef PHAUL_IMAGE_SINK_H
#define PHAUL_IMAGE_SINK_H

#include "phaul.h"

enum sink_note {
	SINK_BEFORE = PHAUL_NOTE_USER, SINK_BEGIN, SINK_OPEN, SINK_WRITE, SINK_CLOSE, SINK_END, SINK_DONE,
};

#define SINK_WRITE_MAX (1u << 20)	/* bytes of one note */
#define SINK_TIMEOUT_MS (10 * 60000)	/* a disk that is slow to sync */

struct image_sink {
	int directory;
	struct phaul_channel *ch;	/* NULL: the directory is here */
	int file;			/* here, -1: none */
	const char *name;
	struct phaul_error *err;
};

/* One file at a time, which must not be there yet. All fill s->err. */
int image_sink_open(struct image_sink *s, const char *name);
int image_sink_write(struct image_sink *s, const void *bytes, size_t size);
int image_sink_close(struct image_sink *s);
/* A file of this name that is in `directory`. */
int image_sink_copy(struct image_sink *s, int directory, const char *name);
/* All are closed, and there to stay. */
int image_sink_end(struct image_sink *s);

#endif
