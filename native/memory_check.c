/* memory_check.c - mappings that can't move, each by name. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ghost.h"
#include "memory_map.h"
#include "objects/aio.h"
#include "objects/object.h"

#define LOOKS_MAX 20

static const char *what_is(const struct vma *vma)
{
	const char *path = vma->path;

	if (vma->flags & VMA_HUGETLB)
		return "huge pages (hugetlb)";
	if (!strncmp(path, "/SYSV", 5))
		return "System V shared memory";
	if (!strncmp(path, "/memfd:", 7))
		return "a memfd";
	if (!strncmp(path, "/dev/zero", 9) || (!*path && vma->shared))
		return "shared anonymous memory";
	if (!strncmp(path, "/dev/shm/", 9))
		return "POSIX shared memory";
	if (!strncmp(path, "anon_inode:", 11))
		return "memory of a kernel object";
	if (vma->kind == VMA_SOCKET)
		return "the ring of a packet socket that the process has closed";
	if (!strncmp(path, "/dev/", 5))
		return "device memory";
	return "memory of a kind that phaul doesn't know";
}

/* What has another name is opened by that, what has none comes along. */
static void check_deleted(struct check *c, const struct vma *vma, const char *subject)
{
	size_t n = strlen(vma->path);
	char name[PATH_MAX], path[80];
	struct stat st;

	if (vma->kind != VMA_FILE || n < 11 || strcmp(vma->path + n - 10, " (deleted)"))
		return;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", c->pid, (unsigned long long)vma->start,
		 (unsigned long long)vma->end);
	snprintf(name, sizeof(name), "%s", vma->path);
	if (!stat(path, &st) && st.st_nlink && !ghost_find_name(name, &st))
		obstacle(c, "MEMORY_DELETED", subject, "%s is %s: the file has another name (a hard link) that can't be told from "
			 "here; give it one beside the old one, on the target too: ln -L %s %s.moved", subject, vma->path, path, name);
}

static bool has_descriptor(pid_t pid, const char *link)
{
	char path[64], text[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, text, sizeof(text) - 1);

		found = n > 0 && (size_t)n == strlen(link) && !memcmp(text, link, n);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void check_vma(struct check *c, const struct vma *vma)
{
	char subject[64];

	/* Its descriptor is told of. */
	if (!strcmp(vma->path, "anon_inode:[io_uring]"))
		return;
	if (vma->kind == VMA_AIO) {
		aio_check(c, vma);
		return;
	}
	/* Its descriptor is told of, too. */
	if (vma->kind == VMA_SOCKET && has_descriptor(c->pid, vma->path))
		return;
	snprintf(subject, sizeof(subject), "memory %llx-%llx", (unsigned long long)vma->start,
		 (unsigned long long)vma->end);
	if (!(c->flags & PHAUL_TO_DIRECTORY))
		check_deleted(c, vma, subject);
	if (vma->kind == VMA_OTHER || vma->kind == VMA_SOCKET)
		obstacle(c, "MEMORY_KIND", subject, "%s is %s%s%s%s: this kind can't be moved yet; restart the service without it, or "
			 "leave it here", subject, what_is(vma), *vma->path ? " (" : "", vma->path, *vma->path ? ")" : "");
	else if (vma->flags & VMA_UFFD)
		obstacle(c, "MEMORY_UFFD", subject, "%s is watched by a userfaultfd of the process itself, "
			 "which can't be moved", subject);
	else if (vma->flags & VMA_DROPPABLE && !(c->flags & PHAUL_TO_DIRECTORY))
		obstacle(c, "MEMORY_DROPPABLE", subject, "%s is droppable memory (MAP_DROPPABLE), whose "
			 "writes can't be tracked", subject);
	else if ((vma->flags & VMA_IO) && vma->kind != VMA_VVAR)
		obstacle(c, "MEMORY_DEVICE", subject, "%s maps a device (%s), which stays on this host",
			 subject, vma->path);
	else if ((vma->flags & VMA_SEALED) && vma_has_pages(vma))
		obstacle(c, "MEMORY_SEALED", subject, "%s is sealed (mseal), which can't be moved yet",
			 subject);
}

void memory_check(struct check *c)
{
	struct memory_map map;
	struct phaul_error err;
	int code = memory_map_read(c->pid, true, &map, &err);

	/* One that begins another program has little for a moment, and one that ends has nothing. */
	for (int i = 0; i < LOOKS_MAX && !code && !memory_map_named(&map, "[vdso]"); i++) {
		memory_map_free(&map);
		usleep(1000);
		code = memory_map_read(c->pid, true, &map, &err);
	}
	if (code < 0) {
		obstacle(c, "MEMORY_READ", "memory", "%s", err.what);
		return;
	}
	if (!memory_map_named(&map, "[vdso]"))
		obstacle(c, "MEMORY_VDSO", "memory", "pid %d has no [vdso] mapping (booted with vdso=0, or it "
			 "was unmapped), through which phaul would ask for its state", c->pid);
	for (size_t i = 0; i < map.count; i++)
		check_vma(c, &map.at[i]);
	memory_map_free(&map);
}
