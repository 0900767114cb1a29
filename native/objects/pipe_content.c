#include "pipe_content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
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

/* 1 and what the image has of this pipe, to be freed; 0: nothing. */
static int find(const struct image_set *images, const char *image, uint32_t pipe_id, PipeDataEntry **ret, const void **ret_content)
{
	struct image_reader r;
	ProtobufCMessage *message;
	int err = image_read(images, image, -1, &r);

	if (err)
		return err == -ENOENT ? 0 : err;
	while ((err = image_next(&r, &pipe_data_entry__descriptor, &message)) > 0) {
		PipeDataEntry *data = (PipeDataEntry *)message;

		err = data->bytes ? image_next_raw(&r, data->bytes, ret_content) : 0;
		if (!err && data->pipe_id == pipe_id) {
			*ret = data;
			return 1;
		}
		protobuf_c_message_free_unpacked(message, NULL);
		if (err)
			return err;
	}
	return err;
}

int pipe_content_build(struct build *b, const char *image, uint32_t pipe_id, int end)
{
	PipeDataEntry *data;
	const void *content;
	int err = find(b->images, image, pipe_id, &data, &content);

	if (err <= 0)
		return err;
	err = fill(b, data, content, end);
	pipe_data_entry__free_unpacked(data, NULL);
	return err;
}

int pipe_content_compare(const struct image_set *images, const char *image, uint32_t pipe_id, int end, int bytes)
{
	PipeDataEntry *data = NULL;
	const void *content;
	int err = find(images, image, pipe_id, &data, &content);
	char *there = malloc(bytes + 1);

	if (err > 0 && !there)
		err = -ENOMEM;
	if (err > 0)
		err = (int)data->bytes != bytes ? 0 : copy_content(end, fcntl(end, F_GETPIPE_SZ), there, bytes) ?: 1;
	if (err > 0)
		err = !memcmp(there, content, bytes);
	if (data)
		pipe_data_entry__free_unpacked(data, NULL);
	free(there);
	return err;
}
