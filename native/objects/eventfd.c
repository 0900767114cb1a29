#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static bool is(const struct descriptor *d)
{
	return !strcmp(d->link, "anon_inode:[eventfd]");
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	EventfdFileEntry eventfd = EVENTFD_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	uint64_t semaphore = 0;

	if (!fdinfo_number(d, "eventfd-count", 16, &eventfd.counter))
		return -EPROTO;
	(void)fdinfo_number(d, "eventfd-semaphore", 10, &semaphore);
	eventfd.id = d->id;
	/* The same bit would mean write-only, which an eventfd never is. */
	eventfd.flags = d->flags | (semaphore ? EFD_SEMAPHORE : 0);
	eventfd.fown = file_owner(d);
	file.efd = &eventfd;
	return file_put(dump, d, &file);
}

static int build(struct build *b, const FileEntry *file)
{
	const EventfdFileEntry *image = file->efd;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (image->flags & EFD_SEMAPHORE));
	uint64_t counter = image->counter;

	if (fd < 0)
		return -errno;
	if (counter && write(fd, &counter, sizeof(counter)) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return file_set_flags(b, fd, image->flags);
}

const struct descriptor_kind eventfd_kind = {
	.name = "an eventfd",
	.is = is,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__EVENTFD,
};
