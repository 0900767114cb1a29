#include "memory_dump.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pagemap.h"
#include "track.h"

#define PAGE 4096ul

struct process_memory {
	pid_t pid;
	int mem;			/* /proc/PID/mem */
	bool running;
};

/* Forced where the process itself may not read. process_vm_readv() would copy what it shares with parent and children. */
static int read_all(const struct process_memory *m, uint64_t at, uint8_t *to, size_t size)
{
	ssize_t got = pread(m->mem, to, size, at);

	return got < 0 ? -errno : (size_t)got == size ? 0 : -EFAULT;
}

static int read_memory(void *ctx, uint64_t at, uint8_t *to, size_t size)
{
	const struct process_memory *m = ctx;
	int err = read_all(m, at, to, size);

	if (!err || !m->running || err == -ESRCH)
		return err;
	for (size_t done = 0; done < size; done += PAGE)
		if (read_all(m, at + done, to + done, PAGE))
			memset(to + done, 0, PAGE);
	return 0;
}

static int put_mappings(const struct memory_map *map, struct process_memory *m, int pagemap, struct page_writer *w)
{
	struct range_list guards = {0};
	int err = page_writer_begin(w, "pagemap", m->pid), ended;

	for (size_t i = 0; i < map->count && !err; i++) {
		struct range_list held = {0};

		/* What the kernel may drop any time is dropped. */
		if (vma_has_pages(&map->at[i]) && !(map->at[i].flags & VMA_DROPPABLE))
			err = pagemap_held(pagemap, &map->at[i], &held, &guards);
		if (map->at[i].kind == VMA_VDSO || map->at[i].kind == VMA_AIO)
			err = range_list_add(&held, map->at[i].start, map->at[i].end);
		for (size_t n = 0; n < held.count && !err; n++)
			err = page_writer_put(w, held.at[n].address, held.at[n].pages, read_memory, m);
		range_list_free(&held);
	}
	ended = page_writer_end(w);
	err = err ?: ended;
	if (!err && guards.count && !m->running)
		err = image_put_raw(w->images, "phaul-guards", m->pid, guards.at, guards.count * sizeof(*guards.at));
	range_list_free(&guards);
	return err;
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, flags | O_CLOEXEC);
}

int memory_dump(pid_t pid, const struct memory_map *map, bool running, struct shmem_set *known, struct page_writer *w)
{
	struct process_memory m = { .pid = pid, .mem = open_proc(pid, "mem", O_RDWR), .running = running };
	int pagemap = open_proc(pid, "pagemap", O_RDONLY);
	int code = pagemap < 0 || m.mem < 0 ? -errno : put_mappings(map, &m, pagemap, w);

	if (pagemap >= 0)
		close(pagemap);
	if (m.mem >= 0)
		close(m.mem);
	return code ?: shmem_dump(map, known, w);
}
