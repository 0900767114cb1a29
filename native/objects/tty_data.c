/* tty_data.c - what waits in a pseudo terminal to be read. It can't be looked at, only be taken out and put back, for
 * which the terminal must not interpret it meanwhile.
 */
#include "tty.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tty.pb-c.h"

#define MOST 65536		/* more than the kernel keeps */

/* `before`, but so that bytes go through as they are; by lines, if it is so, or whatever there is. */
static int make_raw(int fd, const struct termios2 *before, bool lines)
{
	struct termios2 raw = *before;

	raw.c_iflag = 0;
	raw.c_oflag &= ~OPOST;
	raw.c_lflag &= lines ? ICANON : 0;
	memset(raw.c_cc, 0, sizeof(raw.c_cc));
	raw.c_cc[VMIN] = raw.c_lflag ? 0 : 1;
	return ioctl(fd, TCSETS2, &raw) < 0 ? -errno : 0;
}

static ssize_t take_all(int fd, char *to)
{
	ssize_t got, size = 0;

	while (size < MOST && (got = read(fd, to + size, MOST - size)) > 0)
		size += got;
	return size;
}

static int put_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t put = write(fd, bytes, size);

		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		bytes += put;
		size -= put;
	}
	return 0;
}

/* `from` is read, what is written to `into` arrives there again. */
static ssize_t look(int from, int into, char *bytes)
{
	struct termios2 before;
	int packets = 0, off = 0, flags = fcntl(from, F_GETFL), err;
	ssize_t size = 0;

	err = ioctl(into, TCGETS2, &before) < 0 ? -errno : make_raw(into, &before, false);
	if (err)
		return err;
	(void)ioctl(from, TIOCGPKT, &packets);
	if (packets)
		(void)ioctl(from, TIOCPKT, &off);
	(void)fcntl(from, F_SETFL, flags | O_NONBLOCK);
	size = take_all(from, bytes);
	err = make_raw(into, &before, true) ?: put_all(into, bytes, size);
	(void)fcntl(from, F_SETFL, flags);
	if (packets)
		(void)ioctl(from, TIOCPKT, &packets);
	(void)ioctl(into, TCSETS2, &before);
	return err ? err : size;
}

static int put_image(struct dump *dump, uint32_t info_id, char *bytes, size_t size)
{
	TtyDataEntry data = TTY_DATA_ENTRY__INIT;

	if (!size)
		return 0;
	data.tty_id = info_id;
	data.data = (ProtobufCBinaryData){ size, (uint8_t *)bytes };
	return image_put(dump->images, "tty-data", -1, &data.base);
}

int tty_data_dump(struct dump *dump, uint32_t info_id, int own, int other)
{
	char *bytes = malloc(MOST);
	ssize_t size = bytes ? look(own, other, bytes) : -ENOMEM;
	int err = size < 0 ? (int)size : put_image(dump, info_id, bytes, size);

	free(bytes);
	return err;
}

int tty_data_build(const struct image_set *images, uint32_t info_id, int other)
{
	ProtobufCMessage **all;
	struct termios2 before;
	size_t count;
	int err = image_read_all(images, "tty-data", -1, &tty_data_entry__descriptor, &all, &count);

	for (size_t i = 0; i < count && !err; i++) {
		const TtyDataEntry *e = (TtyDataEntry *)all[i];

		if (e->tty_id != info_id)
			continue;
		err = ioctl(other, TCGETS2, &before) < 0 ? -errno : make_raw(other, &before, true) ?: put_all(other, (char *)e->data.data, e->data.len);
		(void)ioctl(other, TCSETS2, &before);
	}
	image_free_all(all, count);
	return err;
}
