/* rebirth_test.c - a husk that is forked by one with memory has of it what it shall have, in the same frames, and no more. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rebirth.h"
#include "tracked.h"
#include "tree_state.h"

#define PAGE 4096ul
#define AREA 0x200000000000ul
#define PAGES 8

/* Of the parent's pages, as images have them of the child: some more of the same, one that differs, others not at all. */
enum { SAME, DIFFERENT, COMPARED, GONE, PARENTS = 6 };

static uint8_t of_parent[PARENTS][PAGE], of_child[COMPARED][PAGE];

/* A pid that nobody has. */
static pid_t free_pid(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid;
}

static struct memory_map map_with_area(void)
{
	struct memory_map own, map;
	char text[512];
	int n = sprintf(text, "%lx-%lx rw-p 00000000 00:00 0 \n", AREA, AREA + PAGES * PAGE);

	must(memory_map_read(getpid(), false, &own, &err), "reading our map");
	for (size_t i = 0; i < own.count; i++)
		if (own.at[i].kind == VMA_VDSO || own.at[i].kind == VMA_VVAR)
			n += sprintf(text + n, "%lx-%lx r-xp 00000000 00:00 0 %s\n", own.at[i].start, own.at[i].end, own.at[i].path);
	memory_map_free(&own);
	must(memory_map_parse(strdup(text), &map), "parsing");
	return map;
}

static struct reborn *new_task(pid_t pid, pid_t parent)
{
	struct reborn *task = calloc(1, sizeof(*task));

	task->entry = calloc(1, sizeof(*task->entry));
	pstree_entry__init(task->entry);
	task->entry->pid = pid;
	task->entry->ppid = parent;
	task->entry->pgid = task->entry->sid = parent ? parent : pid;
	task->entry->threads = calloc(1, sizeof(*task->entry->threads));
	task->entry->threads[0] = pid;
	task->entry->n_threads = 1;
	task->state = TASK_ALIVE;
	task->layout.map = map_with_area();
	return task;
}

static struct rebirth family(uint64_t inherited, int (*populate)(void *ctx, struct reborn *task))
{
	struct rebirth r = { .tasks = calloc(2, sizeof(*r.tasks)), .count = 2, .populate = populate, .err = &err };
	pid_t parent = free_pid();

	r.tasks[0] = new_task(parent, 0);
	r.tasks[1] = new_task(free_pid(), parent);
	must(range_list_add(&r.tasks[1]->layout.inherited, inherited, inherited + PAGES * PAGE), "filling a list");
	return r;
}

static int populate(void *ctx, struct reborn *task)
{
	struct page_extent extent = { AREA, PARENTS, 0 };
	struct range_list kept = {0};

	(void)ctx;
	must(task->staged ? 0 : stage_open(&task->stage, &task->husk, &err), "staging");
	task->staged = true;
	must(stage_layout(&task->stage, &task->layout.map, &err), "mapping");
	if (!task->entry->ppid) {
		must(stage_pages(&task->stage, &extent, 1, of_parent[0], &err), "filling");
	} else {
		must(stage_pages_that_differ(&task->stage, AREA, COMPARED, of_child[0], &err), "comparing");
		must(range_list_add(&kept, AREA, AREA + COMPARED * PAGE), "filling a list");
		must(stage_keep(&task->stage, &kept, &err), "keeping");
		range_list_free(&kept);
	}
	stage_filled(&task->stage);
	return 0;
}

static uint64_t frame(const struct reborn *task, unsigned long page)
{
	char path[48];
	uint64_t entry = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", task->husk.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &entry, 8, (AREA / PAGE + page) * 8) != 8)
		must(-EIO, "reading a pagemap");
	close(fd);
	return entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
}

static bool has(const struct reborn *task, unsigned long page, const uint8_t *content)
{
	uint8_t bytes[PAGE];

	return pread(task->stage.mem, bytes, PAGE, AREA + page * PAGE) == (ssize_t)PAGE && !memcmp(bytes, content, PAGE);
}

static int inherits(void)
{
	struct rebirth r = family(AREA, populate);
	struct image_set *images = image_set_new();
	const struct reborn *parent = r.tasks[0], *child = r.tasks[1];
	int failed = 0;

	must(rebirth_make(&r, images), "making a family");
	if (frame(child, SAME) != frame(parent, SAME) || !has(child, SAME, of_parent[SAME]))
		failed = puts("what is the same isn't shared");
	if (frame(child, DIFFERENT) == frame(parent, DIFFERENT) || !has(child, DIFFERENT, of_child[DIFFERENT]))
		failed = puts("what differs isn't the child's own");
	for (unsigned long page = GONE; page < PARENTS; page++)
		if (frame(child, page))
			failed = printf("the child has page %lu, which is the parent's alone\n", page);
	for (unsigned long page = 0; page < PARENTS; page++)
		if (!has(parent, page, of_parent[page]))
			failed = printf("page %lu of the parent is another now\n", page);
	if (received_any(&r.tasks[1]->stage.received, AREA + GONE * PAGE))
		failed = puts("what was dropped counts as received");
	rebirth_free(&r);
	image_set_free(images);
	return failed;
}

/* What a source could say that lies, or has another idea of what its parent's husk has. */
static int lies(uint64_t inherited, int (*populate)(void *ctx, struct reborn *task))
{
	struct rebirth r = family(inherited, populate);
	struct image_set *images = image_set_new();
	int code;

	code = rebirth_make(&r, images);
	rebirth_free(&r);
	image_set_free(images);
	if (code == -EPROTO && strstr(err.what, "nothing there"))
		return 0;
	return printf("what the parent hasn't can be inherited: %d %s\n", code, err.what);
}

static void put_core(struct image_set *to, const struct task *task)
{
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;

	tc.task_state = task->state;
	tc.comm = "";
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	must(image_put(to, "core", task->pid, &core.base), "writing a core");
}

/* CRIU tells of one thread, that has no number. */
static void one_that_has_ended_is_read(void)
{
	struct task tasks[] = {
		{ .pid = 1000, .pgid = 1000, .sid = 1000, .state = TASK_ALIVE },
		{ .pid = 1001, .ppid = 1000, .pgid = 1000, .sid = 1000, .state = TASK_DEAD },
	};
	struct tree tree = { .tasks = tasks, .count = 2 };
	struct image_set *images = image_set_new();
	struct rebirth r = { .err = &err };

	for (int i = 0; i < 2; i++) {
		put_core(images, &tasks[i]);
		must(tree_put_ids(images, &tree, &tasks[i]), "writing ids");
		must(state_put_tree(images, &tasks[i], i ? &(pid_t){ 0 } : &tasks[i].pid, 1), "writing the tree");
	}
	must(rebirth_read(&r, images), "reading a process that has ended");
	must(r.count == 2 && r.tasks[1]->entry->threads[0] == 1001 ? 0 : -EINVAL, "finding its thread");
	rebirth_free(&r);
	image_set_free(images);
}

int main(void)
{
	one_that_has_ended_is_read();
	for (int page = 0; page < PARENTS; page++)
		memset(of_parent[page], 'a' + page, PAGE);
	memcpy(of_child, of_parent, sizeof(of_child));
	of_child[DIFFERENT][17] = '!';
	return inherits() || lies(AREA + PAGE, populate) || lies(AREA - PAGE, populate) || lies(AREA, NULL);
}
