/* shared_track_test.c - what is written to a deleted file is found, whenever it is written. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "shared_track.h"

#define PAGE 4096
#define WORDS (PAGE / 8)

static struct phaul_error err;

static void must(int64_t is, int64_t wanted, const char *what)
{
	if (is == wanted)
		return;
	printf("%s: %lld, not %lld %s\n", what, (long long)is, (long long)wanted, err.what);
	exit(1);
}

/* As the page streams read a page, and note its sum. */
static void send(struct shared_object *o, size_t page)
{
	uint64_t words[WORDS] = {0};

	must(pread(o->fd, words, PAGE, page * PAGE) > 0, 1, "reading a page");
	o->sums[page] = page_sum(page * PAGE, words);
}

/* The other host cuts what it is sent off at the size that it was told of: that of the scan. */
static void grows_before_it_is_read(struct shared_track *t, int fd)
{
	must(pwrite(fd, "0123", 4, 0), 4, "writing");
	must(shared_track_scan(t, &err), 1, "dirty pages of a small file");
	must(pwrite(fd, "4567", 4, 4), 4, "writing more");
	send(&t->at[0], 0);
	must(shared_track_scan(t, &err), 1, "dirty pages when it had grown before it was read");
	send(&t->at[0], 0);
	must(shared_track_scan(t, &err), 0, "dirty pages of a file that is sent");
}

static void grows_by_pages(struct shared_track *t, int fd)
{
	must(ftruncate(fd, PAGE), 0, "to one page");
	must(shared_track_scan(t, &err), 1, "dirty pages when the end has moved to that of its page");
	send(&t->at[0], 0);
	must(pwrite(fd, "end", 3, 5 * PAGE), 3, "writing behind a hole");
	must(shared_track_scan(t, &err), 1, "dirty pages when a whole page was the last");
	must(t->at[0].dirty.at[0].address, 5 * PAGE, "the dirty page");
	must(t->at[0].size, 5 * PAGE + 3, "the size");
	send(&t->at[0], 5);
	must(ftruncate(fd, 2), 0, "to two bytes");
	must(shared_track_scan(t, &err), 1, "dirty pages when it has shrunk");
}

int main(void)
{
	char path[] = "/tmp/shared-track-XXXXXX";
	struct shared_track t = {0};
	int fd = mkstemp(path);

	must(fd >= 0 && !unlink(path), 1, "making a deleted file");
	must(shared_track_cover_open(&t, getpid(), &err), 0, "covering it");
	for (size_t i = 0; i < t.count; i++)
		if (strstr(t.at[i].name, path))
			t.at[0] = t.at[i];
	must(t.count > 0 && strstr(t.at[0].name, path) != NULL, 1, "it is known");
	t.count = 1;
	grows_before_it_is_read(&t, fd);
	grows_by_pages(&t, fd);
	shared_track_free(&t);
	close(fd);
	return 0;
}
