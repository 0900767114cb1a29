/* ghost_name.c - names that lead to a file, and those that it has for a moment. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ghost_file.h"

#define MARK " (deleted)"

static bool leads_to(const char *name, const struct stat *st)
{
	struct stat named;

	return !lstat(name, &named) && named.st_dev == st->st_dev && named.st_ino == st->st_ino;
}

bool ghost_has_name(char *name, const struct stat *st)
{
	size_t length = strlen(name), tail = strlen(MARK);

	if (leads_to(name, st))
		return true;
	if (length <= tail || strcmp(name + length - tail, MARK))
		return false;
	name[length - tail] = 0;
	return leads_to(name, st);
}

/* A name of the file in this directory, in place of what follows `name`'s last slash. */
static bool find_other_name(char name[PATH_MAX], const struct stat *st)
{
	int base = strrchr(name, '/') + 1 - name;
	char other[PATH_MAX];
	bool found = false;
	struct dirent *entry;
	DIR *dir;

	snprintf(other, sizeof(other), "%.*s", base, name);
	dir = opendir(other);
	while (dir && !found && (entry = readdir(dir))) {
		if (entry->d_ino != st->st_ino || base + strlen(entry->d_name) >= PATH_MAX)
			continue;
		strcpy(other + base, entry->d_name);
		found = leads_to(other, st);
	}
	if (dir)
		closedir(dir);
	if (found)
		strcpy(name, other);
	return found;
}

bool ghost_find_name(char name[PATH_MAX], const struct stat *st)
{
	return ghost_has_name(name, st) || (S_ISREG(st->st_mode) && st->st_nlink && *name == '/' && find_other_name(name, st));
}

/* What has no name from the start: O_TMPFILE names are "#" and the number of the inode. */
bool ghost_is_nameless(const char *name)
{
	const char *base = strrchr(name, '/') + 1;

	return *base == '#' && base[1] && strspn(base + 1, "0123456789") == strlen(base + 1);
}

/* Opens what is under `name` now. */
int ghost_open_name(const char *name, int *ret)
{
	*ret = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

/* What has the name stays under it: for an instant the two change places. */
static int take_turns(const char *source, const char *name, int *ret)
{
	char aside[PATH_MAX];
	int err;

	snprintf(aside, sizeof(aside), "%s.aside", name);
	if (linkat(AT_FDCWD, source, AT_FDCWD, aside, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	if (renameat2(AT_FDCWD, aside, AT_FDCWD, name, RENAME_EXCHANGE) < 0) {
		err = -errno;
		(void)unlink(aside);
		return err;
	}
	err = ghost_open_name(name, ret);
	return rename(aside, name) < 0 ? -errno : err;
}

/* For a moment the file has the name. */
int ghost_give_name(int fd, const char *name, int *ret)
{
	char path[32];
	int err;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0)
		return errno == EEXIST ? take_turns(path, name, ret) : -errno;
	err = ghost_open_name(name, ret);
	return unlink(name) < 0 ? -errno : err;
}
