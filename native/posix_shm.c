#include "posix_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

/* In "phaul-posix", one behind the other, each before its name. */
struct entry {
	uint64_t id;
	uint32_t mode, uid, gid, name_size;
};

int posix_shm_put(struct image_set *to, int fd, const char *name, uint64_t id)
{
	struct entry e = { .id = id, .name_size = strlen(name) };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	e.mode = st.st_mode & 07777;
	e.uid = st.st_uid;
	e.gid = st.st_gid;
	return image_put_raw(to, "phaul-posix", -1, &e, sizeof(e)) ?: image_put_raw(to, "phaul-posix", -1, name, e.name_size);
}

static int find(const struct image_set *images, uint64_t id, struct entry *ret, char **ret_name)
{
	struct image_reader r;
	const void *bytes;
	int err = image_read(images, "phaul-posix", -1, &r);

	while (!err && image_left(&r)) {
		err = image_next_raw(&r, sizeof(*ret), &bytes);
		if (err)
			break;
		memcpy(ret, bytes, sizeof(*ret));
		err = ret->name_size > PATH_MAX ? -EPROTO : image_next_raw(&r, ret->name_size, &bytes);
		if (err || ret->id != id)
			continue;
		*ret_name = malloc(ret->name_size + 1);
		if (!*ret_name)
			return -ENOMEM;
		memcpy(*ret_name, bytes, ret->name_size);
		(*ret_name)[ret->name_size] = 0;
		return 0;
	}
	return err ? err : -ENOENT;
}

/* Of the source's making: nothing but a file right there. */
static bool is_harmless(const char *name)
{
	return posix_shm_is_name(name) && name[9] && name[9] != '.' && !strchr(name + 9, '/');
}

int posix_shm_make(const struct image_set *images, uint64_t id, uint64_t size, char **ret_name, struct phaul_error *err)
{
	struct entry e;
	char *name = NULL;
	int fd = -1, code = find(images, id, &e, &name);

	if (!code && !is_harmless(name))
		code = -EPROTO;
	if (!code)
		fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!code && fd < 0)
		code = -errno;
	if (fd >= 0 && (ftruncate(fd, size) < 0 || fchown(fd, e.uid, e.gid) < 0 || fchmod(fd, e.mode) < 0)) {
		code = -errno;
		(void)unlink(name);
		close(fd);
	}
	if (code) {
		phaul_fail(err, code, "shared memory", code == -EEXIST ? "%s is there already on this host, as another program's shared "
			   "memory: remove it if nobody needs it any more" : "making the shared memory %s", name ? name : "that a process has");
		free(name);
		return code;
	}
	*ret_name = name;
	return fd;
}

void posix_shm_leave(int fd, const char *name)
{
	struct stat there, own;

	/* The kernel grants it to the only one that has the file open. */
	if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		return;
	if (!stat(name, &there) && !fstat(fd, &own) && there.st_ino == own.st_ino && there.st_dev == own.st_dev)
		(void)unlink(name);
	(void)fcntl(fd, F_SETLEASE, F_UNLCK);
}
