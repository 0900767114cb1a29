/* multicast.h - the groups of the network that a datagram socket is a member of: those of mDNS, of VRRP, of routing protocols. */
#ifndef PHAUL_MULTICAST_H
#define PHAUL_MULTICAST_H

#include "object.h"

/* Asks the socket for each group that a device of this host is in, as nothing lists a socket's own. */
int multicast_dump(struct dump *dump, int fd, InetSkEntry *to);
/* Devices are known by their names; where one isn't here, the kernel chooses. */
int multicast_build(struct build *b, int fd, const InetSkEntry *image);

#endif
