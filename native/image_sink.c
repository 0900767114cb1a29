#include "image_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

int image_sink_open(struct image_sink *s, const char *name)
{
	s->name = name;
	if (s->ch)
		return phaul_note_send(s->ch, SINK_OPEN, name, strlen(name), s->err);
	s->file = openat(s->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return s->file < 0 ? phaul_fail(s->err, -errno, "images", "creating %s", name) : 0;
}

static int send_all(struct image_sink *s, const uint8_t *bytes, size_t size)
{
	int code = 0;

	for (size_t done = 0; done < size && !code; done += SINK_WRITE_MAX)
		code = phaul_note_send(s->ch, SINK_WRITE, bytes + done, size - done < SINK_WRITE_MAX ? size - done : SINK_WRITE_MAX, s->err);
	return code;
}

int image_sink_write(struct image_sink *s, const void *bytes, size_t size)
{
	if (s->ch)
		return send_all(s, bytes, size);
	for (size_t done = 0; done < size; ) {
		ssize_t put = write(s->file, (const uint8_t *)bytes + done, size - done);

		if (put < 0 && errno != EINTR)
			return phaul_fail(s->err, -errno, "images", "writing %s", s->name);
		done += put > 0 ? put : 0;
	}
	return 0;
}

int image_sink_close(struct image_sink *s)
{
	int code;

	if (s->ch)
		return phaul_note_send(s->ch, SINK_CLOSE, NULL, 0, s->err);
	code = fsync(s->file) < 0 ? -errno : 0;
	if (close(s->file) < 0 && !code)
		code = -errno;
	s->file = -1;
	return code ? phaul_fail(s->err, code, "images", "writing %s", s->name) : 0;
}

int image_sink_copy(struct image_sink *s, int directory, const char *name)
{
	uint8_t bytes[1 << 16];
	ssize_t got = 1;
	int from = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), code;

	if (from < 0)
		return phaul_fail(s->err, -errno, "images", "opening %s", name);
	code = image_sink_open(s, name);
	while (!code && got > 0) {
		got = read(from, bytes, sizeof(bytes));
		code = got < 0 ? phaul_fail(s->err, -errno, "images", "reading %s", name) : got ? image_sink_write(s, bytes, got) : 0;
	}
	close(from);
	return code ?: image_sink_close(s);
}

int image_sink_end(struct image_sink *s)
{
	uint32_t kind;
	size_t size;
	int code;

	if (!s->ch)
		return fsync(s->directory) < 0 ? phaul_fail(s->err, -errno, "images", "syncing the directory") : 0;
	code = phaul_note_send(s->ch, SINK_END, NULL, 0, s->err) ?:
	       phaul_note_receive(s->ch, &kind, NULL, 0, &size, SINK_TIMEOUT_MS, s->err);
	return code ? code : kind == SINK_DONE ? 0 : phaul_fail(s->err, -EPROTO, "images", "the other host said %u instead of that it is done", kind);
}
