/* image.h - CRIU's images, in memory: a set of named images, each of entries, that travels as one piece or
 * is saved as a directory that CRIU's tools read.
 *
 *	u32 IMG_COMMON_MAGIC, u32 magic of the name		("inventory" has the second alone)
 *	u32 size, protobuf message, [raw bytes that the message tells of]	again and again
 *
 * Images of phaul's own ("phaul-...") are raw bytes.
 */
#ifndef PHAUL_IMAGE_H
#define PHAUL_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files.pb-c.h"
#include "memory.pb-c.h"
#include "phaul.h"
#include "process.pb-c.h"

#define IMAGES_VERSION 2	/* with a common magic number before each image's own */

struct image_set;

struct image_set *image_set_new(void);
void image_set_free(struct image_set *set);

/* Appends an entry to the image `base`, or `base`-`id` if id is not negative. -EINVAL: no such base. */
int image_put(struct image_set *set, const char *base, int64_t id, const ProtobufCMessage *message);
/* Appends bytes as they are: what follows an entry, or a whole image of phaul's own. */
int image_put_raw(struct image_set *set, const char *base, int64_t id, const void *bytes, size_t size);

struct image_reader {
	const uint8_t *at, *end;
};

/* Starts at the first entry. -ENOENT: the set has no such image; -EPROTO: its magic is wrong. */
int image_read(const struct image_set *set, const char *base, int64_t id, struct image_reader *ret);
/* 1 and a message to be freed by protobuf_c_message_free_unpacked(), 0 at the end, -EPROTO. */
int image_next(struct image_reader *r, const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret);
/* Points `ret` at the next bytes, which stay the set's. -EPROTO: there are fewer. */
int image_next_raw(struct image_reader *r, size_t size, const void **ret);
/* All messages from here on, each to be freed, also if the answer is an error. */
int image_rest(struct image_reader *r, const ProtobufCMessageDescriptor *type, ProtobufCMessage ***ret, size_t *ret_count);
/* All messages of an image, each to be freed; none if there is no such image. */
int image_read_all(const struct image_set *set, const char *base, int64_t id, const ProtobufCMessageDescriptor *type,
		   ProtobufCMessage ***ret, size_t *ret_count);
/* Leaves out what is NULL by now. */
void image_free_all(void *messages, size_t count);
size_t image_left(const struct image_reader *r);

/* For images that are too large for a set: the magic at the start of a file, and a reader of what is in memory. */
int image_write_magic(int fd, const char *base);
int image_read_bytes(const char *base, const void *bytes, size_t size, struct image_reader *ret);

/* For walking through all: the i-th image's name ("core-12"), NULL beyond the last. */
const char *image_set_name(const struct image_set *set, size_t i);
/* All bytes of the image of this name, magic included. -ENOENT */
int image_set_bytes(const struct image_set *set, const char *name, const void **ret, size_t *ret_size);
/* And what it is ("core"), with a reader of it. -ENOENT: beyond the last; -EPROTO: its magic is wrong. */
int image_read_nth(const struct image_set *set, size_t i, const char **ret_base, struct image_reader *ret);
/* image_check.c: each image has whole entries of its type. The error names the image and the field. */
int image_set_check(const struct image_set *set, struct phaul_error *err);

/* Adds copies of all images of `from`, none of which `to` has. */
int image_set_merge(struct image_set *to, const struct image_set *from);

/* One piece of memory, malloc'ed. */
int image_set_pack(const struct image_set *set, uint8_t **ret, size_t *ret_size);
/* What comes from elsewhere is never trusted: -EPROTO for whatever isn't a set. The images stay in `bytes`,
 * which must live as long as the set. */
int image_set_unpack(const void *bytes, size_t size, struct image_set **ret, struct phaul_error *err);

/* As NAME.img, mode 0600, synced to disk; and back. Pages are files of their own. */
struct image_sink;
int image_set_save(const struct image_set *set, struct image_sink *sink);
/* May a file of a checkpoint be called so: "NAME.img" of an image, or of pages? */
bool image_is_file_name(const char *file);
/* The error for an image that isn't there, or isn't what it should be. */
int image_malformed(const char *base, int64_t id, struct phaul_error *err);
/* The error for one in which a field says what can't be; what it is follows the image's name. */
int image_wrong(const char *base, int64_t id, struct phaul_error *err, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
int image_set_load(int directory, struct image_set **ret, struct phaul_error *err);

#endif
