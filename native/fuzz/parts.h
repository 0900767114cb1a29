/* parts.h - what an input of the fuzzers is: files with names, as a checkpoint directory or /proc has them, or the messages of a
 * conversation in their order.
 *
 *	u8 size of the name, name, u32 size, bytes		again and again
 *
 * Any bytes are an input: the last part may end early.
 */
#ifndef PHAUL_FUZZ_PARTS_H
#define PHAUL_FUZZ_PARTS_H

#include <stddef.h>
#include <stdint.h>

#define PARTS_MAX 256
#define PART_NAME_MAX 64

struct part {
	char name[PART_NAME_MAX];
	const uint8_t *bytes;		/* of the input */
	size_t size;
};

struct parts {
	struct part at[PARTS_MAX];
	size_t count;
};

void parts_read(const uint8_t *input, size_t size, struct parts *ret);
/* Returns the size of the input, or 0 if it is larger than `capacity`. */
size_t parts_write(const struct parts *parts, uint8_t *to, size_t capacity);
/* NULL: there is none. */
const struct part *parts_find(const struct parts *parts, const char *name);
void parts_add(struct parts *parts, const char *name, const void *bytes, size_t size);
/* The first of this name, if there is one. */
void parts_remove(struct parts *parts, const char *name);

#endif
