/* peer.c - who connected to a unix socket, as the kernel knows it. */
#include <errno.h>
#include <sys/socket.h>

#include "error.h"

int phaul_peer_user(int fd, uint32_t *ret_uid, struct phaul_error *err)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return phaul_fail(err, -errno, "peer", "asking who connected to fd %d", fd);
	*ret_uid = who.uid;
	return 0;
}
