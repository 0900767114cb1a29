/* Pages are found through a chain of directories, CRIU's older ones too; what no dump writes is refused, and the field is named. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../image_sink.h"
#include "../page_file.h"

#define PAGE 4096ull
#define AT 0x10000ull
#define OLD 0x80	/* of the flags here: in_parent, as CRIU said it before there were flags */

struct run {
	uint64_t at, pages;
	uint32_t flags;
};

static char top[] = "/tmp/phaul-chain.XXXXXX";

static int must(int ret)
{
	if (ret >= 0)
		return ret;
	perror("chain_test");
	exit(1);
}

/* Page number i of a directory is full of its letter and that number. */
static void write_pages(int directory, char letter, uint64_t count)
{
	int fd = must(openat(directory, "pages-1.img", O_WRONLY | O_CREAT | O_EXCL, 0600));
	uint8_t page[PAGE];

	for (uint64_t i = 0; i < count; i++) {
		memset(page, letter, PAGE);
		page[0] = i;
		must(write(fd, page, PAGE));
	}
	close(fd);
}

/* A directory below the top, with one process's pages; `parent` is another one or NULL. */
static int make(const char *name, const char *parent, const struct run *runs, size_t count, uint64_t pages)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct image_set *set = image_set_new();
	struct phaul_error err;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", top, name);
	must(mkdir(path, 0700));
	fd = must(open(path, O_RDONLY | O_DIRECTORY));
	if (parent)
		must(symlinkat(parent, fd, "parent"));
	write_pages(fd, name[0], pages);
	head.pages_id = 1;
	must(image_put(set, "pagemap", 7, &head.base));
	for (size_t i = 0; i < count; i++) {
		PagemapEntry entry = PAGEMAP_ENTRY__INIT;

		entry.vaddr = runs[i].at;
		entry.compat_nr_pages = runs[i].pages;
		entry.has_in_parent = runs[i].flags & OLD;
		entry.in_parent = true;
		entry.has_flags = !(runs[i].flags & OLD) && runs[i].flags;
		entry.flags = runs[i].flags;
		entry.has_nr_pages = entry.has_flags;
		entry.nr_pages = runs[i].pages;
		must(image_put(set, "pagemap", 7, &entry.base));
	}
	inventory.img_version = IMAGES_VERSION;
	must(image_put(set, "inventory", -1, &inventory.base));
	must(image_set_save(set, &(struct image_sink){ .directory = fd, .file = -1, .err = &err }));
	image_set_free(set);
	return fd;
}

static int place(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	char *to = ctx;

	(void)at;
	(void)err;
	for (uint64_t i = 0; i < pages; i++)
		sprintf(to + strlen(to), "%c%d ", bytes[i * PAGE + 1], bytes[i * PAGE]);
	return 0;
}

/* What is read as letters and numbers, or the error. */
static int reads(int directory, int want, const char *words)
{
	struct image_set *set = NULL;
	struct phaul_error err = {0};
	struct chain chain = {0};
	char got[256] = "";
	int code = image_set_load(directory, &set, &err) ?: chain_open(directory, set, &chain, &err) ?:
		   page_file_read(&chain, "pagemap", 7, place, got, &err);

	chain_close(&chain);
	image_set_free(set);
	close(directory);
	fprintf(stderr, "%d %s%s\n", code, got, err.what);
	return code != want || !strstr(code ? err.what : got, words);
}

#define MAKE(name, parent, pages, ...) \
	make(name, parent, (struct run[]){ __VA_ARGS__ }, sizeof((struct run[]){ __VA_ARGS__ }) / sizeof(struct run), pages)

static int finds(void)
{
	close(MAKE("a", NULL, 6, { AT, 4, PE_PRESENT }, { AT + 8 * PAGE, 2, 0 }));
	close(MAKE("b", "../a", 2, { AT, 1, PE_PARENT }, { AT + PAGE, 2, PE_PRESENT }, { AT + 3 * PAGE, 1, OLD }, { AT + 8 * PAGE, 2, PE_PARENT }));
	return reads(MAKE("c", "../b", 2, { AT, 1, PE_PRESENT }, { AT + PAGE, 3, PE_PARENT }, { AT + 8 * PAGE, 1, PE_PRESENT | PE_LAZY },
			  { AT + 9 * PAGE, 1, OLD }), 0, "c0 b0 b1 a3 c1 a5 ");
}

static int refuses(void)
{
	return reads(MAKE("d", "../a", 0, { AT + 4 * PAGE, 1, PE_PARENT }), -EPROTO, "is in its parent (flags), where parent/pagemap-7.img") ||
	       reads(MAKE("e", NULL, 0, { AT, 1, PE_PARENT }), -EPROTO, "there is no such link") ||
	       reads(MAKE("f", NULL, 1, { AT, 1, PE_PRESENT }, { AT + PAGE, 1, PE_LAZY }), -EOPNOTSUPP, "entry 1") ||
	       reads(MAKE("g", NULL, 2, { AT, 2, PE_PRESENT }, { AT + PAGE, 1, PE_PRESENT }), -EPROTO, "pagemap-7.img is malformed in entry 1 (vaddr") ||
	       reads(MAKE("h", NULL, 1, { AT + 1, 1, PE_PRESENT }), -EPROTO, "entry 0") ||
	       reads(MAKE("i", NULL, 1, { AT, 1ull << 60, PE_PRESENT }), -EPROTO, "entry 0") ||
	       reads(MAKE("j", NULL, 1, { AT, 1ull << 40, PE_PRESENT }), -EPROTO, "pages-1.img has 4096 bytes, where pagemap-7.img tells of") ||
	       reads(MAKE("k", "../k", 1, { AT, 1, PE_PRESENT }), -ELOOP, "parent leads to ../k") ||
	       reads(MAKE("l", "../nowhere", 1, { AT, 1, PE_PRESENT }), -ENOLINK, "leads to ../nowhere");
}

int main(void)
{
	char command[64];
	int bad;

	must(mkdtemp(top) ? 0 : -1);
	bad = finds() || refuses();
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command) || bad;
}
