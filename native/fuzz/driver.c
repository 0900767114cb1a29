/* driver.c - what runs a fuzzer where there is no libFuzzer: gcc tells which code an input reaches, and what reaches new code is
 * kept and changed further.
 *
 *	NAME_fuzz [-runs=N] [-max_total_time=S] [-seed=N] [-max_len=N] [-artifact_prefix=PATH] [DIRECTORY | INPUT]...
 *
 * The words are libFuzzer's: inputs are read from all directories, and what is kept is written to the first; files are run once.
 * An input that crashes, hangs or leaks memory is written to PATH and a name, and the exit code isn't 0. Its own word is
 *
 *	-refuse_each=N		first, in each of the inputs, each Nth call of the kernel is refused once (kernel.h)
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "coverage.h"
#include "fuzz.h"
#include "kernel.h"

#define STACKED_MAX 5		/* changes of one input at a time */
#define HANG_S 20
#define WAIT_S 300

/* gcc has the function and no header. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *at, size_t size),
					      void (*on_free)(const volatile void *at));

#define FOR_RUNTIME __attribute__((visibility("default")))

FOR_RUNTIME const char *__asan_default_options(void)
{
	return "abort_on_error=1:max_allocation_size_mb=1024:hard_rss_limit_mb=4096:detect_stack_use_after_return=0:"
	       "quarantine_size_mb=8:malloc_context_size=6";
}

FOR_RUNTIME const char *__ubsan_default_options(void)
{
	return "abort_on_error=1:print_stacktrace=1";
}

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

/* ---- running one ---- */

static struct {
	const char *artifacts;
	int directory;			/* of new inputs, -1: none */
	uint64_t runs, seed, refuse_each;
	size_t max_size;
	double seconds;
} options = { .artifacts = "", .directory = -1, .runs = ~0ull, .max_size = 1 << 16 };

static struct { const uint8_t *bytes; size_t size; } current;
static volatile uint64_t done, allocated;
static uint64_t ticks_of, ticks;

static void save(int directory, const char *before, const uint8_t *bytes, size_t size)
{
	uint64_t sum = 1469598103934665603ull;
	char name[1024];
	int fd;

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ bytes[i]) * 1099511628211ull;
	snprintf(name, sizeof(name), "%s%016llx", before, (unsigned long long)sum);
	fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		fprintf(stderr, "writing %s: %s\n", name, strerror(errno));
	else if (directory == AT_FDCWD)
		fprintf(stderr, "the input is in %s\n", name);
	if (fd >= 0)
		close(fd);
}

static void save_artifact(const char *kind)
{
	char before[900];

	snprintf(before, sizeof(before), "%s%s-", options.artifacts, kind);
	save(AT_FDCWD, before, current.bytes, current.size);
}

static void crashed(int signal)
{
	coverage_end();
	fprintf(stderr, "crashed by signal %d, input %llu\n", signal, (unsigned long long)done);
	save_artifact("crash");
	_exit(77 + 1);
}

/* Each second. On a machine that has other things to do an input may take its time. */
static void tick(int signal)
{
	static clock_t cpu;

	(void)signal;
	if (ticks_of != done || !current.bytes) {
		ticks_of = done;
		cpu = clock();
		ticks = 0;
		return;
	}
	if (clock() - cpu < HANG_S * CLOCKS_PER_SEC && ++ticks < WAIT_S)
		return;
	fprintf(stderr, "input %llu takes more than %d s of a CPU, or waits\n", (unsigned long long)done, HANG_S);
	abort();
}

static void on_malloc(const volatile void *at, size_t size)
{
	(void)at;
	(void)size;
	__atomic_fetch_add(&allocated, 1, __ATOMIC_RELAXED);
}

static void on_free(const volatile void *at)
{
	__atomic_fetch_sub(&allocated, at != NULL, __ATOMIC_RELAXED);
}

/* Of its very size, so that a sanitizer sees a read too many. */
static bool run(const uint8_t *bytes, size_t size)
{
	uint8_t *copy = malloc(size + !size);
	uint64_t before = allocated;

	if (size)
		memcpy(copy, bytes, size);
	current.bytes = copy;
	current.size = size;
	coverage_begin();
	(void)LLVMFuzzerTestOneInput(copy, size);
	coverage_end();
	done++;
	if (allocated > before && __lsan_do_recoverable_leak_check()) {
		fprintf(stderr, "memory was left by input %llu\n", (unsigned long long)done);
		save_artifact("leak");
		exit(1);
	}
	current.bytes = NULL;
	free(copy);
	return coverage_is_new();
}

/* ---- inputs ---- */

static struct input { uint8_t *bytes; size_t size; } *corpus;
static size_t corpus_count, corpus_capacity;

static void keep(const uint8_t *bytes, size_t size)
{
	if (corpus_count == corpus_capacity) {
		corpus_capacity = 2 * corpus_capacity + 64;
		corpus = reallocarray(corpus, corpus_capacity, sizeof(*corpus));
	}
	corpus[corpus_count] = (struct input){ malloc(size + 1), size };
	memcpy(corpus[corpus_count++].bytes, bytes, size);
}

static uint64_t number(void)
{
	options.seed ^= options.seed << 13;
	options.seed ^= options.seed >> 7;
	options.seed ^= options.seed << 17;
	return options.seed;
}

static size_t below(size_t most)
{
	return most ? number() % most : 0;
}

/* Half of the time of those that were kept last. */
static const struct input *choose(void)
{
	size_t newest = corpus_count / 4 + 1;

	return &corpus[below(2) ? below(corpus_count) : corpus_count - 1 - below(newest)];
}

static size_t set_number(uint8_t *bytes, size_t size)
{
	static const uint64_t numbers[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 4095, 4096, 4097, 0x7fff, 0xffff, 1 << 20, 0x7fffffff,
					    0x80000000, 0xffffffff, 1ull << 60, 0x7ffffffff000, 1ull << 63, ~0ull };
	size_t width = 1ul << below(4), at = below(size);
	uint64_t value = numbers[below(sizeof(numbers) / sizeof(*numbers))];

	memcpy(bytes + at, &value, width < size - at ? width : size - at);
	return size;
}

static size_t insert(uint8_t *bytes, size_t size, size_t max)
{
	size_t at = below(size + 1), n = 1 + below(16), from;

	if (size + n > max)
		return size;
	memmove(bytes + at + n, bytes + at, size - at);
	from = below(size);
	for (size_t i = 0; i < n; i++)
		bytes[at + i] = from + i < size && n > 4 ? bytes[from + i] : number();
	return size + n;
}

static size_t take_out(uint8_t *bytes, size_t size)
{
	size_t at = below(size), n = 1 + below(size - at < 16 ? size - at : 16);

	if (n > size - at)
		return size;
	memmove(bytes + at, bytes + at + n, size - at - n);
	return size - n;
}

/* One change of bytes that mean nothing. */
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t max)
{
	size_t at = below(size), from = below(size), n;

	switch (size ? below(7) : 6) {
	case 0:
		bytes[at] ^= 1 << below(8);
		return size;
	case 1:
		bytes[at] = number();
		return size;
	case 2:
		bytes[at] += (int)below(9) - 4;
		return size;
	case 3:
		return set_number(bytes, size);
	case 4:
		n = below(32) % (size - (at > from ? at : from) + 1);
		memmove(bytes + at, bytes + from, n);
		return size;
	case 5:
		return take_out(bytes, size);
	default:
		return insert(bytes, size, max);
	}
}

static void fuzz_one(void)
{
	static uint8_t bytes[1 << 20];
	const struct input *from = choose();
	size_t size = from->size < options.max_size ? from->size : options.max_size;

	memcpy(bytes, from->bytes, size);
	if (!below(16)) {
		const struct input *other = choose();

		size = LLVMFuzzerCustomCrossOver(from->bytes, from->size, other->bytes, other->size, bytes, options.max_size, number());
	}
	for (size_t n = 1 + below(STACKED_MAX); n; n--)
		size = LLVMFuzzerCustomMutator(bytes, size, options.max_size, number());
	if (!run(bytes, size))
		return;
	keep(bytes, size);
	if (options.directory >= 0)
		save(options.directory, "", bytes, size);
}

/* A different one for each call, but always the same. */
static void refuse_each(const struct input *of)
{
	static const uint16_t codes[] = { EIO, ENOMEM, EMFILE, EPERM, EEXIST, ENOENT, EADDRINUSE };
	static uint8_t bytes[1 << 20];
	static struct parts parts;

	parts_read(of->bytes, of->size, &parts);
	parts_remove(&parts, "fail");
	(void)run(of->bytes, of->size);
	for (uint32_t call = 1, calls = kernel_calls(); call <= calls; call += options.refuse_each) {
		uint16_t numbers[2] = { call, codes[call / options.refuse_each % (sizeof(codes) / sizeof(*codes))] };
		size_t size;

		parts_add(&parts, "fail", numbers, sizeof(numbers));
		size = parts_write(&parts, bytes, sizeof(bytes));
		if (run(bytes, size))
			keep(bytes, size);
		parts_remove(&parts, "fail");
		calls = kernel_calls() > calls ? kernel_calls() : calls;
	}
}

/* ---- all of it ---- */

static uint8_t *slurp(int directory, const char *name, size_t *ret_size)
{
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *bytes;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	bytes = malloc(st.st_size + 1);
	*ret_size = read(fd, bytes, st.st_size) == st.st_size ? st.st_size : 0;
	close(fd);
	return bytes;
}

static size_t read_directory(const char *path)
{
	struct dirent **names;
	int count = scandir(path, &names, NULL, alphasort), fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t size, before = corpus_count;

	for (int i = 0; i < count; i++) {
		uint8_t *bytes = slurp(fd, names[i]->d_name, &size);

		if (bytes && run(bytes, size))
			keep(bytes, size);
		free(bytes);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	if (options.directory < 0)
		options.directory = fd;
	else if (fd >= 0)
		close(fd);
	return corpus_count - before;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void say(const char *what, double since)
{
	fprintf(stderr, "#%llu %s: %zu places reached, %zu inputs kept, %.0f inputs a second\n", (unsigned long long)done, what, coverage_places(),
		corpus_count, done / (now() - since));
}

static bool read_option(const char *word)
{
	if (sscanf(word, "-runs=%lu", &options.runs) == 1 || sscanf(word, "-max_total_time=%lf", &options.seconds) == 1 ||
	    sscanf(word, "-seed=%lu", &options.seed) == 1 ||
	    sscanf(word, "-refuse_each=%lu", &options.refuse_each) == 1 || sscanf(word, "-max_len=%zu", &options.max_size) == 1)
		return true;
	if (!strncmp(word, "-artifact_prefix=", 17))
		options.artifacts = word + 17;
	return *word == '-';
}

static void prepare(int *argc, char ***argv)
{
	struct itimerval second = { { 1, 0 }, { 1, 0 } };

	signal(SIGABRT, crashed);
	signal(SIGALRM, tick);
	setitimer(ITIMER_REAL, &second, NULL);
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(argc, argv);
	__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}

int main(int argc, char **argv)
{
	double since = now();
	bool files = false;

	for (int i = 1; i < argc; i++)
		(void)read_option(argv[i]);
	options.seed = options.seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
	options.max_size = options.max_size < 1 << 20 ? options.max_size : 1 << 20;
	prepare(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		struct stat st;
		size_t size;
		uint8_t *bytes;

		if (*argv[i] == '-' || stat(argv[i], &st))
			continue;
		if (S_ISDIR(st.st_mode)) {
			(void)read_directory(argv[i]);
			continue;
		}
		bytes = slurp(AT_FDCWD, argv[i], &size);
		(void)run(bytes, size);
		free(bytes);
		files = true;
	}
	if (files)
		return 0;
	if (!corpus_count)
		keep((const uint8_t *)"", 0);
	for (size_t i = 0, count = options.refuse_each ? corpus_count : 0; i < count; i++)
		refuse_each(&corpus[i]);
	say("begins", since);
	for (uint64_t next = 1 << 14; done < options.runs && (!options.seconds || now() - since < options.seconds); fuzz_one())
		if (done >= next) {
			say("runs", since);
			next *= 2;
		}
	say("done", since);
	return 0;
}
