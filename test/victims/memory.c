/* memory.c - REPORT: mappings of every kind that moves: contents, and what the kernel says of them.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "victim.h"

#define PAGE 4096
#define PIECE (64 * PAGE)

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static char *pieces[16];
static int piece_count;
static char said_before[5][1 << 20], said_after[1 << 20];
static const char *const files[] = { "/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv", "/proc/self/maps", "/proc/self/smaps" };

static char *piece(int prot)
{
	char *at = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	victim_check(at != MAP_FAILED && piece_count < 16);
	for (int i = 0; i < 64; i += 2)
		memset(at + i * PAGE, 'a' + (piece_count + i) % 26, PAGE);
	victim_check(mprotect(at, PIECE, prot) == 0);
	return pieces[piece_count++] = at;
}

static void check_piece(int n)
{
	victim_check(mprotect(pieces[n], PIECE, PROT_READ) == 0);
	for (int i = 0; i < 64; i++)
		for (int j = 0; j < PAGE; j += 511)
			if (pieces[n][i * PAGE + j] != (i % 2 ? 0 : 'a' + (n + i) % 26))
				victim_fail("piece %d, page %d", n, i);
}

static void read_file(const char *path, char *to, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t done = 0;
	ssize_t n;

	while ((n = read(fd, to + done, size - 1 - done)) > 0)
		done += n;
	close(fd);
	to[done] = 0;
	/* Of smaps what is set, of maps not the inode and device, which are another mount's elsewhere. */
	if (!strstr(path, "maps"))
		for (size_t i = 0; i < done; i++)
			to[i] = to[i] ? to[i] : '\n';
}

/* The flags of the mapping at `at`, as the kernel abbreviates them. */
static bool has_flag(const char *smaps, const void *at, const char *flag)
{
	char start[32], line[256];
	const char *found, *flags, *end;

	snprintf(start, sizeof(start), "%lx-", (unsigned long)at);
	found = strstr(smaps, start);
	flags = found ? strstr(found, "VmFlags:") : NULL;
	if (!flags)
		victim_fail("no mapping begins at %p", at);
	end = strchr(flags, '\n');
	snprintf(line, sizeof(line), "%.*s ", (int)(end - flags), flags);
	return strstr(line, flag);
}

static void __attribute__((noinline)) use_stack(int depth)
{
	volatile char page[PAGE];

	page[0] = depth;
	if (depth)
		use_stack(depth - 1);
	victim_check(page[0] == (char)depth);
}

/* ---- pieces, and what is reserved, locked or code ---- */

#define USED (32ul << 30)

static char *reserved, *locked, *heap, *old_brk;
static int (*code)(void);
static bool is_named;

static void map_anonymous(void)
{
	piece(PROT_READ | PROT_WRITE);
	piece(PROT_READ);
	piece(PROT_NONE);
	piece(PROT_READ | PROT_EXEC);
	piece(PROT_WRITE);
	reserved = mmap(NULL, 2 * USED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	victim_check(reserved != MAP_FAILED && mprotect(reserved + USED, PIECE, PROT_READ | PROT_WRITE) == 0);
	memset(reserved + USED, 'r', PIECE);
	code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy((void *)code, "\xb8\x2a\0\0\0\xc3", 6);	/* mov $42, %eax; ret */
	victim_check(mprotect((void *)code, PAGE, PROT_READ | PROT_EXEC) == 0);
	locked = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	victim_check(mlock(locked, PIECE) == 0);
	char *named = piece(PROT_READ | PROT_WRITE);
	is_named = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, PIECE, "arena of the victim") == 0;
	heap = malloc(100000);
	memset(heap, 'h', 100000);
	old_brk = sbrk(0);
}

static void check_anonymous(void)
{
	for (int i = 0; i < piece_count; i++)
		check_piece(i);
	for (int i = 0; i < PIECE; i += 100)
		victim_check(reserved[USED + i] == 'r');
	victim_check(mprotect(reserved, PIECE, PROT_READ) == 0 && reserved[5] == 0);
	victim_check(code() == 42);
	for (int i = 0; i < 100000; i++)
		victim_check(heap[i] == 'h');
	victim_check(sbrk(0) == old_brk && sbrk(1 << 20) == old_brk);
	memset(old_brk, 1, 1 << 20);
}

/* ---- the program's file ---- */

static char *changed, *same;

static void map_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	same = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	changed = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	victim_check(fd >= 0 && same != MAP_FAILED && changed != MAP_FAILED);
	close(fd);
	memset(changed + PAGE, 'c', PAGE);
}

static void check_file(void)
{
	victim_check(!memcmp(same, "\177ELF", 4) && !memcmp(changed, "\177ELF", 4) && changed[PAGE] == 'c');
}

/* ---- advice ---- */

static struct advice {
	int advice;
	const char *flag;
	char *at;
	bool could;
} advices[] = {
	{ .advice = MADV_DONTFORK, .flag = " dc " }, { .advice = MADV_DONTDUMP, .flag = " dd " },
	{ .advice = MADV_NOHUGEPAGE, .flag = " nh " }, { .advice = MADV_HUGEPAGE, .flag = " hg " },
	{ .advice = MADV_SEQUENTIAL, .flag = " sr " }, { .advice = MADV_RANDOM, .flag = " rr " },
};

#define ADVICES (sizeof(advices) / sizeof(*advices))

static void advise(void)
{
	for (size_t i = 0; i < ADVICES; i++) {
		struct advice *a = &advices[i];

		/* With a gap, so that none merge. */
		a->at = mmap(NULL, PIECE + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		munmap(a->at + PIECE, PAGE);
		memset(a->at, 'f', PAGE);
		a->could = madvise(a->at, PIECE, a->advice) == 0;
	}
}

/* ---- what the kernel says ---- */

static void check_said(void)
{
	for (int i = 0; i < 3; i++) {
		read_file(files[i], said_after, sizeof(said_after));
		if (strcmp(said_before[i], said_after))
			victim_fail("%s is another one", files[i]);
	}
	read_file("/proc/self/smaps", said_after, sizeof(said_after));
	for (size_t i = 0; i < ADVICES; i++) {
		const struct advice *a = &advices[i];

		if (a->could && (!has_flag(said_before[4], a->at, a->flag) || !has_flag(said_after, a->at, a->flag)))
			victim_fail("the flag%sof a mapping is lost", a->flag);
	}
	victim_check(has_flag(said_after, locked, " lo ") && has_flag(said_after, reserved, " nr "));
	read_file("/proc/self/maps", said_after, sizeof(said_after));
	victim_check(!is_named || strstr(said_after, "[anon:arena of the victim]"));
	victim_check(strstr(said_after, "[heap]") && strstr(said_after, "[stack]") && strstr(said_after, "[vdso]"));
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	map_anonymous();
	map_file(argv[0]);
	advise();
	for (int i = 0; i < 5; i++)
		read_file(files[i], said_before[i], sizeof(said_before[i]));
	victim_ready();
	while (victim_tick())
		usleep(1000);
	check_said();
	check_anonymous();
	check_file();
	use_stack(1000);
	victim_check(getauxval(AT_SYSINFO_EHDR) && !memcmp((void *)getauxval(AT_SYSINFO_EHDR), "\177ELF", 4));
	return victim_ok();
}
