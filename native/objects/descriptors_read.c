/* descriptors_read.c - which descriptors a process has, what /proc and a duplicate of each tell, and which share a description. */
#include "descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../parallel.h"
#include "socket_options.h"

static int pidfd_of(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

/* These files are made in one go: a short answer is all there is. */
static int text_of(int fd, char **ret)
{
	char small[1024], *text = small;
	size_t size = sizeof(small), used = 0;
	ssize_t got;

	while ((got = read(fd, text + used, size - used - 1)) >= 0) {
		char *larger;

		used += got;
		if (used < size - 1)
			break;
		larger = realloc(text == small ? NULL : text, size * 4);
		if (!larger) {
			errno = ENOMEM;
			got = -1;
			break;
		}
		if (text == small)
			memcpy(larger, small, used);
		text = larger;
		size *= 4;
	}
	if (got < 0) {
		int err = -errno;

		if (text != small)
			free(text);
		return err;
	}
	text[used] = 0;
	*ret = text == small ? strdup(small) : text;
	return *ret ? 0 : -ENOMEM;
}

static int text_at(int dir, const char *name, char **ret)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	int err = fd < 0 ? -errno : text_of(fd, ret);

	if (fd >= 0)
		close(fd);
	return err;
}

bool fdinfo_number(const struct descriptor *d, const char *key, int base, uint64_t *ret)
{
	size_t length = strlen(key);

	for (const char *line = d->fdinfo; line && *line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (!strncmp(line, key, length) && line[length] == ':') {
			*ret = strtoull(line + length + 1, NULL, base);
			return true;
		}
	}
	return false;
}

/* ---- our duplicates ---- */

void descriptor_disown(struct descriptor *d)
{
	if (d->own >= 0)
		close(d->own);
	d->own = -1;
}

static void recognise(struct descriptor *d)
{
	for (size_t i = 0; descriptor_kinds[i] && !d->kind; i++)
		if (descriptor_kinds[i]->is(d))
			d->kind = descriptor_kinds[i];
}

/* What a socket is only the socket itself tells. */
static int own_socket(const struct descriptor_table *t, struct descriptor *d)
{
	if (d->own < 0)
		d->own = syscall(SYS_pidfd_getfd, t->pidfd, d->fd, 0);
	if (d->own < 0)
		return -errno;
	d->family = socket_option(d->own, SOL_SOCKET, SO_DOMAIN);
	d->type = socket_option(d->own, SOL_SOCKET, SO_TYPE);
	d->protocol = socket_option(d->own, SOL_SOCKET, SO_PROTOCOL);
	recognise(d);
	return 0;
}

int descriptor_own(const struct descriptor_table *t, struct descriptor *d, uint32_t flags)
{
	bool socket = S_ISSOCK(d->st.st_mode);

	/* Only the description itself tells its owner; who has one mostly wants signals, or has a lease. */
	bool owned = d->flags & O_ASYNC || strstr(d->fdinfo, "\nlock:") || flags & PHAUL_TO_DIRECTORY;

	if ((d->flags & O_PATH) || (!socket && !(d->kind && d->kind->asks) && !owned))
		return 0;
	if (socket)
		return d->own >= 0 && d->kind ? 0 : own_socket(t, d);
	if (d->own < 0)
		d->own = syscall(SYS_pidfd_getfd, t->pidfd, d->fd, 0);
	return d->own < 0 ? -errno : 0;
}

/* ---- reading ---- */

static void descriptor_free(struct descriptor *d)
{
	descriptor_disown(d);
	free(d->link);
	free(d->fdinfo);
}

/* What has no name in a file system needs no look at its inode. */
static bool describe_by_link(struct descriptor *d)
{
	uint64_t ino;

	if (sscanf(d->link, "pipe:[%lu]", &d->st.st_ino) == 1) {
		d->st.st_mode = S_IFIFO | 0600;
		return true;
	}
	if (sscanf(d->link, "socket:[%lu]", &d->st.st_ino) == 1) {
		d->st.st_mode = S_IFSOCK | 0777;
		return true;
	}
	if (strncmp(d->link, "anon_inode:", 11) || !fdinfo_number(d, "ino", 10, &ino))
		return false;
	d->st.st_ino = ino;
	return true;
}

/* Its fdinfo, which tells nothing of a socket but its flags, takes more than twice as long. */
static int read_frozen_socket(const struct descriptor_table *t, struct descriptor *ret)
{
	int err = own_socket(t, ret), flags = err ? 0 : fcntl(ret->own, F_GETFL);

	if (err || flags < 0)
		return err ? err : -errno;
	ret->flags = flags;
	ret->asks_cloexec = true;
	ret->fdinfo = strdup("");
	return ret->fdinfo ? 0 : -ENOMEM;
}

/* -ENOENT: the number is gone. */
static int descriptor_read(const struct descriptor_table *t, int links, int infos, const char *number, struct descriptor *ret)
{
	char link[4096];
	uint64_t value;
	ssize_t length = readlinkat(links, number, link, sizeof(link) - 1);
	int err;

	*ret = (struct descriptor){ .fd = atoi(number), .own = -1 };
	if (length < 0)
		return -errno;
	ret->link = strndup(link, length);
	if (!ret->link)
		return -ENOMEM;
	if (t->frozen && describe_by_link(ret) && S_ISSOCK(ret->st.st_mode))
		return read_frozen_socket(t, ret);
	err = text_at(infos, number, &ret->fdinfo);
	if (err)
		return err;
	if (!describe_by_link(ret) && fstatat(links, number, &ret->st, 0) < 0)
		return -errno;
	if (fdinfo_number(ret, "pos", 10, &value))
		ret->pos = value;
	if (!fdinfo_number(ret, "flags", 8, &value))
		return -EPROTO;
	/* The kernel shows the number's flag among the description's. */
	ret->cloexec = value & O_CLOEXEC;
	ret->flags = value & ~O_CLOEXEC;
	return 0;
}

static int add(struct descriptor_table *t, size_t *capacity, const struct descriptor *d)
{
	if (t->count == *capacity) {
		size_t larger = *capacity ? *capacity * 2 : 64;
		struct descriptor *at = reallocarray(t->at, larger, sizeof(*at));

		if (!at)
			return -ENOMEM;
		t->at = at;
		*capacity = larger;
	}
	t->at[t->count++] = *d;
	return 0;
}

struct reading {
	struct descriptor_table *table;
	int links, infos;
};

/* One that has vanished has no number any more. */
static int read_one(void *ctx, size_t index, struct phaul_error *err)
{
	struct reading *r = ctx;
	struct descriptor *d = &r->table->at[index];
	char number[16];
	int code;

	snprintf(number, sizeof(number), "%d", d->fd);
	code = descriptor_read(r->table, r->links, r->infos, number, d);
	if (code) {
		descriptor_free(d);
		*d = (struct descriptor){ .fd = -1, .own = -1 };
	}
	(void)err;
	return code == -ENOENT ? 0 : code;
}

static int read_all(struct descriptor_table *t, DIR *links, int infos)
{
	struct reading reading = { t, dirfd(links), infos };
	size_t capacity = 0, kept = 0;
	struct dirent *entry;
	int err = 0;

	while (!err && (entry = readdir(links)))
		if (entry->d_name[0] != '.')
			err = add(t, &capacity, &(struct descriptor){ .fd = atoi(entry->d_name), .own = -1 });
	err = err ?: parallel(t->count, read_one, &reading, NULL);
	for (size_t i = 0; i < t->count && !err; i++)
		if (t->at[i].fd >= 0)
			t->at[kept++] = t->at[i];
	if (!err)
		t->count = kept;
	return err;
}

static int by_number(const void *a, const void *b)
{
	const struct descriptor *left = a, *right = b;

	return (left->fd > right->fd) - (left->fd < right->fd);
}

#define ORDER(a, b) \
	if ((a) != (b)) \
		return (a) < (b) ? -1 : 1

/* What shares a description agrees in all of this. Anonymous inodes are all one; of these,
 * eventfds, which come by the thousand, have an identity of their own. */
struct candidate {
	struct descriptor *d;
	uint64_t identity;
	pid_t pid;
};

/* Among those that agree, the kernel knows an order. */
static int by_description(const void *a, const void *b)
{
	const struct candidate *left = a, *right = b;
	long order;

	ORDER(left->d->st.st_dev, right->d->st.st_dev);
	ORDER(left->d->st.st_ino, right->d->st.st_ino);
	ORDER(left->identity, right->identity);
	ORDER(left->d->pos, right->d->pos);
	ORDER(left->d->flags, right->d->flags);
	order = syscall(SYS_kcmp, left->pid, right->pid, KCMP_FILE, left->d->fd, right->d->fd);
	return order == 1 ? -1 : order == 2 ? 1 : 0;
}

static int number_descriptions(struct descriptor_table *tables, size_t count)
{
	struct candidate *sorted;
	uint32_t *ids, group = 0, id = 0;
	size_t all = 0, n = 0;

	for (size_t i = 0; i < count; i++)
		all += tables[i].count;
	sorted = calloc(all + 1, sizeof(*sorted));
	ids = calloc(all + 1, sizeof(*ids));
	for (size_t i = 0; sorted && ids && i < count; i++)
		for (size_t j = 0; j < tables[i].count; j++) {
			struct candidate *c = &sorted[n++];

			*c = (struct candidate){ .d = &tables[i].at[j], .pid = tables[i].pid };
			if (!c->d->st.st_mode)
				(void)fdinfo_number(c->d, "eventfd-id", 10, &c->identity);
		}
	if (n)
		qsort(sorted, n, sizeof(*sorted), by_description);
	for (size_t i = 0; i < n; i++) {
		if (!i || by_description(&sorted[i - 1], &sorted[i]))
			group++;
		sorted[i].d->id = group;
	}
	for (size_t i = 0; n && i < count; i++)
		for (size_t j = 0; j < tables[i].count; j++) {
			uint32_t *known = &ids[tables[i].at[j].id];

			if (!*known)
				*known = ++id;
			tables[i].at[j].id = *known;
		}
	free(sorted);
	free(ids);
	return id || !all ? 0 : -ENOMEM;
}

int descriptors_add_own(struct descriptor_table *t, const int *fds, size_t count)
{
	int links = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int infos = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = links < 0 || infos < 0 ? -errno : 0;
	size_t capacity = t->count;

	for (size_t i = 0; i < count && !err; i++) {
		struct descriptor d;
		char number[16];

		snprintf(number, sizeof(number), "%d", fds[i]);
		err = descriptor_read(t, links, infos, number, &d) ?: add(t, &capacity, &d);
		if (err)
			descriptor_free(&d);
		else if (!S_ISSOCK(d.st.st_mode))
			recognise(&t->at[t->count - 1]);
	}
	if (links >= 0)
		close(links);
	if (infos >= 0)
		close(infos);
	return err;
}

int descriptors_group(struct descriptor_table *tables, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		tables[i].group = tables;
		tables[i].group_count = count;
	}
	return number_descriptions(tables, count);
}

int descriptors_read(pid_t pid, bool frozen, struct descriptor_table *ret, struct phaul_error *err)
{
	char path[64];
	DIR *links;
	int infos, failed;

	*ret = (struct descriptor_table){ .pid = pid, .frozen = frozen };
	ret->pidfd = pidfd_of(pid);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	links = opendir(path);
	failed = links ? 0 : -errno;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", pid);
	infos = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!failed && infos < 0)
		failed = -errno;
	if (ret->pidfd < 0)
		failed = ret->pidfd;
	if (!failed)
		failed = read_all(ret, links, infos);
	if (links)
		closedir(links);
	if (infos >= 0)
		close(infos);
	if (!failed && ret->count)
		qsort(ret->at, ret->count, sizeof(*ret->at), by_number);
	failed = failed ?: number_descriptions(ret, 1);
	if (failed) {
		descriptors_free(ret);
		return failed == -EMFILE || failed == -ENFILE ?
			phaul_fail(err, failed, "descriptors", "reading the sockets of pid %d takes as many descriptors for a moment: raise "
				   "the limit of open files (ulimit -n, LimitNOFILE=) of phaul", pid) :
			phaul_fail(err, failed, "descriptors", "reading the descriptors of pid %d", pid);
	}
	for (size_t i = 0; i < ret->count; i++)
		if (!S_ISSOCK(ret->at[i].st.st_mode))
			recognise(&ret->at[i]);
	return 0;
}

void descriptors_free(struct descriptor_table *t)
{
	for (size_t i = 0; i < t->count; i++)
		descriptor_free(&t->at[i]);
	free(t->at);
	if (t->pidfd > 0)
		close(t->pidfd);
	memset(t, 0, sizeof(*t));
	t->pidfd = -1;
}
