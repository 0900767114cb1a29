/* namespace.c - handles of namespaces, /proc/PID/ns/NAME: of those that the process is in itself, which are those of phaul. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../tree_state.h"
#include "descriptors.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const struct kind {
	const char *name;
	int flag;
	uint32_t id;
} kinds[] = {
	{ "mnt", CLONE_NEWNS, NAMESPACE_MNT }, { "net", CLONE_NEWNET, NAMESPACE_NET }, { "uts", CLONE_NEWUTS, NAMESPACE_UTS },
	{ "ipc", CLONE_NEWIPC, NAMESPACE_IPC }, { "pid", CLONE_NEWPID, NAMESPACE_PID }, { "user", CLONE_NEWUSER, NAMESPACE_USER },
	{ "cgroup", CLONE_NEWCGROUP, NAMESPACE_CGROUP }, { "time", CLONE_NEWTIME, NAMESPACE_TIME },
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* "net:[4026531840]" */
static const struct kind *kind_of(const char *link)
{
	size_t length = strcspn(link, ":");

	for (size_t i = 0; i < KINDS && !strncmp(link + length, ":[", 2); i++)
		if (strlen(kinds[i].name) == length && !memcmp(link, kinds[i].name, length))
			return &kinds[i];
	return NULL;
}

static bool is(const struct descriptor *d)
{
	return kind_of(d->link);
}

static void check(struct check *c, const struct descriptor *d)
{
	char path[64], own[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind_of(d->link)->name);
	n = readlink(path, own, sizeof(own));
	if (n != (ssize_t)strlen(d->link) || memcmp(own, d->link, n))
		refuse(c, d, "FD_NAMESPACE", "is a handle of a namespace that the process is not in, %s, which stays on this host: let the program "
		       "close it", d->link);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	NsFileEntry e = NS_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;

	e.id = d->id;
	e.ns_id = kind_of(d->link)->id;
	e.ns_cflag = kind_of(d->link)->flag;
	e.flags = d->flags;
	file.nsf = &e;
	return file_put(dump, d, &file);
}

static int build(struct build *b, const FileEntry *file)
{
	const NsFileEntry *e = file->nsf;
	char path[64];
	int fd = -1;

	errno = EPROTO;
	for (size_t i = 0; i < KINDS; i++)
		if (kinds[i].flag == (int)e->ns_cflag) {
			snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i].name);
			fd = open(path, (e->flags & ~O_NOFOLLOW) | O_CLOEXEC);
		}
	return fd < 0 ? -errno : file_set_flags(b, fd, e->flags);
}

const struct descriptor_kind namespace_kind = {
	.name = "a handle of a namespace",
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__NS,
};
