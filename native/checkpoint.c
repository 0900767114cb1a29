#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "error.h"
#include "husk.h"
#include "image.h"
#include "layout.h"
#include "memory_map.h"
#include "stage.h"
#include "state.h"
#include "track.h"

#define PAGE 4096ul
#define AT_ONCE 64u		/* pages that are read, or written, by one call */
#define PAGES_FILE "pages-1.img"
#define PAGES_ID 1
#define IMAGES_VERSION 2	/* with a common magic number before each image's own */
#define ONLY 1			/* id of whatever there can be several of, and is one */

enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };

/* ---- dump ---- */

struct page_writer {
	const struct checkpoint_source *src;
	struct image_set *images;
	int pagemap, file;
	struct range_list guards;
	uint8_t *buffer;
	struct phaul_dumped *ret;
};

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t put = write(fd, bytes, size);

		if (put < 0 && errno != EINTR)
			return -errno;
		bytes += put > 0 ? put : 0;
		size -= put > 0 ? put : 0;
	}
	return 0;
}

/* Forced where the process itself may not read. */
static int read_pages(struct page_writer *w, uint64_t at, size_t size)
{
	struct iovec local = { w->buffer, size }, remote = { (void *)at, size };
	ssize_t got = process_vm_readv(w->src->frozen->pid, &local, 1, &remote, 1, 0);

	if (got != (ssize_t)size)
		got = pread(w->src->mem, w->buffer, size, at);
	return got < 0 ? -errno : (size_t)got == size ? 0 : -EFAULT;
}

static int put_range(struct page_writer *w, const struct page_range *range)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	int err;

	entry.vaddr = range->address;
	entry.compat_nr_pages = range->pages;
	entry.has_nr_pages = entry.has_flags = true;
	entry.nr_pages = range->pages;
	entry.flags = PE_PRESENT;
	err = image_put(w->images, "pagemap", w->src->frozen->pid, &entry.base);
	for (uint64_t done = 0; done < range->pages && !err; done += AT_ONCE) {
		size_t size = (range->pages - done < AT_ONCE ? range->pages - done : AT_ONCE) * PAGE;

		err = read_pages(w, range->address + done * PAGE, size) ?: write_all(w->file, w->buffer, size);
	}
	w->ret->pages += range->pages;
	return err;
}

static int put_mapping(struct page_writer *w, const struct vma *vma)
{
	struct range_list held = {0};
	int err = pagemap_held(w->pagemap, vma, &held, &w->guards);

	for (size_t i = 0; i < held.count && !err; i++)
		err = put_range(w, &held.at[i]);
	range_list_free(&held);
	return err;
}

static int put_memory(struct page_writer *w, const struct memory_map *map)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int err;

	head.pages_id = PAGES_ID;
	err = image_put(w->images, "pagemap", w->src->frozen->pid, &head.base);
	for (size_t i = 0; i < map->count && !err; i++)
		if (vma_has_pages(&map->at[i]))
			err = put_mapping(w, &map->at[i]);
	if (!err && w->guards.count)
		err = image_put_raw(w->images, "phaul-guards", -1, w->guards.at,
				    w->guards.count * sizeof(*w->guards.at));
	return err ? err : fsync(w->file) < 0 ? -errno : 0;
}

static int dump_memory(const struct checkpoint_source *src, const struct memory_map *map, int directory,
		       struct image_set *images, struct phaul_dumped *ret, struct phaul_error *err)
{
	struct page_writer w = { .src = src, .images = images, .pagemap = -1, .ret = ret };
	char path[32];
	int code;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", src->frozen->pid);
	w.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	w.file = openat(directory, PAGES_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	w.buffer = malloc(AT_ONCE * PAGE);
	if (w.pagemap < 0 || w.file < 0)
		code = -errno;
	else
		code = w.buffer ? put_memory(&w, map) : -ENOMEM;
	if (w.pagemap >= 0)
		close(w.pagemap);
	if (w.file >= 0 && close(w.file) < 0 && !code)
		code = -errno;
	free(w.buffer);
	range_list_free(&w.guards);
	return code ? phaul_fail(err, code, "checkpoint", "writing the memory of pid %d to %s", src->frozen->pid,
				 PAGES_FILE) : 0;
}

static void ids_of_one(TaskKobjIdsEntry *ids)
{
	ids->vm_id = ids->files_id = ids->fs_id = ids->sighand_id = ONLY;
	ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = ids->has_mnt_ns_id = true;
	ids->pid_ns_id = ids->net_ns_id = ids->ipc_ns_id = ids->uts_ns_id = ids->mnt_ns_id = ONLY;
	ids->has_user_ns_id = ids->has_cgroup_ns_id = ids->has_time_ns_id = true;
	ids->user_ns_id = ids->cgroup_ns_id = ids->time_ns_id = ONLY;
}

static int put_inventory(struct image_set *images, pid_t pid)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;

	ids_of_one(&ids);
	inventory.img_version = IMAGES_VERSION;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.has_ns_per_id = inventory.ns_per_id = true;
	inventory.root_ids = &ids;
	return image_put(images, "inventory", -1, &inventory.base) ?: image_put(images, "ids", pid, &ids.base);
}

static int take_threads(void *ctx, const struct image_set *threads, struct phaul_error *err)
{
	int code = image_set_merge(ctx, threads);

	return code ? phaul_fail(err, code, "checkpoint", "collecting threads") : 0;
}

int checkpoint_dump(const struct checkpoint_source *src, int directory, struct phaul_dumped *ret,
		    struct phaul_error *err)
{
	pid_t pid = src->frozen->pid;
	struct image_set *images = image_set_new();
	struct thread_sink sink = { images, take_threads };
	struct memory_map map;
	int code = memory_map_read(pid, true, &map, err);

	memset(ret, 0, sizeof(*ret));
	if (code) {
		image_set_free(images);
		return code;
	}
	if (!images)
		code = phaul_fail(err, -ENOMEM, "checkpoint", "collecting the state of pid %d", pid);
	if (!code)
		code = state_dump(src->frozen, src->syscall_at, memory_map_gap(&map), src->flags, &map, images, &sink,
				  err);
	if (!code) {
		code = put_inventory(images, pid);
		if (code)
			phaul_fail(err, code, "checkpoint", "writing the inventory");
	}
	if (!code)
		code = dump_memory(src, &map, directory, images, ret, err) ?: image_set_save(images, directory, err);
	ret->threads = src->frozen->count;
	memory_map_free(&map);
	image_set_free(images);
	return code;
}

/* ---- restore ---- */

struct restored {
	struct image_set *images;
	PstreeEntry *tree;
	struct husk husk;
	struct stage stage;
	bool staged;
	int directory;
	struct phaul_error *err;
};

static int malformed(struct restored *r, const char *image)
{
	return phaul_fail(r->err, -EPROTO, "checkpoint", "%s.img is missing or malformed: is the directory a whole "
			  "checkpoint, and of a phaul of this version?", image);
}

/* One process, so far. */
static int read_tree(struct restored *r)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL, *other = NULL;
	int more;

	if (image_read(r->images, "pstree", -1, &reader) ||
	    image_next(&reader, &pstree_entry__descriptor, &msg) != 1)
		return malformed(r, "pstree");
	r->tree = (PstreeEntry *)msg;
	more = image_next(&reader, &pstree_entry__descriptor, &other);
	if (other)
		protobuf_c_message_free_unpacked(other, NULL);
	if (more > 0)
		return phaul_fail(r->err, -EOPNOTSUPP, "checkpoint", "the checkpoint has several processes, which can't "
				  "be restored yet: \"criu restore\" may");
	if (more < 0 || !r->tree->n_threads || r->tree->threads[0] != r->tree->pid)
		return malformed(r, "pstree");
	return 0;
}

static int place_range(struct restored *r, int file, const PagemapEntry *entry, uint8_t *buffer)
{
	uint64_t pages = entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages;
	uint64_t at = entry->vaddr;

	while (pages) {
		struct page_extent extent = { at, pages < AT_ONCE ? pages : AT_ONCE, 0 };
		size_t size = extent.pages * PAGE;
		ssize_t got = read(file, buffer, size);
		int code;

		if (got != (ssize_t)size)
			return phaul_fail(r->err, got < 0 ? -errno : -EPROTO, "checkpoint", "%s ends too early", PAGES_FILE);
		code = stage_pages(&r->stage, 1, &extent, 1, buffer, r->err);
		if (code)
			return code;
		at += size;
		pages -= extent.pages;
	}
	return 0;
}

static int place_pages(struct restored *r, int file, uint8_t *buffer)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	int more = 0, code = 0;

	if (image_read(r->images, "pagemap", r->tree->pid, &reader) ||
	    image_next(&reader, &pagemap_head__descriptor, &msg) != 1)
		return malformed(r, "pagemap");
	protobuf_c_message_free_unpacked(msg, NULL);
	while (!code && (more = image_next(&reader, &pagemap_entry__descriptor, &msg)) > 0) {
		const PagemapEntry *entry = (PagemapEntry *)msg;

		if (entry->in_parent || entry->flags & PE_PARENT)
			code = phaul_fail(r->err, -EOPNOTSUPP, "checkpoint", "some pages are in a checkpoint before this one "
					  "(parent), which can't be followed yet");
		else
			code = place_range(r, file, entry, buffer);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return code ? code : more < 0 ? malformed(r, "pagemap") : 0;
}

static int restore_memory(struct restored *r)
{
	struct final_scan gone = {0};
	struct memory_map map;
	int file, code = layout_read_map(r->images, r->tree->pid, &map);
	uint8_t *buffer;

	if (code)
		return malformed(r, "mm");
	code = stage_layout(&r->stage, &map, r->err) ?:
	       husk_threads(&r->husk, (pid_t *)r->tree->threads, r->tree->n_threads, r->err);
	memory_map_free(&map);
	if (code)
		return code;
	file = openat(r->directory, PAGES_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	buffer = malloc(AT_ONCE * PAGE);
	stage_open_round(&r->stage, 1);
	if (file < 0 || !buffer)
		code = phaul_fail(r->err, file < 0 ? -errno : -ENOMEM, "checkpoint", "opening %s", PAGES_FILE);
	else
		code = place_pages(r, file, buffer);
	stage_filled(&r->stage);
	if (file >= 0)
		close(file);
	free(buffer);
	if (!code) {
		code = layout_read_guards(r->images, &gone.guards);
		code = code ? malformed(r, "phaul-guards") : stage_drop(&r->stage, &gone, r->err) < 0 ? -EIO : 0;
		range_list_free(&gone.guards);
	}
	return code;
}

static int restore(struct restored *r)
{
	struct phaul_built built = {0};
	int code = image_set_load(r->directory, &r->images, r->err) ?: read_tree(r) ?:
		   husk_open(r->tree->pid, &r->husk, r->err);

	if (code)
		return code;
	code = stage_open(&r->stage, &r->husk, r->err);
	r->staged = !code;
	if (!code)
		code = restore_memory(r);
	husk_join(&r->husk, true);
	if (!code)
		code = state_build_threads(&r->husk, r->images, r->err) ?:
		       state_build(&r->husk, r->images, &built, r->err) ?: husk_release(&r->husk, r->err);
	husk_join(&r->husk, false);
	return code;
}

int phaul_restore(int directory, int *ret_pid, struct phaul_error *err)
{
	struct restored r = { .directory = directory, .err = err };
	int code = restore(&r);

	if (!code) {
		*ret_pid = r.husk.pid;
		r.husk.pid = 0;	/* it is nobody's any more */
	}
	if (r.staged) {
		stage_shut(&r.stage);
		stage_close(&r.stage);
	}
	husk_close(&r.husk);
	if (r.tree)
		pstree_entry__free_unpacked(r.tree, NULL);
	image_set_free(r.images);
	return code;
}
