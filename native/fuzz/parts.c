#include "parts.h"

#include <stdio.h>
#include <string.h>

void parts_read(const uint8_t *input, size_t size, struct parts *ret)
{
	const uint8_t *at = input, *end = input + size;

	ret->count = 0;
	while (at < end && ret->count < PARTS_MAX) {
		struct part *p = &ret->at[ret->count];
		uint8_t name_size = *at++;
		uint32_t part_size;

		if (name_size >= PART_NAME_MAX || end - at < (ptrdiff_t)(name_size + sizeof(part_size)))
			return;
		memcpy(p->name, at, name_size);
		p->name[name_size] = 0;
		memcpy(&part_size, at + name_size, sizeof(part_size));
		at += name_size + sizeof(part_size);
		p->bytes = at;
		p->size = part_size < (size_t)(end - at) ? part_size : (size_t)(end - at);
		at += p->size;
		ret->count++;
	}
}

size_t parts_write(const struct parts *parts, uint8_t *to, size_t capacity)
{
	uint8_t *at = to;

	for (size_t i = 0; i < parts->count; i++) {
		const struct part *p = &parts->at[i];
		uint8_t name_size = strlen(p->name);
		uint32_t part_size = p->size;

		if (capacity - (at - to) < 1 + name_size + sizeof(part_size) + p->size)
			return 0;
		*at++ = name_size;
		at = mempcpy(at, p->name, name_size);
		at = mempcpy(at, &part_size, sizeof(part_size));
		if (p->size)
			at = mempcpy(at, p->bytes, p->size);
	}
	return at - to;
}

const struct part *parts_find(const struct parts *parts, const char *name)
{
	for (size_t i = 0; i < parts->count; i++)
		if (!strcmp(parts->at[i].name, name))
			return &parts->at[i];
	return NULL;
}

void parts_add(struct parts *parts, const char *name, const void *bytes, size_t size)
{
	struct part *p = &parts->at[parts->count];

	if (parts->count == PARTS_MAX)
		return;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->bytes = bytes;
	p->size = size;
	parts->count++;
}

void parts_remove(struct parts *parts, const char *name)
{
	struct part *p = (struct part *)parts_find(parts, name);

	if (p)
		memmove(p, p + 1, (parts->at + --parts->count - p) * sizeof(*p));
}
