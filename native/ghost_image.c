/* ghost_image.c - one image "ghost-file": what there is to say of a file, and what is in it. */
#include "ghost_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

static int write_all(int fd, const void *bytes, size_t size)
{
	for (size_t done = 0; done < size; ) {
		ssize_t put = write(fd, (const uint8_t *)bytes + done, size - done);

		if (put < 0)
			return -errno;
		done += put;
	}
	return 0;
}

static int write_message(int to, const ProtobufCMessage *message)
{
	uint32_t size = protobuf_c_message_get_packed_size(message);
	uint8_t bytes[PATH_MAX + 256];

	if (size > sizeof(bytes) - sizeof(size))
		return -EFBIG;
	memcpy(bytes, &size, sizeof(size));
	protobuf_c_message_pack(message, bytes + sizeof(size));
	return write_all(to, bytes, sizeof(size) + size);
}

static int write_chunk(int from, off_t at, off_t until, int to)
{
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
	int err;

	chunk.off = at;
	chunk.len = until - at;
	err = write_message(to, &chunk.base);
	while (at < until && !err) {
		ssize_t put = sendfile(to, from, &at, until - at);

		err = put < 0 ? -errno : put ? 0 : -EIO;
	}
	return err;
}

/* Holes stay holes. */
static int write_content(int from, off_t size, int to)
{
	off_t at = 0, until;
	int err = 0;

	while (at < size && !err && (at = lseek(from, at, SEEK_DATA)) >= 0) {
		until = lseek(from, at, SEEK_HOLE);
		err = until < 0 ? -errno : write_chunk(from, at, until, to);
		at = until;
	}
	return err ? err : at < 0 && errno != ENXIO ? -errno : 0;
}

static int read_symlink(const char *reached_by, char ret[PATH_MAX])
{
	int fd = open(reached_by, O_PATH | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", ret, PATH_MAX - 1);
	int err = n < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	ret[n > 0 ? n : 0] = 0;
	return err;
}

int ghost_describe(const char *reached_by, const struct stat *st, struct ghost_description *ret)
{
	GhostFileEntry *ghost = &ret->entry;

	ghost_file_entry__init(ghost);
	timeval__init(&ret->accessed);
	timeval__init(&ret->changed);
	ghost->uid = st->st_uid;
	ghost->gid = st->st_gid;
	ghost->mode = st->st_mode;
	ghost->has_dev = ghost->has_ino = true;
	ghost->dev = st->st_dev;
	ghost->ino = st->st_ino;
	ghost->has_rdev = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
	ghost->rdev = st->st_rdev;
	ret->accessed.tv_sec = st->st_atim.tv_sec;
	ret->accessed.tv_usec = st->st_atim.tv_nsec / 1000;
	ret->changed.tv_sec = st->st_mtim.tv_sec;
	ret->changed.tv_usec = st->st_mtim.tv_nsec / 1000;
	ghost->atim = &ret->accessed;
	ghost->mtim = &ret->changed;
	ghost->has_chunks = ghost->chunks = ghost->has_size = S_ISREG(st->st_mode);
	ghost->size = st->st_size;
	if (!S_ISLNK(st->st_mode))
		return 0;
	ghost->symlnk_target = ret->target;
	return read_symlink(reached_by, ret->target);
}

int ghost_write(const char *reached_by, const struct stat *st, int to)
{
	struct ghost_description ghost;
	int from = S_ISREG(st->st_mode) ? open(reached_by, O_RDONLY | O_CLOEXEC | O_NOATIME) : -1, err;

	if (S_ISREG(st->st_mode) && from < 0)
		return -errno;
	err = ghost_describe(reached_by, st, &ghost) ?: image_write_magic(to, "ghost-file") ?: write_message(to, &ghost.entry.base);
	if (from >= 0) {
		err = err ?: write_content(from, st->st_size, to);
		close(from);
	}
	return err ? err : fsync(to) < 0 ? -errno : 0;
}

static int fill_chunks(struct image_reader *r, int fd)
{
	ProtobufCMessage *message;
	int more, err = 0;

	while (!err && (more = image_next(r, &ghost_chunk_entry__descriptor, &message)) != 0) {
		const GhostChunkEntry *chunk = (GhostChunkEntry *)message;
		const void *bytes = NULL;

		err = more < 0 ? more : image_next_raw(r, chunk->len, &bytes);
		for (uint64_t done = 0; !err && done < chunk->len; ) {
			ssize_t put = pwrite(fd, (const uint8_t *)bytes + done, chunk->len - done, chunk->off + done);

			err = put < 0 ? -errno : 0;
			done += put > 0 ? put : 0;
		}
		if (message)
			protobuf_c_message_free_unpacked(message, NULL);
	}
	return err;
}

int ghost_fill(struct image_reader *r, const GhostFileEntry *ghost, int fd)
{
	size_t size = image_left(r);
	const void *bytes;
	int err;

	if (ghost->has_chunks && ghost->chunks)
		err = fill_chunks(r, fd);
	else
		err = image_next_raw(r, size, &bytes) ?: write_all(fd, bytes, size);
	if (!err && ghost->has_size && ftruncate(fd, ghost->size) < 0)
		err = -errno;
	return err;
}

int ghost_read_entry(const struct image_set *images, uint32_t number, GhostFileEntry **ret)
{
	struct image_reader r;
	ProtobufCMessage *message = NULL;
	int err = image_read(images, "ghost-file", number, &r);

	if (!err)
		err = image_next(&r, &ghost_file_entry__descriptor, &message) == 1 ? 0 : -EPROTO;
	*ret = (GhostFileEntry *)message;
	return err;
}

int ghost_give_attributes(int fd, const GhostFileEntry *ghost)
{
	char path[32];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (ghost->atim && ghost->mtim) {
		times[0] = (struct timespec){ ghost->atim->tv_sec, ghost->atim->tv_usec * 1000 };
		times[1] = (struct timespec){ ghost->mtim->tv_sec, ghost->mtim->tv_usec * 1000 };
	}
	if (chown(path, ghost->uid, ghost->gid) < 0 ||
	    (!S_ISLNK(ghost->mode) && chmod(path, ghost->mode & 07777) < 0) ||
	    utimensat(AT_FDCWD, path, times, 0) < 0)
		return -errno;
	return 0;
}
