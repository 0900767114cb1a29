#include "pipe_content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define USUAL_SIZE 65536

/* tee() copies what is in a pipe into another one and leaves it there. */
static int copy_content(int from, int size, char *ret, int bytes)
{
	int copy[2], got = 0, err = 0;

	if (pipe2(copy, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	(void)fcntl(copy[1], F_SETPIPE_SZ, size);
	if (tee(from, copy[1], bytes, SPLICE_F_NONBLOCK) != bytes)
		err = -EIO;
	while (!err && got < bytes) {
		ssize_t n = read(copy[0], ret + got, bytes - got);

		if (n <= 0)
			err = n < 0 ? -errno : -EIO;
		else
			got += n;
	}
	close(copy[0]);
	close(copy[1]);
	return err;
}

int pipe_content_dump(struct dump *dump, const char *image, uint32_t pipe_id, int end, bool all)
{
	PipeDataEntry data = PIPE_DATA_ENTRY__INIT;
	int size = fcntl(end, F_GETPIPE_SZ), bytes = 0, err = 0;
	char *content = NULL;

	if (size < 0 || (all && ioctl(end, FIONREAD, &bytes) < 0))
		return -errno;
	if (bytes) {
		content = malloc(bytes);
		err = content ? copy_content(end, size, content, bytes) : -ENOMEM;
	} else if (size == USUAL_SIZE) {
		return 0;
	}
	data.pipe_id = pipe_id;
	data.bytes = bytes;
	data.has_size = true;
	data.size = size;
	if (!err)
		err = image_put(dump->images, image, -1, &data.base);
	if (!err && bytes)
		err = image_put_raw(dump->images, image, -1, content, bytes);
	free(content);
	return err;
}

static int fill(struct build *b, const PipeDataEntry *data, const void *content, int end)
{
	int size = fcntl(end, F_GETPIPE_SZ);

	if (data->has_size && data->size && (int)data->size != size &&
	    fcntl(end, F_SETPIPE_SZ, data->size) < 0)
		return phaul_fail(b->err, -errno, "descriptors", "making a pipe of %u bytes (see "
				  "/proc/sys/fs/pipe-max-size)", data->size);
	if (data->bytes && write(end, content, data->bytes) != (ssize_t)data->bytes)
		return phaul_fail(b->err, -EIO, "descriptors", "putting %u bytes into a pipe",
				  data->bytes);
	return 0;
}

int pipe_content_build(struct build *b, const char *image, uint32_t pipe_id, int end)
{
	struct image_reader r;
	ProtobufCMessage *message;
	const void *content;
	bool found = false;
	int err = image_read(b->images, image, -1, &r);

	if (err)
		return err == -ENOENT ? 0 : err;
	while (!found && (err = image_next(&r, &pipe_data_entry__descriptor, &message)) > 0) {
		const PipeDataEntry *data = (const PipeDataEntry *)message;

		err = data->bytes ? image_next_raw(&r, data->bytes, &content) : 0;
		found = data->pipe_id == pipe_id || err;
		if (found && !err)
			err = fill(b, data, content, end);
		protobuf_c_message_free_unpacked(message, NULL);
	}
	return err;
}
