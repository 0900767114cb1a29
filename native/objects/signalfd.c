#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is(const struct descriptor *d)
{
	return !strcmp(d->link, "anon_inode:[signalfd]");
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	SignalfdEntry signalfd = SIGNALFD_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;

	if (!fdinfo_number(d, "sigmask", 16, &signalfd.sigmask))
		return -EPROTO;
	signalfd.id = d->id;
	signalfd.flags = d->flags;
	signalfd.fown = file_owner(d);
	file.sgfd = &signalfd;
	return file_put(dump, d, &file);
}

static int build(struct build *b, const FileEntry *file)
{
	uint64_t mask = file->sgfd->sigmask;
	int fd = syscall(SYS_signalfd4, -1, &mask, sizeof(mask), O_CLOEXEC);

	return fd < 0 ? -errno : file_set_flags(b, fd, file->sgfd->flags);
}

const struct descriptor_kind signalfd_kind = {
	.name = "a signalfd",
	.is = is,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__SIGNALFD,
};
