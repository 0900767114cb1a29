#include "frames.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_SHIFT 21

struct frames_table {
	uint64_t number;	/* address >> TABLE_SHIFT */
	uint32_t frames[FRAMES_PAGES];
};

static struct frames_table **slot_of(struct frames_table **slots, size_t capacity, uint64_t number)
{
	size_t i = number * 0x9e3779b97f4a7c15ull >> 20 & (capacity - 1);

	while (slots[i] && slots[i]->number != number)
		i = (i + 1) & (capacity - 1);
	return &slots[i];
}

static bool grow(struct frames *f)
{
	size_t capacity = f->capacity ? 2 * f->capacity : 256;
	struct frames_table **slots = calloc(capacity, sizeof(*slots));

	if (!slots)
		return false;
	for (size_t i = 0; i < f->capacity; i++)
		if (f->slots[i])
			*slot_of(slots, capacity, f->slots[i]->number) = f->slots[i];
	free(f->slots);
	f->slots = slots;
	f->capacity = capacity;
	return true;
}

uint32_t *frames_of(struct frames *f, uint64_t address, bool make)
{
	uint64_t number = address >> TABLE_SHIFT;
	struct frames_table **slot = f->capacity ? slot_of(f->slots, f->capacity, number) : NULL;

	if (slot && *slot)
		return (*slot)->frames;
	if (!make)
		return NULL;
	if (2 * (f->count + 1) > f->capacity && !grow(f)) {
		f->failed = true;
		return NULL;
	}
	slot = slot_of(f->slots, f->capacity, number);
	*slot = calloc(1, sizeof(**slot));
	if (!*slot) {
		f->failed = true;
		return NULL;
	}
	(*slot)->number = number;
	f->count++;
	return (*slot)->frames;
}

void frames_free(struct frames *f)
{
	for (size_t i = 0; i < f->capacity; i++)
		free(f->slots[i]);
	free(f->slots);
	memset(f, 0, sizeof(*f));
}
