#include "chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "inventory.h"

#define PARENT "parent"
#define LINKS_MAX 10000

const char *chain_prefix(size_t link, char ret[CHAIN_PREFIX_SIZE])
{
	size_t shown = link * sizeof(PARENT) < CHAIN_PREFIX_SIZE ? link : 0;

	ret[0] = 0;
	for (size_t i = 0; i < shown; i++)
		strcat(ret, PARENT "/");
	if (shown < link)
		snprintf(ret, CHAIN_PREFIX_SIZE, "[" PARENT "/ %zu times]/", link);
	return ret;
}

static int add(struct chain *c, int directory, struct image_set *images, const struct stat *st)
{
	struct chain_link *larger = reallocarray(c->at, c->count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	c->at = larger;
	c->at[c->count++] = (struct chain_link){ .directory = directory, .images = images, .dev = st->st_dev, .ino = st->st_ino };
	return 0;
}

/* Where `parent` leads, if it leads anywhere new. -ENOENT: this is the first of all. */
static int find_parent(const struct chain *c, struct stat *st, struct phaul_error *err)
{
	const struct chain_link *last = &c->at[c->count - 1];
	char prefix[CHAIN_PREFIX_SIZE], target[256] = "";
	int fd;

	chain_prefix(c->count - 1, prefix);
	if (readlinkat(last->directory, PARENT, target, sizeof(target) - 1) < 0 && errno == ENOENT)
		return -ENOENT;
	fd = openat(last->directory, PARENT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, st) < 0) {
		int code = phaul_fail(err, fd < 0 ? -errno : -EIO, "images", "opening %s" PARENT ", which should lead to the checkpoint "
				      "before this one%s%s", prefix, *target ? ", and leads to " : "", target);
		if (fd >= 0)
			close(fd);
		/* That the link leads nowhere is no reason to take it for the first. */
		return code == -ENOENT ? -ENOLINK : code;
	}
	for (size_t i = 0; i < c->count; i++)
		if (c->at[i].dev == st->st_dev && c->at[i].ino == st->st_ino) {
			close(fd);
			return phaul_fail(err, -ELOOP, "images", "%s" PARENT " leads to %s, so that the chain of checkpoints has no "
					  "first one", prefix, target);
		}
	return fd;
}

static int read_parent(struct chain *c, int directory, const struct stat *st, struct phaul_error *err)
{
	char prefix[CHAIN_PREFIX_SIZE];
	struct image_set *images = NULL;
	int code = image_set_load(directory, &images, err) ?: inventory_check(images, directory, err);

	if (code) {
		chain_prefix(c->count, prefix);
		(void)phaul_wrap(err, "in %s", prefix);
	} else {
		code = add(c, directory, images, st);
		if (code)
			phaul_fail(err, code, "images", "reading the checkpoints before this one");
	}
	if (code)
		image_set_free(images);
	return code;
}

int chain_open(int directory, struct image_set *images, struct chain *ret, struct phaul_error *err)
{
	struct stat st;
	int fd = 0, code = fstat(directory, &st) < 0 ? -errno : 0;

	memset(ret, 0, sizeof(*ret));
	code = code ?: add(ret, directory, images, &st);
	if (code)
		return phaul_fail(err, code, "images", "reading the directory");
	while (!code && (fd = find_parent(ret, &st, err)) >= 0) {
		code = ret->count < LINKS_MAX ? read_parent(ret, fd, &st, err) :
		       phaul_fail(err, -ELOOP, "images", "more than %d checkpoints hang on each other", LINKS_MAX);
		if (code)
			close(fd);
	}
	code = code ?: fd == -ENOENT ? 0 : fd;
	if (code)
		chain_close(ret);
	return code;
}

int chain_check_pid(const struct chain *c, pid_t pid, struct phaul_error *err)
{
	char wanted[32], others[64] = "";
	const char *name;
	const void *bytes;
	size_t size, n = 0;

	snprintf(wanted, sizeof(wanted), "pagemap-%d", pid);
	if (c->count < 2 || !image_set_bytes(c->at[1].images, wanted, &bytes, &size))
		return 0;
	for (size_t i = 0; (name = image_set_name(c->at[1].images, i)) && n < sizeof(others) - 16; i++)
		if (!strncmp(name, "pagemap-", 8) && strncmp(name, "pagemap-shmem", 13))
			n += snprintf(others + n, sizeof(others) - n, "%s%.10s", n ? ", " : "", name + 8);
	return phaul_fail(err, -EINVAL, "images", "the checkpoint before, to which " PARENT " leads, has the memory of %s%s and none of "
			  "pid %d: is it of another process?", n ? "pid " : "no process", others, pid);
}

void chain_close(struct chain *c)
{
	for (size_t i = 1; i < c->count; i++) {
		close(c->at[i].directory);
		image_set_free(c->at[i].images);
	}
	free(c->at);
	memset(c, 0, sizeof(*c));
}
