/* tables.c - all kinds of kernel objects that are known. */
#include "object.h"

#define KIND(name) extern const struct descriptor_kind name
KIND(regular_file);
KIND(device);
KIND(pipe_kind);
KIND(fifo_kind);
KIND(inotify_kind);
KIND(fanotify_kind);
KIND(tty_kind);
KIND(pidfd_kind);
KIND(memfd_kind);
KIND(eventfd_kind);
KIND(epoll_kind);
KIND(timerfd_kind);
KIND(signalfd_kind);
KIND(inet_socket);
KIND(unix_socket);
KIND(netlink_socket);
KIND(packet_socket);
KIND(namespace_kind);

const struct descriptor_kind *const descriptor_kinds[] = {
	&regular_file, &device, &pipe_kind, &fifo_kind, &inotify_kind, &fanotify_kind, &tty_kind, &pidfd_kind, &memfd_kind, &inet_socket, &unix_socket, &netlink_socket, &packet_socket, &namespace_kind, &eventfd_kind, &epoll_kind, &timerfd_kind,
	&signalfd_kind, NULL,
};

#define PART(name) extern const struct process_part name
PART(filesystem_part);
PART(limits_part);
PART(signals_part);
PART(prctls_part);
PART(timers_part);
PART(keyrings_part);

/* In the order of building: timers last, since they run from then on. Credentials are read and built thread
 * by thread. */
const struct process_part *const process_parts[] = {
	&limits_part, &filesystem_part, &signals_part, &prctls_part, &keyrings_part, &timers_part, NULL,
};
