/* kernel_sockets.c - sockets, nftables, and TLS connections. */
#include "kernel_inside.h"

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

MAKES_FD(accept4)
AGREES(bind) AGREES(connect) AGREES(freeaddrinfo) AGREES(getaddrinfo) AGREES(if_nametoindex) AGREES(listen) AGREES(setsockopt)
AGREES(shutdown)

int kernel_socket(int family, int type, int protocol)
{
	(void)type;
	(void)protocol;
	if (family >= 0 && family < AF_MAX)
		return NEW_FD(.mode = S_IFSOCK);
	errno = EAFNOSUPPORT;
	return -1;
}

int kernel_socketpair(int family, int type, int protocol, int ret[2])
{
	(void)family;
	(void)type;
	(void)protocol;
	return kernel_new_pair(ret, __builtin_return_address(0));
}

int kernel_getsockopt(int fd, int level, int name, void *ret, socklen_t *size)
{
	static const int domains[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK }, types[] = { SOCK_STREAM, SOCK_DGRAM };
	const struct file *f = kernel_file(fd);
	int value = 0;

	if (!f || kernel_refuses())
		return -1;
	if (level == SOL_SOCKET && name == SO_DOMAIN)
		value = domains[f->number % 4];
	else if (level == SOL_SOCKET && name == SO_TYPE)
		value = types[f->number / 4 % 2];
	if (ret)
		memset(ret, 0, *size);
	if (ret && *size >= sizeof(value))
		memcpy(ret, &value, sizeof(value));
	return 0;
}

int kernel_getsockname(int fd, struct sockaddr *ret, socklen_t *size)
{
	memset(ret, 0, *size);
	return kernel_file(fd) ? kernel_answer(0) : -1;
}

int kernel_getpeername(int fd, struct sockaddr *ret, socklen_t *size)
{
	return kernel_getsockname(fd, ret, size);
}

ssize_t kernel_sendto(int fd, const void *from, size_t size, int flags, const struct sockaddr *to, socklen_t to_size)
{
	uint8_t all = 0;

	(void)flags;
	(void)to;
	(void)to_size;
	for (size_t i = 0; i < size; i++)
		all |= ((const uint8_t *)from)[i];
	return kernel_file(fd) && !kernel_refuses() ? (ssize_t)size + (all & 0) : -1;
}

ssize_t kernel_send(int fd, const void *from, size_t size, int flags)
{
	return kernel_sendto(fd, from, size, flags, NULL, 0);
}

ssize_t kernel_sendmsg(int fd, const struct msghdr *m, int flags)
{
	ssize_t size = 0;

	for (size_t i = 0; i < m->msg_iovlen && size >= 0; i++) {
		ssize_t put = kernel_sendto(fd, m->msg_iov[i].iov_base, m->msg_iov[i].iov_len, flags, NULL, 0);

		size = put < 0 ? -1 : size + put;
	}
	return size;
}

/* As netlink says that all is well. */
ssize_t kernel_recv(int fd, void *to, size_t size, int flags)
{
	uint16_t type = 2;	/* NLMSG_ERROR */

	(void)flags;
	if (!kernel_file(fd) || kernel_refuses())
		return -1;
	memset(to, 0, size);
	if (size >= 6)
		memcpy((uint8_t *)to + 4, &type, sizeof(type));
	return size < 36 ? size : 36;
}

ssize_t kernel_recvmsg(int fd, struct msghdr *m, int flags)
{
	(void)fd;
	(void)m;
	(void)flags;
	errno = EAGAIN;
	return -1;
}

char *kernel_if_indextoname(unsigned int index, char *ret)
{
	(void)index;
	return strcpy(ret, "eth0");
}

/* ---- nftables ---- */

AGREES(nft_ctx_buffer_error) AGREES(nft_ctx_buffer_output) AGREES(nft_run_cmd_from_buffer)

void *kernel_nft_ctx_new(void)
{
	return kernel_refuses() ? NULL : malloc(1);
}

void kernel_nft_ctx_free(void *nft)
{
	free(nft);
}

const char *kernel_nft_ctx_get_error_buffer(void *nft)
{
	(void)nft;
	return "refused\n";
}

/* ---- TLS ---- */

static size_t wire_at;

int kernel_SSL_read_ex(SSL *ssl, void *to, size_t size, size_t *ret)
{
	const struct part *p = parts_find(kernel_input, "wire");
	size_t left = p ? p->size - wire_at : 0;

	(void)ssl;
	*ret = size < left ? size : left;
	if (*ret)
		memcpy(to, p->bytes + wire_at, *ret);
	wire_at += *ret;
	return *ret > 0;
}

int kernel_SSL_write_ex(SSL *ssl, const void *from, size_t size, size_t *ret)
{
	(void)ssl;
	(void)from;
	*ret = size;
	return kernel_answer(1) == 1;
}

int kernel_SSL_get_error(const SSL *ssl, int result)
{
	(void)ssl;
	(void)result;
	return SSL_ERROR_ZERO_RETURN;
}


void kernel_sockets_begin(void)
{
	wire_at = 0;
}
