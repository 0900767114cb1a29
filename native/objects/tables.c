/* tables.c - all kinds of kernel objects that are known. */
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
