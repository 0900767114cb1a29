/* tty_master.c - masters of pseudo terminals, each by its number: they are made before anything else is known of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tty_images.h"

#define MASTERS_MAX 4096	/* kernel.pty.max */

/* Masters get the lowest number that is free. */
int tty_open_master(const char *path, uint32_t index, bool any, struct phaul_error *error)
{
	int below[MASTERS_MAX], fd = -1, err = 0;
	size_t count = 0;
	unsigned int number;

	while (fd < 0 && !err) {
		fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, TIOCGPTN, &number) < 0)
			err = phaul_fail(error, -errno, "terminals", "opening a pseudo terminal (%s)", path);
		else if (!any && number > index)
			err = phaul_fail(error, -EBUSY, "terminals", "the terminal /dev/pts/%u is taken on this host; its name can't "
					 "change under the program that has it. Close that one first", index);
		if (err || any || number == index)
			continue;
		if (count == MASTERS_MAX)
			err = -EMFILE;
		else
			below[count++] = fd;
		fd = -1;
	}
	while (count)
		close(below[--count]);
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

int tty_take_master(struct tty_masters *made, uint32_t index)
{
	for (size_t i = 0; made && i < made->count; i++)
		if (made->at[i].index == index && made->at[i].fd >= 0) {
			int fd = made->at[i].fd;

			made->at[i].fd = -1;
			return fd;
		}
	return -1;
}

static bool is_reserved(const struct tty_masters *m, uint32_t index)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->at[i].index == index)
			return true;
	return false;
}

static int reserve(struct tty_masters *m, uint32_t index, struct phaul_error *err)
{
	struct tty_master *larger = reallocarray(m->at, m->count + 1, sizeof(*larger));
	int fd, off = 0;

	if (!larger)
		return phaul_fail(err, -ENOMEM, "terminals", "listing terminals");
	m->at = larger;
	fd = tty_open_master("/dev/ptmx", index, false, err);
	if (fd < 0)
		return fd;
	(void)ioctl(fd, TIOCSPTLCK, &off);
	m->at[m->count++] = (struct tty_master){ index, fd };
	return 0;
}

int ttys_reserve(struct tty_masters *m, const struct image_set *images, struct phaul_error *err)
{
	TtyInfoEntry **infos;
	size_t count;
	int code = tty_infos_read(images, &infos, &count, err);

	for (size_t i = 0; i < count && !code; i++)
		if (infos[i]->pty && !is_reserved(m, infos[i]->pty->index))
			code = reserve(m, infos[i]->pty->index, err);
	image_free_all(infos, count);
	return code;
}

void tty_masters_free(struct tty_masters *m)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->at[i].fd >= 0)
			close(m->at[i].fd);
	free(m->at);
	memset(m, 0, sizeof(*m));
}
