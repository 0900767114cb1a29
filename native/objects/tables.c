/* tables.c - all kinds of kernel objects that are known. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "object.h"

#define KIND(name) extern const struct descriptor_kind name
KIND(regular_file);
KIND(device);
KIND(pipe_kind);
KIND(eventfd_kind);
KIND(epoll_kind);
KIND(timerfd_kind);
KIND(signalfd_kind);
KIND(inet_socket);

const struct descriptor_kind *const descriptor_kinds[] = {
	&regular_file, &device, &pipe_kind, &inet_socket, &eventfd_kind, &epoll_kind, &timerfd_kind,
	&signalfd_kind, NULL,
};

#define PART(name) extern const struct process_part name
PART(filesystem_part);
PART(limits_part);
PART(signals_part);
PART(prctls_part);
PART(credentials_part);
PART(timers_part);

/* In the order of building: timers last, since they run from then on. Credentials are built thread by thread
 * afterwards. */
const struct process_part *const process_parts[] = {
	&limits_part, &filesystem_part, &signals_part, &prctls_part, &credentials_part, &timers_part, NULL,
};

int image_find_path(const struct image_set *set, uint32_t id, char ret[PATH_MAX])
{
	struct image_reader r;
	ProtobufCMessage *msg;
	int err = image_read(set, "files", -1, &r);
	bool found = false;

	while (!err && !found && image_next(&r, &file_entry__descriptor, &msg) == 1) {
		const FileEntry *file = (FileEntry *)msg;

		found = file->id == id && file->reg && strlen(file->reg->name) < PATH_MAX;
		if (found)
			strcpy(ret, file->reg->name);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return err ? err : found ? 0 : -ENOENT;
}
