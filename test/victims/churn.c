/* churn.c - REPORT [MIB]: three threads write random pages at full speed while a fourth maps, unmaps, moves,
 * empties, protects and re-maps memory, grows and shrinks brk, and copies on write in private file mappings.
 * Every page tells its own number and version; what should be zero or the file's must be.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "victim.h"

#define PAGE 4096ul
#define WORDS (PAGE / 8)
#define WRITERS 3
#define SLOTS 64
#define SLOT_PAGES 64ul

/* A page is `version` 0 while it holds what the kernel gave: zeros, or the file's bytes. */
static uint64_t word(uint64_t page, uint32_t version, size_t i)
{
	uint64_t x = (page << 32 ^ version) * 0x9e3779b97f4a7c15ull + i * 0xd1342543de82ef95ull;

	return version ? x ^ x >> 29 : 0;
}

static void fill(uint64_t *at, uint64_t page, uint32_t version)
{
	for (size_t i = 0; i < WORDS; i++)
		at[i] = word(page, version, i);
}

static void verify(const uint64_t *at, uint64_t page, uint32_t version, const uint64_t *base)
{
	for (size_t i = 0; i < WORDS; i++) {
		uint64_t want = version || !base ? word(page, version, i) : base[i];

		if (at[i] != want)
			victim_fail("page %llx (%p) word %zu of version %u: %llx instead of %llx",
				    (unsigned long long)page, (const void *)(at + i), i, version,
				    (unsigned long long)at[i], (unsigned long long)want);
	}
}

static uint64_t random_number(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- writers: each has its own part of the arena ---- */

static uint64_t arena_pages;
static uint64_t *arena;
static uint32_t *arena_version;

static void *writer(void *arg)
{
	uint64_t self = (uintptr_t)arg, state = 88172645463325252ull + self;
	uint64_t part = arena_pages / WRITERS, first = self * part;

	while (!victim_ended) {
		uint64_t page = first + random_number(&state) % part;

		fill(arena + page * WORDS, page, ++arena_version[page]);
		if (random_number(&state) % 64 == 0)
			usleep(50);
	}
	return NULL;
}

/* ---- slots: one thread, so that what each holds is known ---- */

struct slot {
	uint64_t *at;			/* NULL: not mapped */
	uint64_t id;			/* pages are numbered from here */
	uint32_t version[SLOT_PAGES];
	uint64_t pages;
	int prot, file;
};

static struct slot slots[SLOTS];
static uint64_t file_words[SLOT_PAGES * WORDS];
static int file_fd;

static void slot_map(struct slot *s, uint64_t *where, uint64_t *state)
{
	s->file = random_number(state) % 4 == 0;
	s->pages = 1 + random_number(state) % SLOT_PAGES;
	s->at = mmap(where, s->pages * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | (s->file ? 0 : MAP_ANONYMOUS) | (where ? MAP_FIXED : 0),
		     s->file ? file_fd : -1, 0);
	if (s->at == MAP_FAILED)
		victim_fail("mmap of a slot");
	s->id = 0x10000000ull + (random_number(state) & 0xffff00);
	s->prot = PROT_READ | PROT_WRITE;
	memset(s->version, 0, sizeof(s->version));
}

static void slot_write(struct slot *s, uint64_t *state)
{
	uint64_t n = 1 + random_number(state) % s->pages;

	if (!(s->prot & PROT_WRITE))
		return;
	while (n--) {
		uint64_t page = random_number(state) % s->pages;

		fill(s->at + page * WORDS, s->id + page, ++s->version[page]);
	}
}

static void slot_verify(const struct slot *s)
{
	if (!(s->prot & PROT_READ))
		return;
	for (uint64_t page = 0; page < s->pages; page++)
		verify(s->at + page * WORDS, s->id + page, s->version[page],
		       s->file ? file_words + page * WORDS : NULL);
}

static void slot_drop(struct slot *s, uint64_t *state)
{
	uint64_t from = random_number(state) % s->pages, n = 1 + random_number(state) % (s->pages - from);

	madvise(s->at + from * WORDS, n * PAGE, MADV_DONTNEED);
	for (uint64_t page = from; page < from + n; page++)
		s->version[page] = 0;
}

static void slot_move(struct slot *s)
{
	uint64_t *where = mmap(NULL, s->pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	s->at = mremap(s->at, s->pages * PAGE, s->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, where);
	if (s->at == MAP_FAILED)
		victim_fail("mremap of a slot");
}

static void slot_protect(struct slot *s, uint64_t *state)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
				     PROT_READ | PROT_WRITE };

	s->prot = prots[random_number(state) % 4];
	mprotect(s->at, s->pages * PAGE, s->prot);
}

static void slot_step(uint64_t *state)
{
	struct slot *s = &slots[random_number(state) % SLOTS];

	if (!s->at) {
		slot_map(s, NULL, state);
		return;
	}
	switch (random_number(state) % 10) {
	case 0:
		munmap(s->at, s->pages * PAGE);
		s->at = NULL;
		break;
	case 1: {	/* at once mapped again at the same address */
		uint64_t *at = s->at, pages = s->pages;

		munmap(at, pages * PAGE);
		slot_map(s, NULL, state);
		break;
	}
	case 2:
		slot_move(s);
		break;
	case 3:
	case 4:
		slot_drop(s, state);
		break;
	case 5:
		slot_protect(s, state);
		break;
	default:
		slot_write(s, state);
	}
}

/* ---- brk ---- */

static uint64_t *brk_at;
static uint64_t brk_pages;
static uint32_t brk_version[256];

static void brk_step(uint64_t *state)
{
	uint64_t pages = random_number(state) % 256;

	if (brk(brk_at + pages * WORDS) < 0)
		victim_fail("brk");
	for (uint64_t page = pages; page < 256; page++)
		brk_version[page] = 0;
	brk_pages = pages;
	for (uint64_t page = 0; page < pages; page += 1 + random_number(state) % 8)
		fill(brk_at + page * WORDS, 0x20000000 + page, ++brk_version[page]);
}

static void *changer(void *arg)
{
	uint64_t state = 362436069362436069ull, steps = 0;

	(void)arg;
	while (!victim_ended) {
		slot_step(&state);
		if (steps % 16 == 0)
			brk_step(&state);
		if (++steps % 8 == 0)
			usleep(100);
		if (steps % 512 == 0)
			for (size_t i = 0; i < SLOTS; i++)
				if (slots[i].at)
					slot_verify(&slots[i]);
	}
	return NULL;
}

static void prepare_file(void)
{
	char name[512];

	for (size_t i = 0; i < sizeof(file_words) / sizeof(*file_words); i++)
		file_words[i] = i * 0x9e3779b97f4a7c15ull;
	snprintf(name, sizeof(name), "%s.data", victim_path);
	file_fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	victim_check(file_fd >= 0);
	victim_check(write(file_fd, file_words, sizeof(file_words)) == sizeof(file_words));
}

int main(int argc, char **argv)
{
	pthread_t writers[WRITERS], change;

	victim_begin(argc, argv);
	arena_pages = (argc > 2 ? atoll(argv[2]) : 64) * 256;
	arena = mmap(NULL, arena_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	arena_version = mmap(NULL, arena_pages * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	victim_check(arena != MAP_FAILED && arena_version != MAP_FAILED);
	prepare_file();
	/* The threads' memory comes from malloc's mmap, not from brk, which is ours. */
	brk_at = (uint64_t *)(((uintptr_t)sbrk(0) + 2 * PAGE - 1) & ~(PAGE - 1));
	for (uintptr_t i = 0; i < WRITERS; i++)
		victim_check(!pthread_create(&writers[i], NULL, writer, (void *)i));
	victim_check(!pthread_create(&change, NULL, changer, NULL));
	victim_ready();
	while (victim_tick())
		usleep(200);
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_join(writers[i], NULL);
	pthread_join(change, NULL);
	for (uint64_t page = 0; page < arena_pages; page++)
		verify(arena + page * WORDS, page, arena_version[page], NULL);
	for (size_t i = 0; i < SLOTS; i++)
		if (slots[i].at)
			slot_verify(&slots[i]);
	for (uint64_t page = 0; page < brk_pages; page++)
		verify(brk_at + page * WORDS, 0x20000000 + page, brk_version[page], NULL);
	return victim_ok();
}
