#include "watched.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool watched_read(const char *text, struct watched *ret)
{
	const char *ino = strstr(text, "ino:"), *dev = strstr(text, "sdev:"), *bytes = strstr(text, "fhandle-bytes:");
	const char *type = strstr(text, "fhandle-type:"), *hex = strstr(text, "f_handle:"), *end = strchrnul(text, '\n');

	memset(ret, 0, sizeof(*ret));
	if (!ino || !dev || ino > end || dev > end)
		return false;
	ret->ino = strtoull(ino + 4, NULL, 16);
	ret->dev = strtoul(dev + 5, NULL, 16);
	if (!bytes || !type || !hex || hex > end)
		return false;
	ret->bytes = strtoul(bytes + 14, NULL, 16);
	ret->type = strtoul(type + 13, NULL, 16);
	hex += 9;
	for (uint32_t i = 0; i < ret->bytes; i++) {
		unsigned int byte;

		if (i == WATCHED_HANDLE_MAX || sscanf(hex + 2 * i, "%2x", &byte) != 1)
			return false;
		ret->handle[i] = byte;
	}
	return true;
}

/* Somewhere on the file system. */
static int open_mount(uint32_t dev)
{
	char *line = NULL, path[PATH_MAX];
	size_t capacity = 0;
	int fd = -ENOENT;
	unsigned int major, minor;
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	while (mounts && fd < 0 && getline(&line, &capacity, mounts) > 0) {
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, path) != 3 || (major << 20 | minor) != dev)
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		fd = fd < 0 ? -errno : fd;
	}
	free(line);
	if (mounts)
		fclose(mounts);
	return fd;
}

int watched_open(const struct watched *w)
{
	struct { struct file_handle head; uint8_t bytes[WATCHED_HANDLE_MAX]; } handle = {
		.head = { .handle_bytes = w->bytes, .handle_type = w->type },
	};
	int mount = open_mount(w->dev), fd;

	if (mount < 0)
		return mount;
	memcpy(handle.head.f_handle, w->handle, w->bytes);
	fd = open_by_handle_at(mount, &handle.head, O_PATH | O_CLOEXEC);
	fd = fd < 0 ? -errno : fd;
	close(mount);
	return fd;
}

/* A line each. What has no name any more comes along, and what can't be opened is refused. */
static size_t put_path(int fd, char *ret, size_t size)
{
	char link[32], path[PATH_MAX];
	struct stat st;
	ssize_t n;
	int put;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	if (n <= 0 || fstat(fd, &st) < 0 || !st.st_nlink || strchr(path, '\n'))
		return 0;
	put = snprintf(ret, size, "%s\n", path);
	return put < 0 || (size_t)put >= size ? size : (size_t)put;
}

/* In the lines of inotify and fanotify alike. */
static size_t put_paths(const char *text, char *ret, size_t size)
{
	size_t used = 0;

	for (const char *at = text; (at = strstr(at, "notify ")) && used < size; at++) {
		struct watched w;
		int fd = watched_read(at, &w) ? watched_open(&w) : -1;

		used += fd < 0 ? 0 : put_path(fd, ret + used, size - used);
		if (fd >= 0)
			close(fd);
	}
	return used;
}

int phaul_watched(int pid, char *ret_text, size_t size, struct phaul_error *err)
{
	struct descriptor_table table;
	int code = size ? descriptors_read(pid, false, &table, err) : phaul_fail(err, -EINVAL, "watched", "no room for the answer");
	size_t used = 0;

	if (code)
		return code;
	*ret_text = 0;
	for (size_t i = 0; i < table.count && used < size; i++)
		if (!strncmp(table.at[i].link, "anon_inode:inotify", 18) || !strncmp(table.at[i].link, "anon_inode:[fanotify]", 21))
			used += put_paths(table.at[i].fdinfo, ret_text + used, size - used);
	descriptors_free(&table);
	return used < size ? 0 : phaul_fail(err, -ENOBUFS, "watched", "pid %d watches more files than fit", pid);
}

int watched_put(struct dump *d, const struct watched *w, FhEntry *handle, uint64_t *words, uint32_t *ret_file)
{
	int fd = watched_open(w), err;
	char path[32], *name = dump_alloc(d, PATH_MAX);
	struct stat st;

	if (fd < 0 || !name)
		return fd < 0 ? fd : -ENOMEM;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	*ret_file = d->next_file_id++;
	err = file_put_reached(d, path, O_RDONLY, NULL, *ret_file);
	/* CRIU goes by the name, if there is one. */
	if (readlink(path, name, PATH_MAX - 1) < 0 || fstat(fd, &st) < 0 || !st.st_nlink)
		name = NULL;
	close(fd);
	memset(words, 0, WATCHED_HANDLE_MAX);
	memcpy(words, w->handle, w->bytes);
	fh_entry__init(handle);
	handle->path = name;
	handle->bytes = w->bytes;
	handle->type = w->type;
	handle->handle = words;
	handle->n_handle = WATCHED_HANDLE_MAX / 8;
	return err;
}

int watched_path(const struct built_files *f, bool has_file, uint32_t file, const FhEntry *handle, uint32_t dev,
		 char ret[PATH_MAX], int *ret_own)
{
	struct watched w = { .dev = dev, .bytes = handle ? handle->bytes : 0, .type = handle ? handle->type : 0 };

	*ret_own = -1;
	if (has_file)
		return built_files_path(f, file, ret);
	if (handle && handle->path && strlen(handle->path) < PATH_MAX && !access(handle->path, F_OK)) {
		strcpy(ret, handle->path);
		return 0;
	}
	if (!handle || w.bytes > WATCHED_HANDLE_MAX || w.bytes > handle->n_handle * 8)
		return -EPROTO;
	memcpy(w.handle, handle->handle, w.bytes);
	*ret_own = watched_open(&w);
	snprintf(ret, PATH_MAX, "/proc/self/fd/%d", *ret_own);
	return *ret_own < 0 ? *ret_own : 0;
}

int watched_keep(struct built_files *f, int fd)
{
	int *larger = reallocarray(f->watching, f->watching_count + 1, sizeof(*larger));
	int own = larger ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;

	f->watching = larger ? larger : f->watching;
	if (own < 0)
		return larger ? -errno : -ENOMEM;
	f->watching[f->watching_count++] = own;
	return 0;
}

void watched_drain(struct built_files *f)
{
	char events[4096];
	int waiting;

	for (size_t i = 0; i < f->watching_count; i++)
		while (!ioctl(f->watching[i], FIONREAD, &waiting) && waiting &&
		       read(f->watching[i], events, sizeof(events)) > 0)
			;
}
