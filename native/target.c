/* target.c - processes that arrive: husks, filled round by round, built, held, and let go. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "checksum.h"
#include "error.h"
#include "ghost.h"
#include "layout.h"
#include "objects/inet_connection.h"
#include "objects/locks.h"
#include "objects/memfd.h"
#include "network_lock.h"
#include "packet_catch.h"
#include "objects/tty.h"
#include "objects/unix_socket.h"
#include "objects/watched.h"
#include "rebirth.h"

#define FIRST_ROOM 64u	/* descriptors, in a table that never grew */
#define LOCK_TRIES 20
#define LOCK_PAUSE_US 10000
#define ROOM_SPARE 3u	/* descriptors_reserve() takes the highest number, and two above it for itself */

struct phaul_target {
	pid_t pid;
	struct rebirth tree;
	struct moved_addresses addresses;
	struct network_hold hold;
	struct packets packets;		/* for after the release */
	struct clocks frozen;		/* what the process saw last */
	struct tty_masters terminals;
	char lost[1024];		/* with the release, in sentences: phaul_target_said() */
	uint64_t threads_ns;		/* spent on building them so far */
	size_t own_room;		/* for descriptors, in our own table */
	bool told;			/* all: its state came */
	/* Pages of a round wait until its layout is there. */
	pthread_mutex_t lock;
	pthread_cond_t opened;
	uint32_t round;			/* the last whose layout was there */
	bool open, closed;
	size_t applying;		/* threads that do, now */
};

static int choose_clocks(struct phaul_target *tgt, const char *text, int64_t at_ns, int64_t unsure_ns, struct phaul_error *err)
{
	struct clocks_told told = { .at = at_ns, .unsure = unsure_ns };

	if (!text || !*text)
		return 0;
	if (clocks_parse(text, &told.least) || unsure_ns < 0 || at_ns < 0 || (uint64_t)at_ns > phaul_now_ns())
		return phaul_fail(err, -EINVAL, "target", "reading the clocks \"%s\", as they were at %lld", text, (long long)at_ns);
	told.own = strstr(text, " own");
	return clocks_offsets(&told, tgt->tree.clock_offsets, err);
}

int phaul_target_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, const char *clocks,
		      int64_t clocks_at_ns, int64_t clocks_unsure_ns, struct phaul_target **ret, struct phaul_error *err)
{
	struct phaul_target *tgt = calloc(1, sizeof(*tgt));
	struct reborn *root = calloc(1, sizeof(*root));
	PstreeEntry *entry = calloc(1, sizeof(*entry));
	int code = flags ? phaul_fail(err, -EINVAL, "target", "unknown flags %x", flags) : 0;

	if (tgt)
		tgt->tree.tasks = calloc(1, sizeof(*tgt->tree.tasks));
	if (!tgt || !root || !entry || !tgt->tree.tasks)
		code = phaul_fail(err, -ENOMEM, "target", "preparing for pid %d", pid);
	if (code) {
		free(tgt ? tgt->tree.tasks : NULL);
		free(tgt);
		free(root);
		free(entry);
		return code;
	}
	pthread_mutex_init(&tgt->lock, NULL);
	pthread_cond_init(&tgt->opened, NULL);
	pstree_entry__init(entry);
	entry->pid = entry->pgid = entry->sid = tgt->pid = pid;
	*root = (struct reborn){ .entry = entry, .state = TASK_ALIVE, .birth = 1 };
	tgt->tree.tasks[tgt->tree.count++] = root;
	code = addresses_parse(addresses, &tgt->addresses, err) ?:
	       cgroup_options_parse(cgroups, &tgt->tree.cgroups.options, err) ?: choose_clocks(tgt, clocks, clocks_at_ns, clocks_unsure_ns, err) ?:
	       husk_open(pid, tgt->tree.clock_offsets, &root->husk, err);
	if (code) {
		phaul_target_close(tgt);
		return code;
	}
	*ret = tgt;
	return 0;
}

/* ---- pages ---- */

static void open_round(struct phaul_target *tgt, uint32_t round)
{
	pthread_mutex_lock(&tgt->lock);
	tgt->round = round;
	tgt->open = true;
	pthread_cond_broadcast(&tgt->opened);
	pthread_mutex_unlock(&tgt->lock);
}

/* Nobody applies anything any more: the tree may change. */
static void close_round(struct phaul_target *tgt)
{
	pthread_mutex_lock(&tgt->lock);
	tgt->open = false;
	while (tgt->applying)
		pthread_cond_wait(&tgt->opened, &tgt->lock);
	pthread_mutex_unlock(&tgt->lock);
}

/* Pages that come when their round is over are a lie. */
static int begin_applying(struct phaul_target *tgt, uint32_t round)
{
	int err = 0;

	pthread_mutex_lock(&tgt->lock);
	while (!tgt->closed && tgt->round < round)
		pthread_cond_wait(&tgt->opened, &tgt->lock);
	if (tgt->closed)
		err = -ECANCELED;
	else if (!tgt->open || tgt->round != round)
		err = -EPROTO;
	tgt->applying += !err;
	pthread_mutex_unlock(&tgt->lock);
	return err;
}

static void end_applying(struct phaul_target *tgt)
{
	pthread_mutex_lock(&tgt->lock);
	if (!--tgt->applying)
		pthread_cond_broadcast(&tgt->opened);
	pthread_mutex_unlock(&tgt->lock);
}

static int place(struct phaul_target *tgt, uint64_t owner, const struct page_extent *extents, size_t count,
		 const uint8_t *data, struct phaul_error *err)
{
	if (owner & PAGES_SHARED)
		return shmem_pages(&tgt->tree.shmem, owner & ~PAGES_SHARED, extents, count, data, err);
	for (size_t i = 0; i < tgt->tree.count; i++)
		if (owner == tgt->tree.tasks[i]->entry->pid && tgt->tree.tasks[i]->staged)
			return stage_pages(&tgt->tree.tasks[i]->stage, extents, count, data, err);
	return phaul_fail(err, -EPROTO, "target", "the source sent pages of a process %llu, which it had not told of",
			  (unsigned long long)owner);
}

static int apply(void *ctx, uint32_t round, uint64_t owner, const struct page_extent *extents, size_t count,
		 const uint8_t *data, struct phaul_error *err)
{
	struct phaul_target *tgt = ctx;
	int code = begin_applying(tgt, round);

	if (code)
		return code == -ECANCELED ? code : phaul_fail(err, code, "target", "the source sent pages of round %u, which is over", round);
	code = place(tgt, owner, extents, count, data, err);
	end_applying(tgt);
	return code;
}

static void shut(void *ctx)
{
	struct phaul_target *tgt = ctx;

	pthread_mutex_lock(&tgt->lock);
	tgt->closed = true;
	pthread_cond_broadcast(&tgt->opened);
	pthread_mutex_unlock(&tgt->lock);
}

int phaul_target_receive(struct phaul_target *tgt, struct phaul_channel *ch, struct phaul_error *err)
{
	struct page_sink sink = { .ctx = tgt, .apply = apply, .shut = shut };
	int code = pages_receive_start(ch, &sink);

	if (tgt->addresses.count)
		network_prepare(&tgt->hold, tgt->pid, &tgt->addresses);
	return code ? phaul_fail(err, code, "target", "starting the page streams") : 0;
}

/* ---- rounds ---- */

/* Growing the table takes 16 ms once there are threads, and would have to be done in the freeze. What can't be
 * done here is done there, or fails there with its reason. */
static void make_room(struct reborn *task)
{
	struct build b = { .pid = reborn_pid(task), .leader = &task->husk.leader };

	if (task->descriptor_room > task->room_made && task->descriptor_room > FIRST_ROOM)
		(void)descriptors_reserve(&b, task->descriptor_room - ROOM_SPARE);
	task->room_made = task->descriptor_room;
}

/* All descriptions are made by us first. */
static void make_own_room(struct phaul_target *tgt)
{
	size_t room = 0;

	for (size_t i = 0; i < tgt->tree.count; i++)
		room += tgt->tree.tasks[i]->descriptor_room;
	if (room > tgt->own_room)
		descriptors_reserve_own(room);
	tgt->own_room = room;
}

static int read_origin(struct rebirth *tree, const struct image_set *images, struct phaul_error *err)
{
	int code;

	if (tree->origin)
		return 0;
	tree->origin = calloc(1, sizeof(*tree->origin));
	code = tree->origin ? origin_read_image(images, tree->origin) : -ENOMEM;
	return code ? phaul_fail(err, code == -ENOENT ? -EPROTO : code, "layout", "the source's description of its kernel and CPU is "
				 "malformed") : 0;
}

/* The mappings of all must be known before the first is made: they may share them. */
static int read_layouts(struct phaul_target *tgt, const struct image_set *images, struct phaul_error *err)
{
	struct rebirth *tree = &tgt->tree;
	int code = 0;

	for (size_t i = 0; i < tree->count && !code; i++) {
		struct reborn *task = tree->tasks[i];

		if (task->state == TASK_DEAD)
			continue;
		code = layout_read(images, reborn_pid(task), &task->layout, err) ?:
		       shmem_note(&tree->shmem, &task->layout.map, reborn_pid(task), err);
		if (!code)
			origin_mark_foreign(tree->origin, &task->layout.map);
	}
	code = code ?: shmem_note_sizes(&tree->shmem, images, err);
	return code ? code : shmem_make(&tree->shmem, images, NULL, err);
}

static int lay_out(struct phaul_target *tgt, struct reborn *task, struct phaul_applied *ret, struct phaul_error *err)
{
	const struct final_scan *gone = &task->layout.gone;
	int64_t dropped = 0;
	int code = rebirth_stage(&tgt->tree, task);

	ret->vmas += task->layout.map.count;
	if (code)
		return code;
	if (task->layout.inherited.count && !task->stage.inherits)
		return phaul_fail(err, -EPROTO, "target", "the source says what pid %d has from its parent, which is for new processes "
				  "only", reborn_pid(task));
	make_room(task);
	task->husk.origin = tgt->tree.origin;
	code = stage_layout(&task->stage, &task->layout.map, err) ?: rebirth_lead_vdso(&tgt->tree, task) ?:
	       husk_threads(&task->husk, (pid_t *)task->entry->threads, task->entry->n_threads, err);
	if (!code && task->stage.inherits)
		code = stage_keep(&task->stage, &task->layout.inherited, err);
	if (!code && (gone->absent.count || gone->sparse.count || gone->guards.count))
		dropped = stage_drop(&task->stage, gone, err);
	ret->pages_dropped += dropped > 0 ? dropped : 0;
	return dropped < 0 ? dropped : code;
}

/* What it is told it may become is not taken back. */
static int check_order(const struct phaul_target *tgt, struct phaul_error *err)
{
	return tgt->told ? phaul_fail(err, -EPROTO, "target", "the source went on about pid %d after it had told its state, which is "
				      "the last thing", tgt->pid) : 0;
}

/* The tree becomes that of the round. */
static int follow(struct phaul_target *tgt, const struct image_set *images, struct phaul_applied *ret, struct phaul_error *err)
{
	struct rebirth *tree = &tgt->tree, next = { .err = err };
	int code;

	tree->err = err;
	code = rebirth_read(&next, images);
	if (!code && reborn_pid(next.tasks[0]) != tgt->pid)
		code = phaul_fail(err, -EPROTO, "target", "the source sent pid %d, where pid %d was announced",
				  reborn_pid(next.tasks[0]), tgt->pid);
	if (code) {
		rebirth_free(&next);
		return code;
	}
	rebirth_become(tree, &next);
	code = read_origin(tree, images, err) ?: cgroups_read(&tree->cgroups, images, err) ?: cgroups_make(&tree->cgroups, err) ?:
	       ttys_reserve(&tgt->terminals, images, err) ?:
	       read_layouts(tgt, images, err) ?: rebirth_make(tree, images);
	if (!code)
		make_own_room(tgt);
	for (size_t i = 0; i < tree->count && !code; i++)
		if (tree->tasks[i]->state != TASK_DEAD)
			code = lay_out(tgt, tree->tasks[i], ret, err);
	for (size_t i = 0; i < tree->count; i++)
		layout_free(&tree->tasks[i]->layout);
	return code;
}

int phaul_target_round(struct phaul_target *tgt, struct phaul_channel *ch, const void *bytes, size_t size,
		       int timeout_ms, struct phaul_applied *ret, struct phaul_error *err)
{
	struct image_set *images = NULL;
	struct pages_stats stats = {0};
	uint64_t at = phaul_now_ns();
	int code = check_order(tgt, err) ?: image_set_unpack(bytes, size, &images, err);

	memset(ret, 0, sizeof(*ret));
	if (code)
		return code;
	code = layout_read_round(images, &ret->round);
	if (code || ret->round <= tgt->round)
		code = phaul_fail(err, -EPROTO, "target", "the source's description of a round is malformed");
	code = code ?: follow(tgt, images, ret, err);
	image_set_free(images);
	ret->layout_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	if (!code) {
		open_round(tgt, ret->round);
		code = pages_wait_round(ch, ret->round, timeout_ms, &stats, err);
		close_round(tgt);
		for (size_t i = 0; i < tgt->tree.count; i++)
			if (tgt->tree.tasks[i]->staged)
				stage_filled(&tgt->tree.tasks[i]->stage);
	}
	ret->bytes = stats.bytes_raw;
	ret->wait_ns = phaul_now_ns() - at;
	return code;
}

/* ---- the end ---- */

static void join(struct phaul_target *tgt, bool join)
{
	husk_join(&tgt->tree.tasks[0]->husk, join);
}

int phaul_target_threads(struct phaul_target *tgt, const void *bytes, size_t size, struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	struct image_set *images = NULL;
	int code = check_order(tgt, err);

	join(tgt, true);
	tgt->tree.err = err;
	code = code ?: image_set_unpack(bytes, size, &images, err) ?: rebirth_build_threads(&tgt->tree, images);
	image_set_free(images);
	tgt->threads_ns += phaul_now_ns() - start;
	return code;
}

/* Until the release nobody hears of the connections. */
static int hold_connections(struct phaul_target *tgt, struct phaul_error *err)
{
	struct connection_pair *pairs = NULL;
	size_t count = 0;
	int code = inet_connections_of_images(&tgt->tree.files, &pairs, &count);

	if (code)
		phaul_fail(err, code, "target", "listing TCP connections");
	else if (count || (tgt->addresses.count && !tgt->hold.ready))
		code = network_hold(&tgt->hold, tgt->pid, pairs, count, &tgt->addresses, err);
	free(pairs);
	return code;
}

int phaul_target_build(struct phaul_target *tgt, const void *bytes, size_t size, struct phaul_built *ret,
		       struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	struct rebirth *tree = &tgt->tree;
	struct image_set *images = NULL;
	int code = check_order(tgt, err);

	join(tgt, true);
	tree->err = err;
	tree->files.moves = true;
	tgt->told = true;
	memset(ret, 0, sizeof(*ret));
	code = code ?: image_set_unpack(bytes, size, &images, err) ?: rebirth_read_states(tree, images) ?:
	       built_files_read(images, tree->tables, tree->table_count, &tree->files, err) ?:
	       ghosts_make(&tree->files, images, -1, &tree->shmem, err) ?:
	       memfds_make(&tree->files, images, NULL, &tree->shmem, err) ?:
	       ttys_make(&tree->files, images, &tgt->terminals, err) ?: hold_connections(tgt, err) ?:
	       rebirth_settle(tree, images) ?: rebirth_build(tree, images, ret) ?:
	       memfds_seal(&tree->files, err) ?: cgroups_finish(&tree->cgroups, err);
	if (!code && clocks_of_images(images, &tgt->frozen))
		tgt->frozen = (struct clocks){ 0 };
	image_set_free(images);
	ret->build_ns = phaul_now_ns() - start;
	ret->threads_ns = tgt->threads_ns;
	return code;
}

int phaul_target_checksum(struct phaul_target *tgt, char *ret_text, size_t size, struct phaul_error *err)
{
	const struct rebirth *tree = &tgt->tree;
	struct shared_view *views;
	size_t used = 0, count = 0;
	int code = 0;

	*ret_text = 0;
	for (size_t i = 0; i < tree->count && !code; i++) {
		struct reborn *task = tree->tasks[i];

		if (!task->staged || task->state == TASK_DEAD)
			continue;
		task->stage.layout.tid = reborn_pid(task);
		code = checksum(task->stage.mem, &task->stage.layout, ret_text + used, size - used, err);
		used += strlen(ret_text + used);
	}
	views = calloc(tree->shmem.count + 1, sizeof(*views));
	for (size_t i = 0; views && i < tree->shmem.count; i++)
		if (tree->shmem.at[i].fd < 0)
			views[count++] = (struct shared_view){ tree->shmem.at[i].id, tree->shmem.at[i].at, tree->shmem.at[i].size };
	code = code ?: views ? checksum_shared(views, count, ret_text + used, size - used, err) :
			       phaul_fail(err, -ENOMEM, "target", "comparing shared memory");
	free(views);
	return code;
}

void phaul_target_said(struct phaul_target *tgt, char *ret_text, size_t size)
{
	size_t used;

	cgroups_said(&tgt->tree.cgroups, ret_text, size);
	used = strlen(ret_text);
	snprintf(ret_text + used, size - used, "%s", tgt->lost);
	*tgt->lost = 0;
}

/* The source has given back what it had. Somebody else may want them for a moment. */
static void take_locks(struct phaul_target *tgt, struct file_lock *locks, size_t count, int64_t *results)
{
	bool missing = true;

	for (size_t i = 0; i < count; i++)
		results[i] = -EAGAIN;
	for (int tries = 0; tries < LOCK_TRIES && missing; tries++) {
		if (tries)
			usleep(LOCK_PAUSE_US);
		for (size_t i = 0; i < tgt->tree.count; i++) {
			struct reborn *task = tgt->tree.tasks[i];

			if (task->state != TASK_DEAD)
				(void)locks_apply(reborn_pid(task), task->husk.leader.syscall_at, memory_map_gap(&task->stage.layout),
						  locks, count, true, results);
		}
		missing = false;
		for (size_t i = 0; i < count; i++)
			missing |= results[i] < 0;
	}
}

/* It can't go back any more: that it has one less is said. */
static void take_late_locks(struct phaul_target *tgt)
{
	struct built_files *f = &tgt->tree.files;
	int64_t *results = calloc(f->late_lock_count + 1, sizeof(*results));
	char lock[192];

	if (results && f->late_lock_count)
		take_locks(tgt, f->late_locks, f->late_lock_count, results);
	for (size_t i = 0; results && i < f->late_lock_count; i++) {
		size_t used = strlen(tgt->lost);

		if (results[i] >= 0)
			continue;
		lock_describe(&f->late_locks[i], lock, sizeof(lock));
		snprintf(tgt->lost + used, sizeof(tgt->lost) - used, "somebody else has the lock on %s by now: it runs without\n", lock);
	}
	free(results);
}

int phaul_target_release(struct phaul_target *tgt, struct phaul_error *err)
{
	int code;

	tgt->tree.err = err;
	take_late_locks(tgt);
	/* What the process is depends on its names and addresses less than on that it runs. */
	(void)unix_names_publish(&tgt->tree.files, NULL);
	(void)addresses_add(&tgt->addresses, NULL);
	(void)inet_restore_ends(&tgt->tree.files, NULL);
	/* The other way round packets that follow the announcement would be dropped. */
	network_open(&tgt->hold, tgt->pid);
	addresses_announce(&tgt->addresses);
	(void)inet_resume(&tgt->tree.files, NULL);
	packets_deliver(&tgt->addresses, tgt->packets.at, tgt->packets.size);
	watched_drain(&tgt->tree.files);
	clocks_await(tgt->pid, &tgt->frozen);
	code = rebirth_release(&tgt->tree);
	join(tgt, false);
	return code;
}

int phaul_target_packets(struct phaul_target *tgt, const void *packets, size_t size, struct phaul_error *err)
{
	if (tgt->tree.released) {
		packets_deliver(&tgt->addresses, packets, size);
		return 0;
	}
	packets_free(&tgt->packets);
	tgt->packets.at = malloc(size + 1);
	if (!tgt->packets.at)
		return phaul_fail(err, -ENOMEM, "target", "keeping packets");
	memcpy(tgt->packets.at, packets, size);
	tgt->packets.size = size;
	return 0;
}

void phaul_target_close(struct phaul_target *tgt)
{
	if (!tgt)
		return;
	shut(tgt);
	rebirth_free(&tgt->tree);
	network_let_go(&tgt->hold);
	addresses_free(&tgt->addresses);
	packets_free(&tgt->packets);
	tty_masters_free(&tgt->terminals);
	pthread_mutex_destroy(&tgt->lock);
	pthread_cond_destroy(&tgt->opened);
	free(tgt);
}
