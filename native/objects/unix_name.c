/* unix_name.c - bind() and connect() with names that mean something elsewhere: relative to a directory, or in a root of
 * its own for a name that nobody shall find any more. A child that shares all with us but the directories does it.
 */
#include "unix_socket.h"

#include <errno.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (64 * 1024)

struct request {
	int (*act)(struct request *r);
	int fd, err;
	struct sockaddr_un address;
	socklen_t size;
	const struct unix_place *place;
	const struct msghdr *message;
};

static int act_bind(struct request *r)
{
	return bind(r->fd, (struct sockaddr *)&r->address, r->size);
}

static int act_connect(struct request *r)
{
	return connect(r->fd, (struct sockaddr *)&r->address, r->size);
}

static int act_send(struct request *r)
{
	struct msghdr m = *r->message;
	ssize_t put;

	m.msg_name = r->size ? &r->address : NULL;
	m.msg_namelen = r->size;
	put = sendmsg(r->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (put >= 0 && (size_t)put != m.msg_iov->iov_len)
		errno = EIO;
	return put == (ssize_t)m.msg_iov->iov_len ? 0 : -1;
}

static int act_elsewhere(void *argument)
{
	struct request *r = argument;
	const struct unix_place *p = r->place;

	if ((p->root && chroot(p->root) < 0) || chdir(p->directory ? p->directory : "/") < 0 || r->act(r) < 0)
		r->err = -errno;
	return 0;
}

static int run(struct request *r)
{
	const struct unix_place *p = r->place;
	sigset_t all, before;
	char *stack;
	pid_t pid;

	if (p && p->size > sizeof(r->address.sun_path))
		return -ENAMETOOLONG;
	if (p && p->size) {
		r->address.sun_family = AF_UNIX;
		memcpy(r->address.sun_path, p->name, p->size);
		r->size = sizeof(sa_family_t) + p->size;
	}
	if (!p || (!p->root && !p->directory))
		return r->act(r) < 0 ? -errno : 0;
	stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	/* No exit signal: nobody else who waits for children learns of it. */
	pid = clone(act_elsewhere, stack + STACK_SIZE, CLONE_VM | CLONE_VFORK | CLONE_FILES, r);
	if (pid < 0)
		r->err = -errno;
	else
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	munmap(stack, STACK_SIZE);
	return r->err;
}

int unix_bind(int fd, const struct unix_place *place)
{
	return run(&(struct request){ .act = act_bind, .fd = fd, .place = place });
}

int unix_connect(int fd, const struct unix_place *place)
{
	return run(&(struct request){ .act = act_connect, .fd = fd, .place = place });
}

int unix_send(int fd, const struct msghdr *m, const struct unix_place *to)
{
	return run(&(struct request){ .act = act_send, .fd = fd, .place = to, .message = m });
}

/* ---- files of sockets ---- */

int unix_name_add(struct built_files *f, char *root, const char *from, const char *to)
{
	struct unix_name *larger = reallocarray(f->unix_names, f->unix_name_count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	f->unix_names = larger;
	f->unix_names[f->unix_name_count++] = (struct unix_name){ root, strdup(from), to ? strdup(to) : NULL };
	return 0;
}

int unix_names_publish(struct built_files *f, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < f->unix_name_count; i++) {
		const struct unix_name *n = &f->unix_names[i];

		if (n->to && rename(n->from, n->to) < 0)
			code = phaul_fail(err, -errno, "unix sockets", "putting the socket %s in its place", n->to);
	}
	return code;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

void unix_names_free(struct built_files *f)
{
	while (f->unix_name_count) {
		struct unix_name *n = &f->unix_names[--f->unix_name_count];

		(void)nftw(n->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		free(n->root);
		free(n->from);
		free(n->to);
	}
	free(f->unix_names);
	f->unix_names = NULL;
}
