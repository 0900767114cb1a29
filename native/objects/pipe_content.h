#ifndef PHAUL_PIPE_CONTENT_H
#define PHAUL_PIPE_CONTENT_H

#include "object.h"

/* What is in a pipe or FIFO, and its size, into the image "pipes-data" or "fifo-data". `end` is one of ours; it stays in
 * the pipe. The content is left out if not `all`. */
int pipe_content_dump(struct dump *dump, const char *image, uint32_t pipe_id, int end, bool all);
/* Puts it in. */
int pipe_content_build(struct build *b, const char *image, uint32_t pipe_id, int end);
/* Are the `bytes` that are in `end` those of the image? 1, 0, or -errno. */
int pipe_content_compare(const struct image_set *images, const char *image, uint32_t pipe_id, int end, int bytes);

#endif
