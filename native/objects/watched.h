/* watched.h - files that inotify and fanotify watch, which the kernel tells by their handles. */
#ifndef PHAUL_WATCHED_H
#define PHAUL_WATCHED_H

#include "descriptors.h"

#define WATCHED_HANDLE_MAX 128

struct watched {
	uint64_t ino;
	uint32_t dev;			/* as the kernel has it: 20 bits of minor */
	uint32_t bytes, type;
	uint8_t handle[WATCHED_HANDLE_MAX];
};

/* "ino:.. sdev:.. ... fhandle-bytes:.. fhandle-type:.. f_handle:.."; false: there is no handle. */
bool watched_read(const char *text, struct watched *ret);
/* Ours, O_PATH; -ESTALE: it is gone, -ENOENT: its file system is mounted nowhere here. */
int watched_open(const struct watched *w);
/* Puts it into "files", fills the handle; `words` has room for WATCHED_HANDLE_MAX bytes. */
int watched_put(struct dump *d, const struct watched *w, FhEntry *handle, uint64_t *words, uint32_t *ret_file);
/* A name that leads to what the images mean, by its id in "files" or, in CRIU's, by its handle; then *ret_own is to be closed. */
int watched_path(const struct built_files *f, bool has_file, uint32_t file, const FhEntry *handle, uint32_t dev, char ret[4096],
		 int *ret_own);
/* Events that came from what restoring did are nobody's. */
int watched_keep(struct built_files *f, int fd);
void watched_drain(struct built_files *f);

#endif
