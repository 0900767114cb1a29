#include "aio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../direct_reads.h"
#include "../error.h"

#define PAGE 4096ul
#define RING_MAGIC 0xa10a10a1u
#define RING_MAX (64ul << 20)
#define AT_ONCE 256u		/* requests */
#define LOOK_AGAIN_US 1000
#define LOOKS_IDLE 2		/* what the disk has done is told a moment later */

/* How the kernel has it, at the start of the mapping. */
struct ring {
	uint32_t id, nr, head, tail;
	uint32_t magic, compatible, incompatible, header_length;
};
_Static_assert(sizeof(struct ring) == 32 && sizeof(struct io_event) == 32, "as in Linux");

bool aio_has_ring(const struct memory_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].kind == VMA_AIO)
			return true;
	return false;
}

/* ---- check ---- */

/* Of file systems whose requests are no disk's. */
static const struct { long magic; const char *name; } elsewhere[] = {
	{ 0x6969, "NFS" }, { 0x65735546, "FUSE" }, { 0x00c36400, "Ceph" }, { 0xff534d42, "CIFS" }, { 0xfe534d42, "SMB" },
	{ 0x01021997, "9P" },
};

static const char *file_system_of(const char *path)
{
	struct statfs fs;

	for (size_t i = 0; i < sizeof(elsewhere) / sizeof(*elsewhere) && !statfs(path, &fs); i++)
		if (fs.f_type == elsewhere[i].magic)
			return elsewhere[i].name;
	return NULL;
}

void aio_check(struct check *c, const struct vma *ring)
{
	char path[64], subject[48];
	struct dirent *entry;
	DIR *dir;

	snprintf(subject, sizeof(subject), "memory %llx", (unsigned long long)ring->start);
	notice(c, "AIO", subject, "it has an AIO ring (io_setup): requests to disks are waited for, while one that polls (IOCB_CMD_POLL), as few "
	       "programs have, can't be seen from outside and is forgotten. Reads past the caches (O_DIRECT) that a slow disk ends after a "
	       "round has sent the page can't be seen either: --verify finds them");
	snprintf(path, sizeof(path), "/proc/%d/fd", c->pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		const char *name;

		/* Past the caches: the only kind that is still on its way when the call is over. */
		if (entry->d_name[0] == '.' || !direct_reads_from(c->pid, atoi(entry->d_name)))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%.12s", c->pid, entry->d_name);
		name = file_system_of(path);
		snprintf(subject, sizeof(subject), "fd %.12s", entry->d_name);
		if (name)
			obstacle(c, "AIO_REMOTE", subject, "fd %.12s is open with O_DIRECT on a file system of %s, and the process has an AIO ring: "
				 "whether a request is on its way there can't be seen, and it would be lost; let it close one of both",
				 entry->d_name, name);
	}
	if (dir)
		closedir(dir);
}

/* ---- dump ---- */

static bool disks_work(void)
{
	char line[512];
	unsigned long in_progress, all = 0;
	FILE *f = fopen("/proc/diskstats", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*u %*u %*s %*u %*u %*u %*u %*u %*u %*u %*u %lu", &in_progress) == 1)
			all += in_progress;
	if (f)
		fclose(f);
	return all;
}

int aio_settle(pid_t pid, const struct memory_map *map, int limit_ms, struct phaul_error *err)
{
	uint64_t until = phaul_now_ns() + limit_ms * 1000000ull;
	int idle = 0;

	if (!aio_has_ring(map))
		return 0;
	while (idle < LOOKS_IDLE) {
		idle = disks_work() ? 0 : idle + 1;
		if (!idle && phaul_now_ns() > until)
			return phaul_fail(err, -EAGAIN, "aio", "pid %d has an AIO ring, and the disks of this host never rest, so that it can't be "
					  "told if one of its requests is on its way: try again when they have less to do", pid);
		if (idle < LOOKS_IDLE)
			usleep(LOOK_AGAIN_US);
	}
	return 0;
}

/* What io_setup() was asked for, or what leads to the same size. */
static uint32_t requests_of(const struct vma *ring)
{
	return ((ring->end - ring->start - sizeof(struct ring)) / sizeof(struct io_event) - 2) / 2;
}

int aio_put(const struct memory_map *map, MmEntry *mm, AioRingEntry **ret_entries)
{
	size_t count = 0;

	for (size_t i = 0; i < map->count; i++)
		count += map->at[i].kind == VMA_AIO;
	*ret_entries = count ? calloc(count, sizeof(**ret_entries)) : NULL;
	mm->aios = count ? calloc(count, sizeof(*mm->aios)) : NULL;
	if (count && (!*ret_entries || !mm->aios))
		return -ENOMEM;
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *ring = &map->at[i];
		AioRingEntry *e;

		if (ring->kind != VMA_AIO)
			continue;
		e = mm->aios[mm->n_aios] = &(*ret_entries)[mm->n_aios];
		mm->n_aios++;
		aio_ring_entry__init(e);
		e->id = ring->start;
		e->ring_len = ring->end - ring->start;
		e->nr_req = requests_of(ring);
	}
	return 0;
}

/* ---- build ---- */

static int get(pid_t pid, uint64_t at, void *to, size_t size)
{
	struct iovec local = { to, size }, remote = { (void *)at, size };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}

static int put(pid_t pid, uint64_t at, const void *from, size_t size)
{
	struct iovec local = { (void *)from, size }, remote = { (void *)at, size };

	return process_vm_writev(pid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}

static int run(struct batch *b, int code, struct phaul_error *err)
{
	code = code ?: b->error ?: batch_run(b, 1, err);
	return code;
}

static int set_up(struct husk *h, uint32_t requests, uint64_t *ret, struct phaul_error *err)
{
	uint64_t *context;
	struct batch b;
	int code, call;

	remote_area_reset(&h->area);
	code = batch_begin(&b, &h->area, &h->leader, 1);
	call = batch_call(&b, NULL, SYS_io_setup, requests, batch_space(&b, sizeof(*context), (void **)&context));
	code = run(&b, code, err) ?: batch_result(&b, call);
	if (!code)
		*ret = *context;
	batch_free(&b);
	return code >= 0 ? 0 : phaul_fail(err, code, "aio", "making an AIO ring for %u requests in pid %d%s", requests, h->pid,
					  code == -EAGAIN ? ": more than this host allows (sysctl fs.aio-max-nr)" : "");
}

/* So many requests, of which the kernel says at once that they are done. Returns how many it took. */
static int64_t submit(struct husk *h, uint64_t context, int null, uint32_t count)
{
	struct iocb request = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_nbytes = 1, .aio_fildes = null };
	uint64_t pointers[AT_ONCE];
	struct batch b;
	int64_t taken;
	int code, call;

	remote_area_reset(&h->area);
	code = batch_begin(&b, &h->area, &h->leader, 1);
	/* Any byte will do. */
	request.aio_buf = h->area.at;
	pointers[0] = batch_bytes(&b, &request, sizeof(request));
	for (uint32_t i = 1; i < count; i++)
		pointers[i] = pointers[0];
	call = batch_call(&b, NULL, SYS_io_submit, context, count, batch_bytes(&b, pointers, count * sizeof(*pointers)));
	code = run(&b, code, NULL);
	taken = code ? code : batch_result(&b, call);
	batch_free(&b);
	return taken ? taken : -EAGAIN;
}

/* The kernel's own position is moved by nothing but requests that are done. The one to read from is the process's to write. */
static int advance(struct husk *h, uint64_t context, const struct ring *wanted)
{
	static const char path[] = "/dev/null";
	uint32_t count = wanted->tail < wanted->head ? wanted->nr + wanted->tail : wanted->tail, done = 0;
	struct batch b;
	int code, null;

	remote_area_reset(&h->area);
	code = batch_begin(&b, &h->area, &h->leader, 1);
	null = batch_call(&b, NULL, SYS_openat, AT_FDCWD, batch_bytes(&b, path, sizeof(path)), O_WRONLY | O_CLOEXEC);
	code = run(&b, code, NULL);
	null = code ? code : batch_result(&b, null);
	batch_free(&b);
	if (null < 0)
		return null;
	while (done < count && !code) {
		int64_t taken = submit(h, context, null, count - done < AT_ONCE ? count - done : AT_ONCE);
		uint32_t head;

		done += taken > 0 ? taken : 0;
		head = done < wanted->head ? done : wanted->head;
		code = taken < 0 ? taken : put(h->pid, context + offsetof(struct ring, head), &head, sizeof(head));
	}
	(void)remote_call(&h->leader, SYS_close, null);
	return code;
}

static int fill(struct husk *h, uint64_t context, const struct vma *vma)
{
	size_t size = vma->end - vma->start - sizeof(struct ring);
	void *events = malloc(size);
	int err = events ? get(h->pid, vma->start + sizeof(struct ring), events, size) : -ENOMEM;

	err = err ?: put(h->pid, context + sizeof(struct ring), events, size);
	free(events);
	return err;
}

static int build_ring(struct husk *h, const struct vma *vma, struct phaul_error *err)
{
	uint64_t size = vma->end - vma->start, context = 0;
	struct ring wanted, made;
	int64_t moved;
	int code = size > RING_MAX ? -EPROTO : get(h->pid, vma->start, &wanted, sizeof(wanted));

	if (!code && (wanted.magic != RING_MAGIC || wanted.nr != (size - sizeof(wanted)) / sizeof(struct io_event) ||
		      wanted.head >= wanted.nr || wanted.tail >= wanted.nr))
		code = -EPROTO;
	if (code)
		return phaul_fail(err, code, "aio", "what came for the AIO ring of pid %d at %llx is none", h->pid, (unsigned long long)vma->start);
	code = set_up(h, requests_of(vma), &context, err) ?: get(h->pid, context, &made, sizeof(made));
	if (!code && made.nr != wanted.nr)
		return phaul_fail(err, -EOPNOTSUPP, "aio", "the AIO ring of pid %d has room for %u events, and this host, with more CPUs, makes none "
				  "with less than %u", h->pid, wanted.nr, made.nr);
	code = code ?: advance(h, context, &wanted) ?: fill(h, context, vma);
	moved = code ? code : remote_call(&h->leader, SYS_mremap, context, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, vma->start);
	return moved == (int64_t)vma->start ? 0 : phaul_fail(err, code ?: moved, "aio", "making the AIO ring of pid %d at %llx", h->pid,
							      (unsigned long long)vma->start);
}

int aio_build(struct husk *h, const struct memory_map *map, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < map->count && !code; i++)
		if (map->at[i].kind == VMA_AIO)
			code = build_ring(h, &map->at[i], err);
	return code;
}
