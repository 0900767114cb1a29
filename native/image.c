#include "image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "image_sink.h"

#define COMMON_MAGIC 0x54564319u
#define PACK_MAGIC 0x31746573u		/* "set1": the version of what travels */
#define NAME_MAX_SIZE 64
#define IMAGES_MAX (1u << 21)
#define IMAGE_FILE_MAX (1ull << 31)	/* pages are elsewhere: no image is near to this */

/* CRIU's magic for each base name; 0: raw bytes of phaul's own. */
static const struct base {
	const char *name;
	uint32_t magic;
} bases[] = {
	{ "core", 0x55053847 }, { "files", 0x56303138 }, { "fdinfo", 0x56213732 },
	{ "mm", 0x57492820 }, { "pstree", 0x50273030 }, { "ids", 0x54432030 }, { "fs", 0x51403912 },
	{ "pipes-data", 0x56453709 }, { "fifo-data", 0x59333054 }, { "sk-queues", 0x56264026 },
	{ "tcp-stream", 0x51465506 }, { "pagemap", 0x56084025 },
	{ "pagemap-shmem", 0x56084025 }, { "remap-fpath", 0x59133954 }, { "ghost-file", 0x52583605 },
	{ "filelocks", 0x54323616 }, { "memfd", 0x48453499 },
	{ "ipcns-shm", 0x46283044 }, { "cgroup", 0x59383330 }, { "seccomp", 0x64413049 }, { "tty-info", 0x59453036 }, { "tty-data", 0x59413026 }, { "inventory", 0x58313116 }, { "cpuinfo", 0x61404013 },
	{ "phaul-round", 0 }, { "phaul-process", 0 }, { "phaul-absent", 0 }, { "phaul-sparse", 0 },
	{ "phaul-populated", 0 }, { "phaul-shared", 0 }, { "phaul-posix", 0 }, { "phaul-guards", 0 }, { "phaul-files", 0 }, { "phaul-clocks", 0 },
	{ "phaul-inherited", 0 },
	{ "phaul-vdso", 0 }, { "phaul-xstate", 0 },
};

struct image {
	char name[NAME_MAX_SIZE];
	const struct base *base;
	uint8_t *bytes;
	size_t size, capacity;		/* capacity 0: the bytes are the unpacker's, not ours */
};

struct image_set {
	struct image *images;
	size_t count, capacity;
	uint32_t *index;		/* by hash of the name: number + 1, 0 is free */
	size_t index_size;		/* a power of two, more than twice `count` */
};

struct image_set *image_set_new(void)
{
	return calloc(1, sizeof(struct image_set));
}

void image_set_free(struct image_set *set)
{
	if (!set)
		return;
	for (size_t i = 0; i < set->count; i++)
		if (set->images[i].capacity)
			free(set->images[i].bytes);
	free(set->images);
	free(set->index);
	free(set);
}

/* "tcp-stream-12" is of base "tcp-stream", "pipes-data" of itself. */
static const struct base *base_of(const char *name)
{
	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		size_t n = strlen(bases[i].name);

		if (strncmp(name, bases[i].name, n))
			continue;
		if (!name[n] || (name[n] == '-' && name[n + 1] &&
				 strspn(name + n + 1, "0123456789abcdef") == strlen(name + n + 1)))
			return &bases[i];
	}
	return NULL;
}

static uint32_t hash(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	return h ^ h >> 15;
}

static uint32_t *slot(const struct image_set *set, const char *name)
{
	for (size_t i = hash(name);; i++) {
		uint32_t *at = &set->index[i & (set->index_size - 1)];

		if (!*at || !strcmp(set->images[*at - 1].name, name))
			return at;
	}
}

static struct image *find(const struct image_set *set, const char *name)
{
	uint32_t at = set->index_size ? *slot(set, name) : 0;

	return at ? &set->images[at - 1] : NULL;
}

static int grow(struct image_set *set)
{
	size_t capacity = set->capacity ? 2 * set->capacity : 32;
	struct image *images = realloc(set->images, capacity * sizeof(*images));
	uint32_t *index;

	if (!images)
		return -ENOMEM;
	set->images = images;
	index = calloc(4 * capacity, sizeof(*index));
	if (!index)
		return -ENOMEM;
	free(set->index);
	set->index = index;
	set->index_size = 4 * capacity;
	set->capacity = capacity;
	for (size_t i = 0; i < set->count; i++)
		*slot(set, set->images[i].name) = i + 1;
	return 0;
}

static int reserve(struct image *image, size_t size)
{
	size_t needed = image->size + size, capacity = 2 * image->capacity + needed;
	uint8_t *larger;

	if (needed <= image->capacity)
		return 0;
	larger = realloc(image->capacity ? image->bytes : NULL, capacity);
	if (!larger)
		return -ENOMEM;
	if (!image->capacity && image->size)
		memcpy(larger, image->bytes, image->size);
	image->bytes = larger;
	image->capacity = capacity;
	return 0;
}

static int append(struct image *image, const void *bytes, size_t size)
{
	int err = reserve(image, size);

	if (!err && size)
		memcpy(image->bytes + image->size, bytes, size);
	image->size += err ? 0 : size;
	return err;
}

static int add(struct image_set *set, const char *name, struct image **ret)
{
	const struct base *base = base_of(name);
	struct image *image;
	int err = 0;

	if (!base || strlen(name) >= NAME_MAX_SIZE)
		return -EINVAL;
	if (set->count == set->capacity)
		err = grow(set);
	if (err)
		return err;
	image = &set->images[set->count];
	*image = (struct image){ .base = base };
	strcpy(image->name, name);
	*slot(set, name) = ++set->count;
	*ret = image;
	return 0;
}

static bool has_common_magic(const struct base *base)
{
	return strcmp(base->name, "inventory");
}

static int put_magic(struct image *image)
{
	uint32_t magic[2] = { COMMON_MAGIC, image->base->magic };

	if (!image->base->magic)
		return 0;
	return has_common_magic(image->base) ? append(image, magic, 8) : append(image, magic + 1, 4);
}

static void name_of(const char *base, int64_t id, char name[NAME_MAX_SIZE])
{
	if (id < 0)
		snprintf(name, NAME_MAX_SIZE, "%s", base);
	else	/* CRIU writes the inode number of a connection in hexadecimal, all other ids in decimal. */
		snprintf(name, NAME_MAX_SIZE, strcmp(base, "tcp-stream") ? "%s-%lld" : "%s-%llx", base,
			 (long long)id);
}

static int open_image(struct image_set *set, const char *base, int64_t id, struct image **ret)
{
	char name[NAME_MAX_SIZE];
	int err;

	name_of(base, id, name);
	*ret = find(set, name);
	if (*ret)
		return 0;
	err = add(set, name, ret);
	return err ? err : put_magic(*ret);
}

int image_put(struct image_set *set, const char *base, int64_t id, const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	uint32_t word = size;
	struct image *image;
	int err = word == size ? open_image(set, base, id, &image) : -EFBIG;

	if (!err)
		err = reserve(image, sizeof(word) + size);
	if (err)
		return err;
	memcpy(image->bytes + image->size, &word, sizeof(word));
	protobuf_c_message_pack(message, image->bytes + image->size + sizeof(word));
	image->size += sizeof(word) + size;
	return 0;
}

int image_put_raw(struct image_set *set, const char *base, int64_t id, const void *bytes, size_t size)
{
	struct image *image;
	int err = open_image(set, base, id, &image);

	return err ? err : append(image, bytes, size);
}

static uint32_t word_at(const uint8_t *bytes)
{
	uint32_t word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

static int read_bytes(const struct base *base, const uint8_t *bytes, size_t size, struct image_reader *ret)
{
	size_t magics = !base->magic ? 0 : has_common_magic(base) ? 2 : 1;

	if (size < 4 * magics || (magics && word_at(bytes + 4 * magics - 4) != base->magic) ||
	    (magics == 2 && word_at(bytes) != COMMON_MAGIC))
		return -EPROTO;
	ret->at = bytes + 4 * magics;
	ret->end = bytes + size;
	return 0;
}

int image_read(const struct image_set *set, const char *base, int64_t id, struct image_reader *ret)
{
	char name[NAME_MAX_SIZE];
	const struct image *image;

	name_of(base, id, name);
	image = find(set, name);
	if (!image)
		return -ENOENT;
	return read_bytes(image->base, image->bytes, image->size, ret);
}

int image_read_bytes(const char *base, const void *bytes, size_t size, struct image_reader *ret)
{
	return read_bytes(base_of(base), bytes, size, ret);
}

int image_write_magic(int fd, const char *base)
{
	uint32_t magic[2] = { COMMON_MAGIC, base_of(base)->magic };
	ssize_t put = write(fd, magic, sizeof(magic));

	return put < 0 ? -errno : put == sizeof(magic) ? 0 : -EIO;
}

size_t image_left(const struct image_reader *r)
{
	return r->end - r->at;
}

int image_next(struct image_reader *r, const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret)
{
	uint32_t size;

	*ret = NULL;
	if (!image_left(r))
		return 0;
	if (image_left(r) < sizeof(size))
		return -EPROTO;
	size = word_at(r->at);
	if (size > image_left(r) - sizeof(size))
		return -EPROTO;
	*ret = protobuf_c_message_unpack(type, NULL, size, r->at + sizeof(size));
	if (!*ret)
		return -EPROTO;
	r->at += sizeof(size) + size;
	return 1;
}

int image_rest(struct image_reader *r, const ProtobufCMessageDescriptor *type, ProtobufCMessage ***ret, size_t *ret_count)
{
	ProtobufCMessage **at = NULL, **larger, *message;
	size_t count = 0, capacity = 0;
	int err = 0;

	while (!err && (err = image_next(r, type, &message)) > 0) {
		err = 0;
		if (count == capacity) {
			capacity = capacity ? 2 * capacity : 64;
			larger = reallocarray(at, capacity, sizeof(*at));
			if (!larger) {
				protobuf_c_message_free_unpacked(message, NULL);
				err = -ENOMEM;
				break;
			}
			at = larger;
		}
		at[count++] = message;
	}
	*ret = at;
	*ret_count = count;
	return err;
}

int image_read_all(const struct image_set *set, const char *base, int64_t id, const ProtobufCMessageDescriptor *type,
		   ProtobufCMessage ***ret, size_t *ret_count)
{
	struct image_reader r;
	int err = image_read(set, base, id, &r);

	*ret = NULL;
	*ret_count = 0;
	return err == -ENOENT ? 0 : err ?: image_rest(&r, type, ret, ret_count);
}

void image_free_all(void *messages, size_t count)
{
	ProtobufCMessage **at = messages;

	for (size_t i = 0; at && i < count; i++)
		if (at[i])
			protobuf_c_message_free_unpacked(at[i], NULL);
	free(at);
}

int image_next_raw(struct image_reader *r, size_t size, const void **ret)
{
	if (size > image_left(r))
		return -EPROTO;
	*ret = r->at;
	r->at += size;
	return 0;
}

const char *image_set_name(const struct image_set *set, size_t i)
{
	return i < set->count ? set->images[i].name : NULL;
}

int image_set_bytes(const struct image_set *set, const char *name, const void **ret, size_t *ret_size)
{
	const struct image *image = find(set, name);

	if (!image)
		return -ENOENT;
	*ret = image->bytes;
	*ret_size = image->size;
	return 0;
}

int image_read_nth(const struct image_set *set, size_t i, const char **ret_base, struct image_reader *ret)
{
	if (i >= set->count)
		return -ENOENT;
	*ret_base = set->images[i].base->name;
	return read_bytes(set->images[i].base, set->images[i].bytes, set->images[i].size, ret);
}

int image_set_merge(struct image_set *to, const struct image_set *from)
{
	int err = 0;

	for (size_t i = 0; i < from->count && !err; i++) {
		struct image *image;

		err = find(to, from->images[i].name) ? -EEXIST : add(to, from->images[i].name, &image);
		if (!err)
			err = append(image, from->images[i].bytes, from->images[i].size);
	}
	return err;
}

/* u32 PACK_MAGIC, u32 count, then for each: u32 size of the name, u32 size, name, bytes. */
int image_set_pack(const struct image_set *set, uint8_t **ret, size_t *ret_size)
{
	uint32_t head[2] = { PACK_MAGIC, set->count };
	size_t size = sizeof(head);
	uint8_t *at;

	for (size_t i = 0; i < set->count; i++) {
		if (set->images[i].size > UINT32_MAX)
			return -EFBIG;
		size += 8 + strlen(set->images[i].name) + set->images[i].size;
	}
	*ret = at = malloc(size);
	if (!at)
		return -ENOMEM;
	at = mempcpy(at, head, sizeof(head));
	for (size_t i = 0; i < set->count; i++) {
		const struct image *image = &set->images[i];
		uint32_t sizes[2] = { strlen(image->name), image->size };

		at = mempcpy(at, sizes, sizeof(sizes));
		at = mempcpy(at, image->name, sizes[0]);
		if (image->size)
			at = mempcpy(at, image->bytes, image->size);
	}
	*ret_size = size;
	return 0;
}

static int unpack_one(struct image_reader *r, struct image_set *set)
{
	const void *sizes_at, *name_at, *bytes;
	char name[NAME_MAX_SIZE];
	uint32_t name_size, size;
	struct image *image;
	int err = image_next_raw(r, 8, &sizes_at);

	if (err)
		return err;
	name_size = word_at(sizes_at);
	size = word_at((const uint8_t *)sizes_at + 4);
	if (!name_size || name_size >= NAME_MAX_SIZE)
		return -EPROTO;
	err = image_next_raw(r, name_size, &name_at) ?: image_next_raw(r, size, &bytes);
	if (err)
		return err;
	memcpy(name, name_at, name_size);
	name[name_size] = 0;
	if (strlen(name) != name_size || find(set, name))
		return -EPROTO;
	err = add(set, name, &image);
	if (err)
		return err == -EINVAL ? -EPROTO : err;
	image->bytes = (uint8_t *)bytes;
	image->size = size;
	return 0;
}

int image_set_unpack(const void *bytes, size_t size, struct image_set **ret, struct phaul_error *err)
{
	struct image_reader r = { bytes, (const uint8_t *)bytes + size };
	struct image_set *set = image_set_new();
	const void *head;
	uint32_t count = 0;
	int code = set ? image_next_raw(&r, 8, &head) : -ENOMEM;

	if (!code) {
		count = word_at((const uint8_t *)head + 4);
		if (word_at(head) != PACK_MAGIC || count > IMAGES_MAX)
			code = -EPROTO;
	}
	for (uint32_t i = 0; i < count && !code; i++)
		code = unpack_one(&r, set);
	if (!code && image_left(&r))
		code = -EPROTO;
	if (code) {
		image_set_free(set);
		return phaul_fail(err, code, "image", "what arrived is no set of images");
	}
	*ret = set;
	return 0;
}

int image_set_save(const struct image_set *set, struct image_sink *sink)
{
	int code = 0;

	for (size_t i = 0; i < set->count && !code; i++) {
		char name[NAME_MAX_SIZE + 8];

		snprintf(name, sizeof(name), "%s.img", set->images[i].name);
		code = image_sink_open(sink, name) ?: image_sink_write(sink, set->images[i].bytes, set->images[i].size) ?:
		       image_sink_close(sink);
	}
	return code ?: image_sink_end(sink);
}

bool image_is_file_name(const char *file)
{
	size_t n = strlen(file), digits;
	char name[NAME_MAX_SIZE];

	if (n < 5 || n - 4 >= sizeof(name) || strcmp(file + n - 4, ".img"))
		return false;
	memcpy(name, file, n - 4);
	name[n - 4] = 0;
	if (strncmp(name, "pages-", 6))
		return base_of(name);
	digits = strspn(name + 6, "0123456789");
	return digits && !name[6 + digits];
}

static int load(struct image_set *set, int directory, const char *file, const char *name)
{
	struct image *image;
	struct stat st;
	size_t done = 0;
	/* O_NONBLOCK: a FIFO of that name would keep us waiting for its writer. */
	int fd = openat(directory, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), err;

	if (fd < 0)
		return -errno;
	err = fstat(fd, &st) < 0 ? -errno : !S_ISREG(st.st_mode) ? -EINVAL :
	      (uint64_t)st.st_size > IMAGE_FILE_MAX ? -EFBIG : add(set, name, &image);
	if (!err && st.st_size) {
		image->bytes = malloc(st.st_size);
		image->capacity = st.st_size;
		err = image->bytes ? 0 : -ENOMEM;
	}
	while (!err && done < (size_t)st.st_size) {
		ssize_t got = read(fd, image->bytes + done, st.st_size - done);

		err = got < 0 ? -errno : got ? 0 : -EPROTO;
		done += got > 0 ? got : 0;
	}
	if (!err)
		image->size = done;
	close(fd);
	return err;
}

static bool has_magic(const struct image *image)
{
	struct image_reader r;

	return !read_bytes(image->base, image->bytes, image->size, &r);
}

/* Files of other names are none of ours. */
int image_set_load(int directory, struct image_set **ret, struct phaul_error *err)
{
	struct image_set *set = image_set_new();
	/* Opened anew: a duplicate would share its place in the listing with the caller's. */
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *d;

	if (!dir || !set)
		code = phaul_fail(err, dir ? -ENOMEM : -errno, "image", "reading the directory");
	if (!dir && fd >= 0)
		close(fd);
	while (!code && (d = readdir(dir))) {
		size_t n = strlen(d->d_name);
		char name[NAME_MAX_SIZE];

		if (n < 5 || n - 4 >= sizeof(name) || strcmp(d->d_name + n - 4, ".img"))
			continue;
		memcpy(name, d->d_name, n - 4);
		name[n - 4] = 0;
		/* Ghosts may be too large to have them all in memory. */
		if (!base_of(name) || !strcmp(base_of(name)->name, "ghost-file"))
			continue;
		code = load(set, directory, d->d_name, name);
		if (code)
			phaul_fail(err, code, "image", "reading %s", d->d_name);
		else if (!has_magic(find(set, name)))
			code = phaul_fail(err, -EPROTO, "images", "%s doesn't begin as such an image does (magic): is it of a checkpoint, and "
					  "whole?", d->d_name);
	}
	if (dir)
		closedir(dir);
	if (code)
		image_set_free(set);
	else
		*ret = set;
	return code;
}

int image_malformed(const char *base, int64_t id, struct phaul_error *err)
{
	char name[NAME_MAX_SIZE];

	name_of(base, id, name);
	return phaul_fail(err, -EPROTO, "images", "%s.img is missing or malformed: is the directory a whole checkpoint, "
			  "and of a phaul of this version?", name);
}

int image_wrong(const char *base, int64_t id, struct phaul_error *err, const char *format, ...)
{
	char name[NAME_MAX_SIZE], text[160];
	va_list args;

	name_of(base, id, name);
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return phaul_fail(err, -EPROTO, "images", "%s.img: %s", name, text);
}
