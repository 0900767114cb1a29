#include "clocks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../error.h"

#define NS 1000000000ll
#define LEAP_NS 50000000ll	/* ahead; less is no worse than to stand still for so long */
#define TRIES 10
#define CLOSE_NS 20000ll
#define AWAIT_MAX_NS NS
#define BOOT_ID 36
#define CLOCK_MAX_NS (1ll << 60)	/* some 36 years */

/* As it is in images. */
struct told {
	struct clocks seen, first;	/* `first`: those of the first namespace of the host, at that moment */
	char boot[BOOT_ID];
};

/* "monotonic           0         0\nboottime            0         0\n"; kernels without have none. */
static int offsets_of(const char *pid, struct clocks *ret)
{
	char path[48], name[16];
	long long seconds, ns;
	FILE *f;

	memset(ret, 0, sizeof(*ret));
	snprintf(path, sizeof(path), "/proc/%s/timens_offsets", pid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT && !access("/proc/self/ns/time", F_OK) ? -ESRCH : errno == ENOENT ? 0 : -errno;
	while (fscanf(f, "%15s %lld %lld", name, &seconds, &ns) == 3)
		*(strcmp(name, "monotonic") ? &ret->boottime : &ret->monotonic) = seconds * NS + ns;
	fclose(f);
	return 0;
}

static int64_t now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * NS + ts.tv_nsec;
}

/* Both at one moment: whoever reads them may have to wait for the CPU in between. */
static void read_both(struct clocks *ret)
{
	int64_t best = INT64_MAX;

	for (int i = 0; i < TRIES && best > CLOSE_NS; i++) {
		int64_t before = now(CLOCK_MONOTONIC), boottime = now(CLOCK_BOOTTIME), took = now(CLOCK_MONOTONIC) - before;

		if (took < best) {
			best = took;
			*ret = (struct clocks){ before, boottime };
		}
	}
}

/* Ours without the offsets of our own namespace. */
static int first_clocks(struct clocks *ret)
{
	struct clocks own;
	int err = offsets_of("self", &own);

	read_both(ret);
	ret->monotonic -= own.monotonic;
	ret->boottime -= own.boottime;
	return err;
}

int clocks_seen_by(pid_t pid, struct clocks *ret)
{
	struct clocks first;
	char text[16];
	int err = first_clocks(&first);

	snprintf(text, sizeof(text), "%d", pid);
	err = err ?: offsets_of(text, ret);
	ret->monotonic += first.monotonic;
	ret->boottime += first.boottime;
	return err;
}

/* The first namespace has a number that is always the same (PROC_TIME_INIT_INO). */
bool clocks_are_own(pid_t pid)
{
	static const char first[] = "time:[4026531834]";
	char path[48], name[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/ns/time", pid);
	n = readlink(path, name, sizeof(name));
	return n > 0 && ((size_t)n != sizeof(first) - 1 || memcmp(name, first, n));
}

int clocks_parse(const char *text, struct clocks *ret)
{
	long long monotonic, boottime;

	if (sscanf(text, "%lld %lld", &monotonic, &boottime) != 2 || monotonic < 0 || boottime < 0 || monotonic > CLOCK_MAX_NS ||
	    boottime > CLOCK_MAX_NS)
		return -EINVAL;
	*ret = (struct clocks){ monotonic, boottime };
	return 0;
}

static bool is_about(int64_t own, int64_t wanted, int64_t unsure)
{
	return own >= wanted && own - wanted <= unsure + LEAP_NS;
}

/* Seconds may be negative, what is left over never is. */
static void put_offset(char ret[CLOCKS_TEXT], const char *name, int64_t offset)
{
	int64_t ns = (offset % NS + NS) % NS;

	snprintf(ret + strlen(ret), CLOCKS_TEXT - strlen(ret), "%s %lld %lld\n", name, (long long)((offset - ns) / NS), (long long)ns);
}

int clocks_offsets(const struct clocks_told *told, char ret[CLOCKS_TEXT], struct phaul_error *err)
{
	struct clocks own, here, wanted = told->least;
	int code = offsets_of("self", &own);

	*ret = 0;
	/* A kernel without time namespaces: the clocks are those of the host. */
	if (access("/proc/self/ns/time_for_children", F_OK))
		return 0;
	if (code)
		return phaul_fail(err, code, "clocks", "looking at this host's clocks");
	read_both(&here);
	wanted.monotonic += here.monotonic - told->at;
	wanted.boottime += here.monotonic - told->at;
	if (!told->own && is_about(here.monotonic, wanted.monotonic, told->unsure) && is_about(here.boottime, wanted.boottime, told->unsure))
		return 0;
	put_offset(ret, "monotonic", wanted.monotonic + told->unsure / 2 - here.monotonic + own.monotonic);
	put_offset(ret, "boottime", wanted.boottime + told->unsure / 2 - here.boottime + own.boottime);
	return 0;
}

static int read_boot(char ret[BOOT_ID])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, ret, BOOT_ID);

	if (fd >= 0)
		close(fd);
	return got == BOOT_ID ? 0 : -EIO;
}

int clocks_put(struct image_set *to, pid_t pid)
{
	struct told told;
	int err = read_boot(told.boot) ?: first_clocks(&told.first) ?: clocks_seen_by(pid, &told.seen);

	return err ? err : image_put_raw(to, "phaul-clocks", -1, &told, sizeof(told));
}

int clocks_of_images(const struct image_set *images, struct clocks *ret)
{
	struct image_reader reader;
	const void *bytes;
	struct told told;
	struct clocks first;
	char boot[BOOT_ID];
	int err = image_read(images, "phaul-clocks", -1, &reader) ?: image_next_raw(&reader, sizeof(told), &bytes);

	if (err)
		return err;
	memcpy(&told, bytes, sizeof(told));
	if (told.seen.monotonic < 0 || told.seen.monotonic > CLOCK_MAX_NS || told.seen.boottime < 0 || told.seen.boottime > CLOCK_MAX_NS)
		return -EPROTO;
	*ret = told.seen;
	err = read_boot(boot) ?: first_clocks(&first);
	if (!err && !memcmp(boot, told.boot, BOOT_ID)) {
		ret->monotonic += first.monotonic - told.first.monotonic;
		ret->boottime += first.boottime - told.first.boottime;
	}
	return err;
}

void clocks_await(pid_t pid, const struct clocks *frozen)
{
	struct clocks seen;
	int64_t behind;

	if (clocks_seen_by(pid, &seen))
		return;
	behind = frozen->monotonic - seen.monotonic > frozen->boottime - seen.boottime ? frozen->monotonic - seen.monotonic :
		 frozen->boottime - seen.boottime;
	if (behind > 0 && behind <= AWAIT_MAX_NS)
		nanosleep(&(struct timespec){ .tv_sec = behind / NS, .tv_nsec = behind % NS }, NULL);
}
