/* file_log.h - what was made of files that come along, in a list and in a file, so that it can be taken back by whoever comes after
 * an agent that was killed. Nothing is taken back that isn't what was made: somebody else may have put something in its place.
 */
#ifndef PHAUL_FILE_LOG_H
#define PHAUL_FILE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct phaul_error;

/* Tells a file from one that has its inode number later. */
struct file_identity {
	uint64_t inode;
	int64_t born_s;			/* 0: the file system doesn't know */
	uint32_t born_ns;
};

struct made_file {
	enum { MADE_TEMPORARY = 't', MADE_FILE = 'f', MADE_DIRECTORY = 'd' } kind;
	struct file_identity is;	/* of a file that takes its place, and of a directory */
	char *path;
	char *before;			/* under which name there is what was in its place; "": there was nothing */
};

struct file_log {
	const char *name;
	int fd;				/* -1: there is nothing to be written yet */
	struct made_file *made;
	size_t count;
};

/* Of what `path` is, from `directory` on. -errno. */
int file_identity(int directory, const char *path, int flags, struct file_identity *ret);
bool file_is(const char *path, const struct file_identity *is);

/* `name` is used until the end, and is no file yet. */
void file_log_begin(struct file_log *log, const char *name);
/* A temporary file is added before it is made, a file before it takes its place, a directory when it is made. */
int file_log_add(struct file_log *log, const struct made_file *made, struct phaul_error *err);
/* Of a file that was put in its place. NULL: none. */
const struct made_file *file_log_find(const struct file_log *log, const char *path);
/* What was made stays, or what was before is there again; the file goes. Frees. */
void file_log_end(struct file_log *log, bool keep);

#endif
