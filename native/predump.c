/* predump.c - the memory of a process tree that runs, in a directory: what a dump after it need not write again. */
#include <errno.h>

#include "error.h"
#include "inventory.h"
#include "memory_dump.h"

struct predump {
	struct chain chain;
	struct image_set *images;
	struct page_writer pages;
	struct image_sink here, there;	/* the directory, and that of another host, if there is one */
	struct pages_elsewhere before;
	struct shmem_set shmem;
	struct phaul_error *err;
};

/* One that has ended meanwhile, or is another program now, is no reason to give up: it is what the dump finds then. */
static int put_memory(struct predump *p, pid_t pid)
{
	struct memory_map map;
	int code = memory_map_read(pid, true, &map, p->err);

	if (!code) {
		code = memory_dump(pid, &map, true, &p->shmem, &p->pages);
		memory_map_free(&map);
	}
	return code == -ESRCH || code == -ENOENT ? 0 : code;
}

static int put_all(struct predump *p, pid_t pid)
{
	struct tree tree;
	int code = chain_check_pid(&p->chain, pid, p->err) ?:
		   p->there.ch ? pages_hear(&p->before, p->there.ch, p->err) ?: pages_elsewhere_check_pid(&p->before, pid, p->err) : 0;

	code = code ?: tree_list(pid, &tree, p->err);

	if (code)
		return code;
	for (size_t i = 0; i < tree.count && !code; i++) {
		code = tree.tasks[i].state == TASK_DEAD ? 0 : put_memory(p, tree.tasks[i].pid);
		if (code && p->err->code != code)
			phaul_fail(p->err, code, "pre-dump", "writing the memory of pid %d", tree.tasks[i].pid);
	}
	code = code ?: inventory_put(p->images, p->chain.at[0].directory, &tree, p->err);
	tree_free(&tree);
	code = code ?: image_set_save(p->images, &p->here);
	return code ?: p->there.ch ? image_set_save(p->images, &p->there) : 0;
}

int phaul_predump(int pid, int directory, struct phaul_channel *server, struct phaul_dumped *ret, struct phaul_error *err)
{
	struct predump p = {
		.images = image_set_new(), .here = { .directory = directory, .file = -1, .err = err },
		.there = { .ch = server, .file = -1, .err = err }, .err = err,
	};
	int code = p.images ? chain_open(directory, p.images, &p.chain, err) :
		   phaul_fail(err, -ENOMEM, "pre-dump", "collecting the memory of pid %d", pid);

	*ret = (struct phaul_dumped){0};
	code = code ?: page_writer_open(&p.chain, server ? &p.before : NULL, p.images, server ? &p.there : &p.here, &p.pages) ?: put_all(&p, pid);
	ret->pages = p.pages.pages;
	ret->written = p.pages.written;
	page_writer_close(&p.pages);
	pages_elsewhere_free(&p.before);
	shmem_free(&p.shmem, false);
	chain_close(&p.chain);
	image_set_free(p.images);
	return code;
}
