/* shmem_test.c - memory that processes share, filled by a source that lies about its size, or with no room left for it. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "memfd.pb-c.h"
#include "posix_shm.h"
#include "shmem.h"

#define PAGE 4096ul
#define ID 77u

static struct phaul_error err;
static const uint8_t data[64 * PAGE] = { 1 };

static int check(int good, const char *what)
{
	fprintf(stderr, "%s: %s (%s)\n", what, good ? "ok" : "FAILED", err.what);
	return good;
}

/* Takes note of one mapping of so many pages. */
static int note(struct shmem_set *set, uint64_t id, uint64_t pages)
{
	struct vma vma = { .start = 0x10000000, .end = 0x10000000 + pages * PAGE, .shared = true, .kind = VMA_SHMEM, .inode = id };
	const struct memory_map map = { .at = &vma, .count = 1 };

	return shmem_note(set, &map, 12, &err);
}

static int fill(const struct shmem_set *set, uint64_t id, uint64_t page, uint32_t pages)
{
	const struct page_extent extent = { page * PAGE, pages, 0 };

	memset(&err, 0, sizeof(err));
	return shmem_pages(set, id, &extent, 1, data, &err);
}

/* A later round tells of a larger mapping than what was made has room for. */
static int grows(void)
{
	struct image_set *none = image_set_new();
	struct shmem_set set = {0};
	int good = !note(&set, ID, 2) && !shmem_make(&set, none, NULL, &err) && !fill(&set, ID, 0, 2) && !note(&set, ID, 64);

	good = check(good && fill(&set, ID, 2, 62) == -EPROTO && fill(&set, ID, 1, 2) == -EPROTO, "pages behind what was made");
	shmem_free(&set, false);
	image_set_free(none);
	return good;
}

/* A memfd may be mapped beyond its end. */
static int ends_early(void)
{
	MemfdInodeEntry e = MEMFD_INODE_ENTRY__INIT;
	struct image_set *images = image_set_new();
	struct shmem_set set = {0};
	int good;

	e.name = "short";
	e.size = PAGE;
	e.shmid = e.inode_id = ID;
	good = !image_put(images, "memfd", -1, &e.base) && !note(&set, ID, 64) && !shmem_make(&set, images, NULL, &err) &&
	       !fill(&set, ID, 0, 1);
	good = check(good && fill(&set, ID, 1, 1) == -EPROTO, "pages behind the end of a memfd");
	shmem_free(&set, false);
	image_set_free(images);
	return good;
}

/* /dev/shm is full, which the kernel tells who writes into a mapping by SIGBUS. */
static int is_full(void)
{
	struct image_set *images = image_set_new();
	struct shmem_set set = {0};
	int good, fd;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("full", "/dev/shm", "tmpfs", 0, "size=64k")) {
		image_set_free(images);
		return 77;
	}
	fd = open("/dev/shm/one", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	good = fd >= 0 && !posix_shm_put(images, fd, "/dev/shm/one", POSIX_IDS | ID) && !unlink("/dev/shm/one") &&
	       !note(&set, POSIX_IDS | ID, 64) && !shmem_make(&set, images, NULL, &err) && !fill(&set, POSIX_IDS | ID, 0, 4);
	good = check(good && fill(&set, POSIX_IDS | ID, 0, 64) == -ENOSPC, "pages for a /dev/shm that is full");
	close(fd);
	shmem_free(&set, false);
	image_set_free(images);
	return good;
}

int main(void)
{
	int full;

	if (!grows() || !ends_early())
		return 1;
	full = is_full();
	if (full == 77)
		puts("only root can fill a /dev/shm of its own");
	return full == 77 ? 77 : !full;
}
