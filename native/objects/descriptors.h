/* descriptors.h - what the kinds of descriptors share. */
#ifndef PHAUL_DESCRIPTORS_H
#define PHAUL_DESCRIPTORS_H

#include "object.h"

/* The number after "key:" in the fdinfo text, in the given base. */
bool fdinfo_number(const struct descriptor *d, const char *key, int base, uint64_t *ret);

/* Our duplicate of it, if what it is or what there is to know of it asks for one; a socket is recognised by it. */
int descriptor_own(const struct descriptor_table *t, struct descriptor *d, uint32_t flags);
void descriptor_disown(struct descriptor *d);

/* obstacle() and notice() for a descriptor. The text goes on after "fd N ", or "fd N (also fd M) ".
 */
void refuse(struct check *c, const struct descriptor *d, const char *code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void remark(struct check *c, const struct descriptor *d, const char *code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Puts an entry of the type of d's kind into "files". */
int file_put(struct dump *dump, const struct descriptor *d, FileEntry *file);
/* Puts the file that `path` leads to, a link below /proc, into "files" under its name there. */
int file_put_reached(struct dump *dump, const char *path, uint32_t flags, FownEntry *owner, uint32_t id);
/* Who gets signals from it, for its image. */
static inline FownEntry *file_owner(const struct descriptor *d)
{
	return (FownEntry *)&d->owner;
}

/* From d->own; nobody without one. */
void owner_read(struct descriptor *d);
int owner_build(struct build *b, const FileEntry *file, int fd);
/* With its number in the husk. */
int owner_finish(struct call_stream *s, const FileEntry *file, int fd);

/* Makes a description in our process if it isn't made yet; returns its descriptor. */
int file_make(struct build *b, uint32_t id);
/* The lowest number that a description will have, -1: none. */
int file_number(const struct build *b, uint32_t id);
/* Gives `fd` the flags that can be changed after opening; returns fd, or closes it and fails. */
int file_set_flags(struct build *b, int fd, uint32_t flags);

/* A batch without an end: runs what was gathered whenever the area is full. */
#define CALL_STREAM_MAX 512

struct call_stream {
	struct build *build;
	struct batch batch;
	int spare;			/* a number in the husk that is free for a moment */
	int handed[CALL_STREAM_MAX];	/* ours, to be closed after the next run */
	size_t handed_count;
};

/* Makes sure that one more call with `bytes` of data fits: to be called before each batch_call() on
 * stream->batch. Addresses and results of calls before are void afterwards. */
int call_stream_room(struct call_stream *s, size_t bytes);

/* epoll.c: has `fd`, which is ours and has no number in any process, watch what it watched. What that is, is made. */
int epoll_finish_on_its_way(struct build *b, const FileEntry *file, int fd);

/* netlink_socket.c: waits there, unread, what the kernel has answered to a question of this socket? A program mostly waits for
 * it. d->own is open. */
bool netlink_has_answer(const struct descriptor *d);

/* Says what a descriptor is that no kind knows, and why it can't move. */
void unmovable_refuse(struct check *c, const struct descriptor *d);

/* An end of a pipe in another process, or a socket. */
struct pipe_holder {
	dev_t dev;			/* of a named pipe */
	ino_t ino;
	pid_t pid;
	bool reads, writes;
	char name[16];
};

/* Somebody outside who has an end of the same for reading (or writing) open; NULL: nobody, or c->frozen. */
const struct pipe_holder *pipe_holder_find(struct check *c, const struct descriptor *d, bool reads, bool writes);
void pipe_holders_free(struct check *c);

/* regular_file.c, for device.c, which has the same image. */
int regular_file_dump(struct dump *dump, const struct descriptor *d);
bool device_is_plain(dev_t device);

#endif
