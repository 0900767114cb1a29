/* mutate.c - changes of inputs that know what they are made of: parts, sets of images, images of entries, protobuf messages.
 * Sizes stay right where the change is within, so that it is met by who reads the field, and not by who counts the bytes. Now and
 * then they don't.
 */
#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "parts.h"

#define COMMON_MAGIC 0x54564319u
#define INVENTORY_MAGIC 0x58313116u
#define SET_MAGIC 0x31746573u
#define DEPTH_MAX 6
#define FIELDS_MAX 512
#define ENTRIES_MAX 256
#define GROWTH 64
#define SCRATCH (1 << 20)

static uint64_t state;

static size_t below(size_t most)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return most ? state % most : 0;
}

/* A piece of memory that is written from its start on; what has no room is left out. */
struct output {
	uint8_t *at;
	size_t size, capacity;
};

static void put(struct output *to, const void *bytes, size_t size)
{
	if (!size || size > to->capacity - to->size)
		return;
	memmove(to->at + to->size, bytes, size);
	to->size += size;
}

static uint32_t word_at(const uint8_t *bytes)
{
	uint32_t word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

static void put_word(struct output *to, uint32_t word)
{
	put(to, &word, sizeof(word));
}

/* ---- protobuf ---- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct field {
	const uint8_t *start, *value, *end;	/* `value`: of bytes, behind their length */
	uint32_t tag;
	uint64_t number;			/* of a varint */
};

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret)
{
	*ret = 0;
	for (int shift = 0; *at < end && shift < 64; shift += 7) {
		uint8_t byte = *(*at)++;

		*ret |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static void put_varint(struct output *to, uint64_t value)
{
	uint8_t bytes[10];
	size_t n = 0;

	for (; value >= 0x80; value >>= 7)
		bytes[n++] = value | 0x80;
	bytes[n++] = value;
	put(to, bytes, n);
}

static bool next_field(const uint8_t **at, const uint8_t *end, struct field *ret)
{
	uint64_t tag, size;

	ret->start = *at;
	if (!get_varint(at, end, &tag) || tag < 8 || tag > 0xffffffff)
		return false;
	ret->tag = tag;
	ret->value = *at;
	switch (tag & 7) {
	case VARINT:
		if (!get_varint(at, end, &ret->number))
			return false;
		break;
	case FIXED64:
	case FIXED32:
		size = (tag & 7) == FIXED64 ? 8 : 4;
		if ((size_t)(end - *at) < size)
			return false;
		*at += size;
		break;
	case BYTES:
		if (!get_varint(at, end, &size) || size > (size_t)(end - *at))
			return false;
		ret->value = *at;
		*at += size;
		break;
	default:
		return false;
	}
	ret->end = *at;
	return true;
}

/* -1: it is no message. */
static int read_fields(const uint8_t *bytes, size_t size, struct field fields[FIELDS_MAX])
{
	const uint8_t *at = bytes, *end = bytes + size;
	int count = 0;

	while (at < end && count < FIELDS_MAX)
		if (!next_field(&at, end, &fields[count++]))
			return -1;
	return count;
}

static uint64_t change_number(uint64_t was, const struct field *fields, int count)
{
	static const uint64_t numbers[] = { 0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 255, 256, 1000, 4095, 4096, 4097, 65535, 65536, 1 << 20,
					    (1 << 20) + 1, 1 << 22, 1 << 24, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 48,
					    0x7ffffffff000, 0x7fffffffffff, 1ull << 52, 1ull << 60, 1ull << 63, ~0ull, ~0ull - 4095 };
	const struct field *other = &fields[below(count)];

	switch (below(6)) {
	case 0:
		return was ^ 1ull << below(64);
	case 1:
		return was + below(9) - 4;
	case 2:
		return (other->tag & 7) == VARINT ? other->number : was + 4096;
	case 3:
		return below(64);
	default:
		return numbers[below(sizeof(numbers) / sizeof(*numbers))];
	}
}

static void change_message(const uint8_t *bytes, size_t size, struct output *to, int depth);

static void change_bytes(const uint8_t *bytes, size_t size, struct output *to)
{
	size_t room = to->capacity - to->size;

	if (size + GROWTH > room) {
		put(to, bytes, size);
		return;
	}
	memmove(to->at + to->size, bytes, size);
	to->size += LLVMFuzzerMutate(to->at + to->size, size, size + GROWTH);
}

static void change_field(const struct field *f, const struct field *fields, int count, struct output *to, int depth)
{
	static uint8_t scratch[DEPTH_MAX + 1][SCRATCH];
	struct output inner = { scratch[depth], 0, SCRATCH };
	static struct field unused[FIELDS_MAX];
	size_t size = f->end - f->value;
	uint64_t number;

	switch (f->tag & 7) {
	case VARINT:
		put_varint(to, f->tag);
		put_varint(to, change_number(f->number, fields, count));
		return;
	case BYTES:
		if (depth < DEPTH_MAX && size && below(8) && read_fields(f->value, size, unused) > 0)
			change_message(f->value, size, &inner, depth + 1);
		else
			change_bytes(f->value, size, &inner);
		put_varint(to, f->tag);
		put_varint(to, inner.size);
		put(to, inner.at, inner.size);
		return;
	default:
		number = change_number(0, fields, count);
		put_varint(to, f->tag);
		put(to, &number, size);
	}
}

static void put_any_field(struct output *to)
{
	uint32_t number = below(16) ? 1 + below(40) : 1000 + below(8);

	if (below(3)) {
		put_varint(to, number << 3 | VARINT);
		put_varint(to, change_number(0, &(struct field){0}, 1));
	} else {
		put_varint(to, number << 3 | BYTES);
		put_varint(to, 0);
	}
}

static void change_message(const uint8_t *bytes, size_t size, struct output *to, int depth)
{
	struct field fields[FIELDS_MAX];
	int count = read_fields(bytes, size, fields);
	const struct field *f = count > 0 ? &fields[below(count)] : NULL;

	if (!f) {
		put(to, bytes, size);
		put_any_field(to);
		return;
	}
	put(to, bytes, f->start - bytes);
	switch (below(16)) {
	case 0:
		break;		/* it is left out */
	case 1:
		put(to, f->start, f->end - f->start);
		put(to, f->start, f->end - f->start);
		break;
	case 2:
		put_any_field(to);
		put(to, f->start, f->end - f->start);
		break;
	default:
		change_field(f, fields, count, to, depth);
	}
	put(to, f->end, bytes + size - f->end);
}

/* ---- images ---- */

static size_t magic_size(const uint8_t *bytes, size_t size)
{
	if (size >= 8 && word_at(bytes) == COMMON_MAGIC)
		return 8;
	return size >= 4 && word_at(bytes) == INVENTORY_MAGIC ? 4 : 0;
}

/* Entries one behind the other, as far as they are: what follows one may be bytes that it tells of. */
static size_t read_entries(const uint8_t *bytes, size_t size, const uint8_t *entries[ENTRIES_MAX + 1])
{
	static struct field unused[FIELDS_MAX];
	const uint8_t *at = bytes + magic_size(bytes, size), *end = bytes + size;
	size_t count = 0;

	while (count < ENTRIES_MAX && end - at >= 4 && word_at(at) <= (size_t)(end - at - 4) &&
	       read_fields(at + 4, word_at(at), unused) >= 0) {
		entries[count++] = at;
		at += 4 + word_at(at);
	}
	entries[count] = at;
	return count;
}

static void put_changed_entry(const uint8_t *entry, struct output *to)
{
	static uint8_t bytes[SCRATCH];
	struct output message = { bytes, 0, sizeof(bytes) };

	change_message(entry + 4, word_at(entry), &message, 0);
	put_word(to, below(64) ? message.size : below(2) ? message.size + below(9) - 4 : 1u << below(32));
	put(to, message.at, message.size);
}

static void change_image(const uint8_t *bytes, size_t size, struct output *to)
{
	const uint8_t *entries[ENTRIES_MAX + 1], *entry;
	size_t count = magic_size(bytes, size) ? read_entries(bytes, size, entries) : 0, at;

	if (!count || !below(24)) {
		change_bytes(bytes, size, to);
		return;
	}
	at = below(count);
	entry = entries[at];
	put(to, bytes, entry - bytes);
	switch (below(16)) {
	case 0:
		break;
	case 1:
		put(to, entry, entries[at + 1] - entry);
		put(to, entry, entries[at + 1] - entry);
		break;
	case 2:
		put(to, entry, entries[at + 1] - entry);
		put_changed_entry(entry, to);
		break;
	default:
		put_changed_entry(entry, to);
	}
	put(to, entries[at + 1], bytes + size - entries[at + 1]);
}

/* u32 SET_MAGIC, u32 count, then for each: u32 size of the name, u32 size, name, bytes. */
static void change_set(const uint8_t *bytes, size_t size, struct output *to)
{
	static uint8_t scratch[SCRATCH];
	struct output image = { scratch, 0, sizeof(scratch) };
	const uint8_t *at = bytes + 8, *end = bytes + size, *chosen = NULL;
	size_t seen = 0;

	while (end - at >= 8 && word_at(at) <= (size_t)(end - at - 8) && word_at(at + 4) <= (size_t)(end - at - 8 - word_at(at))) {
		if (!below(++seen))
			chosen = at;
		at += 8 + word_at(at) + word_at(at + 4);
	}
	if (!chosen || !below(32)) {
		change_bytes(bytes, size, to);
		return;
	}
	at = chosen + 8 + word_at(chosen);
	change_image(at, word_at(chosen + 4), &image);
	put(to, bytes, chosen - bytes);
	put_word(to, word_at(chosen));
	put_word(to, image.size);
	put(to, chosen + 8, word_at(chosen));
	put(to, image.at, image.size);
	at += word_at(chosen + 4);
	put(to, at, end - at);
}

/* ---- parts ---- */

static void change_content(struct part *p)
{
	static uint8_t bytes[SCRATCH];
	struct output to = { bytes, 0, sizeof(bytes) };

	if (p->size >= 8 && word_at(p->bytes) == SET_MAGIC)
		change_set(p->bytes, p->size, &to);
	else
		change_image(p->bytes, p->size, &to);
	p->bytes = to.at;
	p->size = to.size;
}

/* The number of the call that the kernel refuses, and with what (kernel.h). */
static void choose_failure(struct parts *parts)
{
	static uint16_t numbers[2];
	bool refuses = parts_find(parts, "fail");

	parts_remove(parts, "fail");
	if (refuses && !below(3))
		return;
	numbers[0] = below(2) ? below(64) : below(2000);
	numbers[1] = below(below(2) ? 40 : 134);
	parts_add(parts, "fail", numbers, sizeof(numbers));
}

static void change_name(struct part *p)
{
	size_t size = strlen(p->name);

	if (size + 1 < sizeof(p->name))
		p->name[LLVMFuzzerMutate((uint8_t *)p->name, size, size)] = 0;
}

static void change(struct parts *parts)
{
	struct part *p = &parts->at[below(parts->count)], swapped;
	size_t other;

	/* What is in pages is nobody's business. */
	if (!strncmp(p->name, "pages-", 6))
		p = &parts->at[below(parts->count)];

	switch (below(40)) {
	case 0:
		memmove(p, p + 1, (parts->at + --parts->count - p) * sizeof(*p));
		break;
	case 1:
		other = below(parts->count);
		swapped = *p;
		*p = parts->at[other];
		parts->at[other] = swapped;
		break;
	case 2:
		parts_add(parts, p->name, p->bytes, p->size);
		break;
	case 3:
		change_name(p);
		break;
	case 4:
		p->size = below(p->size + 1);
		break;
	case 5:
	case 6:
		choose_failure(parts);
		break;
	default:
		change_content(p);
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t max, unsigned int seed)
{
	static uint8_t result[SCRATCH];
	static struct parts parts;
	size_t written;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	(void)below(2);
	parts_read(bytes, size, &parts);
	if (!parts.count)
		return LLVMFuzzerMutate(bytes, size, max);
	change(&parts);
	written = parts_write(&parts, result, max < sizeof(result) ? max : sizeof(result));
	if (!written)
		return size;
	memcpy(bytes, result, written);
	return written;
}

/* An image gets the entries of another one of the same kind, or its place is taken. */
static void cross(struct part *p, const struct part *other)
{
	static uint8_t bytes[SCRATCH];
	struct output to = { bytes, 0, sizeof(bytes) };
	size_t magic = magic_size(other->bytes, other->size);

	if (!magic || magic != magic_size(p->bytes, p->size) || memcmp(p->bytes, other->bytes, magic) || below(2)) {
		p->bytes = other->bytes;
		p->size = other->size;
		return;
	}
	put(&to, p->bytes, p->size);
	put(&to, other->bytes + magic, other->size - magic);
	p->bytes = to.at;
	p->size = to.size;
}

/* "core-12.img" and "core-7.img" are of the same kind. */
static bool same_kind(const char *a, const char *b)
{
	size_t n = strcspn(a, "0123456789");

	return n && n == strcspn(b, "0123456789") && !strncmp(a, b, n);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *ret, size_t max,
				 unsigned int seed)
{
	static struct parts parts, others;
	const struct part *from;
	size_t written, most = one_size < max ? one_size : max, same = 0;
	struct part *to = NULL;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	parts_read(one, one_size, &parts);
	parts_read(other, other_size, &others);
	if (others.count) {
		from = &others.at[below(others.count)];
		for (size_t i = 0; i < parts.count; i++)
			if (same_kind(parts.at[i].name, from->name) && !below(++same))
				to = &parts.at[i];
		if (to)
			cross(to, from);
		else
			parts_add(&parts, from->name, from->bytes, from->size);
	}
	written = parts_write(&parts, ret, max);
	if (!written)
		memcpy(ret, one, most);
	return written ? written : most;
}
