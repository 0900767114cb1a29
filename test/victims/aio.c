/* aio.c - REPORT: a ring of Linux AIO with events that wait in it, behind its wrap; another one through which blocks of a file are
 * read past the caches all the time, into one page after the other, which are compared with what they should be.
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>

#include "victim.h"

#define BLOCK 4096
#define BLOCKS 61		/* of the file */
#define PAGES 256		/* of memory: each has another block every time */
#define WAITING 3

struct ring {
	unsigned id, nr, head, tail;
};

static aio_context_t still, busy;
static char name[512];
static int file;
static char *buffer;
static unsigned blocks[PAGES];	/* what each has; 0: the first is not read */

static void submit(aio_context_t to, int fd, int what, void *at, size_t size, long long offset, uint64_t data)
{
	struct iocb request = {
		.aio_fildes = fd, .aio_lio_opcode = what, .aio_buf = (uintptr_t)at, .aio_nbytes = size, .aio_offset = offset, .aio_data = data,
	}, *pointer = &request;

	victim_check(syscall(SYS_io_submit, to, 1, &pointer) == 1);
}

static uint64_t take(aio_context_t from, long long size)
{
	struct io_event event;
	long got;

	/* Signals end it. */
	while ((got = syscall(SYS_io_getevents, from, 1, 1, &event, NULL)) < 0 && errno == EINTR)
		;
	if (got != 1 || event.res != size)
		victim_fail("%ld events, %lld bytes instead of %lld", got, (long long)event.res, size);
	return event.data;
}

static void fill(char *to, unsigned block)
{
	for (unsigned i = 0; i < BLOCK / sizeof(unsigned); i++)
		((unsigned *)to)[i] = block * 2654435761u + i;
}

static void compare(unsigned page)
{
	static char expected[BLOCK];

	fill(expected, blocks[page]);
	if (blocks[page] && memcmp(buffer + page * BLOCK, expected, BLOCK))
		victim_fail("page %u has not block %u, which was read, but begins with %x", page, blocks[page],
			    *(unsigned *)(buffer + page * BLOCK));
}

/* What was read before is compared as late as can be. */
static void read_block(unsigned page, unsigned block)
{
	compare(page);
	submit(busy, file, IOCB_CMD_PREAD, buffer + page * BLOCK, BLOCK, block * (long long)BLOCK, block);
	blocks[page] = block;
	victim_check(take(busy, BLOCK) == block);
}

int main(int argc, char **argv)
{
	volatile struct ring *ring;
	unsigned before[2], turns, count = 0;
	int null = open("/dev/null", O_WRONLY);

	victim_begin(argc, argv);
	snprintf(name, sizeof(name), "%s.data", argv[1]);
	buffer = aligned_alloc(BLOCK, PAGES * BLOCK);
	file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	for (unsigned i = 0; i < BLOCKS; i++) {
		fill(buffer, i);
		victim_check(pwrite(file, buffer, BLOCK, i * (long long)BLOCK) == BLOCK);
	}
	victim_check(fsync(file) == 0);
	close(file);
	file = open(name, O_RDONLY | O_DIRECT);
	/* A file system in memory may have none. */
	if (file < 0)
		file = open(name, O_RDONLY);
	victim_check(file >= 0 && null >= 0);
	victim_check(syscall(SYS_io_setup, 8, &still) == 0 && syscall(SYS_io_setup, 4, &busy) == 0);
	ring = (void *)still;
	for (turns = 0; turns < ring->nr + 2; turns++) {
		submit(still, null, IOCB_CMD_PWRITE, buffer, 1, 0, turns);
		victim_check(take(still, 1) == turns);
	}
	for (unsigned i = 0; i < WAITING; i++)
		submit(still, null, IOCB_CMD_PWRITE, buffer, 1 + i, 0, 1000 + i);
	before[0] = ring->head;
	before[1] = ring->tail;
	victim_check(before[0] == 2 && before[1] == 2 + WAITING);
	victim_ready();
	while (victim_tick()) {
		read_block(count % PAGES, 1 + (count + count / PAGES) % (BLOCKS - 1));
		count++;
	}

	for (unsigned page = 0; page < PAGES; page++)
		compare(page);
	victim_check(ring->head == before[0] && ring->tail == before[1]);
	for (unsigned i = 0; i < WAITING; i++)
		victim_check(take(still, 1 + i) == 1000 + i);
	/* All of it can be used again, round and round. */
	for (unsigned i = 0; i < 3 * ring->nr; i++) {
		submit(still, null, IOCB_CMD_PWRITE, buffer, 1, 0, i);
		victim_check(take(still, 1) == i);
	}
	victim_check(syscall(SYS_io_destroy, still) == 0 && syscall(SYS_io_destroy, busy) == 0);
	victim_check(unlink(name) == 0);
	return victim_ok();
}
