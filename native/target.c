/* target.c - one process that arrives: a husk, filled round by round, built, held, and let go. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "checksum.h"
#include "error.h"
#include "husk.h"
#include "layout.h"
#include "objects/object.h"
#include "stage.h"
#include "objects/inet_socket.h"
#include "objects/unix_socket.h"
#include "state.h"

#define FIRST_ROOM 64u	/* descriptors, in a table that never grew */
#define ROOM_SPARE 3u	/* descriptors_reserve() takes the highest number, and two above it for itself */

struct phaul_target {
	pid_t pid;
	struct husk husk;
	struct stage stage;
	struct built_files files;
	uint32_t descriptor_room;	/* that the husk's table has */
	uint64_t threads_ns;		/* spent on building them so far */
	bool released;
};

int phaul_target_open(int pid, uint32_t flags, struct phaul_target **ret, struct phaul_error *err)
{
	struct phaul_target *tgt = calloc(1, sizeof(*tgt));
	int code;

	if (!tgt)
		return phaul_fail(err, -ENOMEM, "target", "preparing for pid %d", pid);
	if (flags) {
		free(tgt);
		return phaul_fail(err, -EINVAL, "target", "unknown flags %x", flags);
	}
	tgt->pid = pid;
	code = husk_open(pid, &tgt->husk, err);
	if (!code)
		code = stage_open(&tgt->stage, &tgt->husk, err);
	if (code) {
		phaul_target_close(tgt);
		return code;
	}
	*ret = tgt;
	return 0;
}

static void shut_stage(void *ctx)
{
	stage_shut(ctx);
}

int phaul_target_receive(struct phaul_target *tgt, struct phaul_channel *ch, struct phaul_error *err)
{
	struct page_sink sink = { .ctx = &tgt->stage, .apply = stage_pages, .shut = shut_stage };
	int code = pages_receive_start(ch, &sink);

	return code ? phaul_fail(err, code, "target", "starting the page streams") : 0;
}

/* Growing the table takes 16 ms once there are threads, and would have to be done in the freeze. What can't be
 * done here is done there, or fails there with its reason. */
static void make_room(struct phaul_target *tgt, uint32_t room)
{
	struct build b = { .pid = tgt->pid, .leader = &tgt->husk.leader };

	if (room > tgt->descriptor_room && room > FIRST_ROOM)
		(void)descriptors_reserve(&b, room - ROOM_SPARE);
	tgt->descriptor_room = room;
}

int phaul_target_round(struct phaul_target *tgt, struct phaul_channel *ch, const void *bytes, size_t size,
		       int timeout_ms, struct phaul_applied *ret, struct phaul_error *err)
{
	struct layout layout;
	struct pages_stats stats = {0};
	uint64_t at = phaul_now_ns();
	int64_t dropped = 0;
	int code = layout_unpack(tgt->pid, bytes, size, &layout, err);

	memset(ret, 0, sizeof(*ret));
	if (code)
		return code;
	ret->round = layout.round;
	ret->vmas = layout.map.count;
	make_room(tgt, layout.descriptor_room);
	code = stage_layout(&tgt->stage, &layout.map, err) ?:
	       husk_threads(&tgt->husk, layout.tids, layout.tid_count, err);
	if (!code && (layout.gone.absent.count || layout.gone.sparse.count || layout.gone.guards.count)) {
		dropped = stage_drop(&tgt->stage, &layout.gone, err);
		code = dropped < 0 ? dropped : 0;
	}
	ret->pages_dropped = dropped;
	ret->layout_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	if (!code) {
		stage_open_round(&tgt->stage, layout.round);
		code = pages_wait_round(ch, layout.round, timeout_ms, &stats, err);
		stage_filled(&tgt->stage);
	}
	ret->bytes = stats.bytes_raw;
	ret->wait_ns = phaul_now_ns() - at;
	layout_free(&layout);
	return code;
}

int phaul_target_threads(struct phaul_target *tgt, const void *bytes, size_t size, struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	struct image_set *images = NULL;
	int code;

	husk_join(&tgt->husk, true);
	code = image_set_unpack(bytes, size, &images, err);
	if (!code)
		code = state_build_threads(&tgt->husk, images, err);
	image_set_free(images);
	tgt->threads_ns += phaul_now_ns() - start;
	return code;
}

int phaul_target_build(struct phaul_target *tgt, const void *bytes, size_t size, struct phaul_built *ret,
		       struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	struct image_set *images = NULL;
	int code;

	husk_join(&tgt->husk, true);
	code = image_set_unpack(bytes, size, &images, err);
	memset(ret, 0, sizeof(*ret));
	if (!code)
		code = built_files_read(images, &tgt->pid, 1, &tgt->files, err) ?:
		       state_build_first(&tgt->husk, images, &tgt->files, err) ?:
		       state_build(&tgt->husk, images, &tgt->files, tgt->pid, ret, err);
	image_set_free(images);
	ret->build_ns = phaul_now_ns() - start;
	ret->threads_ns = tgt->threads_ns;
	return code;
}

int phaul_target_checksum(struct phaul_target *tgt, char *ret_text, size_t size, struct phaul_error *err)
{
	tgt->stage.layout.tid = tgt->pid;
	return checksum(tgt->stage.mem, &tgt->stage.layout, ret_text, size, err);
}

int phaul_target_release(struct phaul_target *tgt, struct phaul_error *err)
{
	int code;

	/* What the process is depends on its names less than on that it runs. */
	(void)unix_names_publish(&tgt->files, NULL);
	(void)inet_resume(&tgt->files, NULL);
	code = husk_release(&tgt->husk, err);
	tgt->released = !code;
	husk_join(&tgt->husk, false);
	return code;
}

void phaul_target_close(struct phaul_target *tgt)
{
	if (!tgt)
		return;
	stage_shut(&tgt->stage);
	if (tgt->released)
		tgt->husk.pid = 0;
	stage_close(&tgt->stage);
	built_files_free(&tgt->files);
	husk_close(&tgt->husk);
	free(tgt);
}
