/* page_server.c - the files of a checkpoint that another host writes here, through image_sink.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain.h"
#include "error.h"
#include "image_sink.h"
#include "pages_before.h"

struct page_server {
	struct phaul_channel *ch;
	struct image_sink sink;
	char name[256];			/* of the file that is open */
	uint8_t *note;			/* SINK_WRITE_MAX bytes */
	uint64_t bytes;
	struct phaul_error *err;
};

/* It chooses no other file than one of a checkpoint, which isn't there yet. */
static int open_file(struct page_server *s, size_t size)
{
	if (size >= sizeof(s->name) || s->sink.file >= 0)
		return -EPROTO;
	memcpy(s->name, s->note, size);
	s->name[size] = 0;
	return strlen(s->name) == size && image_is_file_name(s->name) ? image_sink_open(&s->sink, s->name) : -EPROTO;
}

static int obey(struct page_server *s, uint32_t kind, size_t size)
{
	if (kind == SINK_OPEN)
		return open_file(s, size);
	if (s->sink.file < 0 || (kind != SINK_WRITE && kind != SINK_CLOSE))
		return -EPROTO;
	if (kind == SINK_CLOSE)
		return image_sink_close(&s->sink);
	s->bytes += size;
	return image_sink_write(&s->sink, s->note, size);
}

static int serve(struct page_server *s)
{
	uint32_t kind = 0;
	size_t size;
	int code;

	for (;;) {
		code = phaul_note_receive(s->ch, &kind, s->note, SINK_WRITE_MAX, &size, SINK_TIMEOUT_MS, s->err);
		if (!code && kind == SINK_END && s->sink.file < 0)
			return image_sink_end(&s->sink) ?: phaul_note_send(s->ch, SINK_DONE, NULL, 0, s->err);
		code = code ?: obey(s, kind, size);
		if (code == -ENOBUFS || (code == -EPROTO && s->err->code != code))
			code = phaul_fail(s->err, -EPROTO, "page server", "the other host sent a note %u of %zu bytes, which means nothing here", kind,
					  size);
		if (code)
			return code;
	}
}

static int tell_before(int directory, struct phaul_channel *ch, struct phaul_error *err)
{
	struct chain chain;
	int code = chain_open(directory, NULL, &chain, err) ?: pages_tell(&chain, ch, err);

	chain_close(&chain);
	return code;
}

int phaul_page_server(struct phaul_channel *ch, int directory, uint64_t *ret_bytes, struct phaul_error *err)
{
	struct page_server s = {
		.ch = ch, .sink = { .directory = directory, .file = -1, .err = err }, .note = malloc(SINK_WRITE_MAX), .err = err,
	};
	int code;

	memset(err, 0, sizeof(*err));
	code = s.note ? tell_before(directory, ch, err) ?: serve(&s) : phaul_fail(err, -ENOMEM, "page server", "preparing to receive pages");
	if (s.sink.file >= 0)
		close(s.sink.file);
	free(s.note);
	*ret_bytes = s.bytes;
	return code;
}
