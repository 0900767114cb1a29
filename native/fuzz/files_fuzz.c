/* files_fuzz.c - files that come along, from a source that may say anything, onto a host where some are already. What must hold
 * whatever it says, and whichever call fails: nothing that was here is written to, what this host hasn't agreed to stays where it is,
 * what was replaced isn't lost before it is certain that the process runs here, and nothing is left of a move that fails.
 *
 * Parts, in their order: "head", "directory", "data", "zero", "tail", "attribute", "done", "end" are notes (of a pass), "stranger" is the
 * path of a file that somebody here puts in place between two of them, "keep" is the commit. "log" is what an agent has left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "file_copy.h"
#include "fuzz.h"
#include "kernel_inside.h"

#define NAMES_MAX 256
#define PATH_SIZE 128
#define LOG "/log"

/* ---- a file system: the calls of kernel_files.c that know no names are in the place of these ---- */

static struct name { char path[PATH_SIZE]; int inode; } names[NAMES_MAX];
static int name_count;
static struct inode { bool directory, ours; } inodes[4 * NAMES_MAX];	/* ours: of this host, and nobody else's to write to */
static int inode_count;

static struct name *find(const char *path)
{
	for (int i = 0; i < name_count; i++)
		if (!strcmp(names[i].path, path))
			return &names[i];
	errno = ENOENT;
	return NULL;
}

static bool has_room(const char *path)
{
	char parent[PATH_SIZE];
	size_t size = strrchr(path, '/') - path;
	const struct name *in;

	errno = strlen(path) < PATH_SIZE ? ENOSPC : ENAMETOOLONG;
	if (errno == ENAMETOOLONG || name_count == NAMES_MAX || inode_count == 4 * NAMES_MAX)
		return false;
	snprintf(parent, sizeof(parent), "%.*s", (int)size, path);
	in = find(parent);
	errno = in ? ENOTDIR : ENOENT;
	return in && inodes[in->inode].directory;
}

static void put(const char *path, int inode)
{
	snprintf(names[name_count].path, PATH_SIZE, "%s", path);
	names[name_count++].inode = inode;
}

static int make(const char *path, bool directory, bool ours)
{
	inodes[inode_count] = (struct inode){ directory, ours };
	put(path, inode_count);
	return inode_count++;
}

static void take(struct name *name)
{
	*name = names[--name_count];
}

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "files: %s\n", what);
	abort();
}

static int written(int fd)
{
	const struct file *f = kernel_file(fd);

	must(!f || !inodes[f->number].ours, "what was here is written to");
	return f ? kernel_answer(0) : -1;
}

int kernel_open(const char *path, int flags, ...)
{
	const struct part *log = parts_find(kernel_input, "log");
	struct name *name = find(path);
	int inode;

	if (log && !strcmp(path, LOG))
		return NEW_FD(.mode = S_IFREG, .bytes = log->bytes, .size = log->size);
	errno = name ? EEXIST : ENOENT;
	if (!(flags & O_CREAT) != !!name || (!name && !has_room(path)) || kernel_refuses())
		return -1;
	inode = name ? name->inode : make(path, false, false);
	must(!inodes[inode].ours || inodes[inode].directory || !(flags & O_ACCMODE), "what was here is opened to be written to");
	return NEW_FD(.mode = inodes[inode].directory ? S_IFDIR : S_IFREG, .number = inode);
}

int kernel_mkdir(const char *path, mode_t mode)
{
	(void)mode;
	errno = EEXIST;
	if (find(path) || !has_room(path) || kernel_refuses())
		return -1;
	make(path, true, false);
	return 0;
}

int kernel_rmdir(const char *path)
{
	struct name *name = find(path);
	size_t size = strlen(path);

	for (int i = 0; i < name_count; i++)
		if (!strncmp(names[i].path, path, size) && names[i].path[size] == '/')
			return -1;
	if (!name || kernel_refuses())
		return -1;
	take(name);
	return 0;
}

int kernel_unlink(const char *path)
{
	struct name *name = find(path);

	if (!name || inodes[name->inode].directory || kernel_refuses())
		return -1;
	take(name);
	return 0;
}

int kernel_link(const char *from, const char *to)
{
	struct name *name = find(from);

	errno = !name ? ENOENT : EEXIST;
	if (!name || find(to) || inodes[name->inode].directory || !has_room(to) || kernel_refuses())
		return -1;
	put(to, name->inode);
	return 0;
}

int kernel_rename(const char *from, const char *to)
{
	struct name *name = find(from), *replaced;
	int inode;

	if (!name || !has_room(to) || kernel_refuses())
		return -1;
	inode = name->inode;
	replaced = find(to);
	if (replaced && replaced->inode == inode)
		return 0;
	if (replaced)
		take(replaced);
	take(find(from));
	put(to, inode);
	return 0;
}

int kernel_renameat2(int at, const char *from, int to_at, const char *to, unsigned int flags)
{
	(void)at;
	(void)to_at;
	errno = EEXIST;
	return flags & RENAME_NOREPLACE && find(to) ? -1 : kernel_rename(from, to);
}

int kernel_stat(const char *path, struct stat *ret)
{
	const struct name *name = find(path);

	if (!name || kernel_refuses())
		return -1;
	*ret = (struct stat){ .st_mode = inodes[name->inode].directory ? S_IFDIR : S_IFREG, .st_ino = name->inode, .st_nlink = 1 };
	return 0;
}

int kernel_statx(int fd, const char *path, int flags, unsigned int mask, struct statx *ret)
{
	const struct file *f = flags & AT_EMPTY_PATH ? kernel_file(fd) : NULL;
	const struct name *name = f ? NULL : find(path);

	if ((!f && !name) || kernel_refuses())
		return -1;
	*ret = (struct statx){ .stx_ino = f ? f->number : name->inode, .stx_mask = mask };
	return 0;
}

ssize_t kernel_pwrite(int fd, const void *from, size_t size, off_t at)
{
	(void)from;
	errno = EFBIG;
	return at < 0 || written(fd) < 0 ? -1 : (ssize_t)size;
}

int kernel_ftruncate(int fd, off_t size)
{
	(void)size;
	return written(fd);
}

#define WRITES(name) int kernel_##name(int fd) { return written(fd); }
WRITES(fallocate) WRITES(fchmod) WRITES(fchown) WRITES(fsetxattr) WRITES(fremovexattr) WRITES(futimens)

/* ---- what is here ---- */

static const char agreed[] = "/srv/app/old\0/srv/app/new\0/srv/app/sub\0/etc/missing";
static const char *const here[] = { "", "/srv", "/srv/app", "/srv/app/sub", "/etc", "/srv/app/old", "/srv/app/precious", "/etc/passwd" };
#define HERE (sizeof(here) / sizeof(*here))
#define DIRECTORIES 5

static bool is_agreed(const char *path)
{
	for (const char *at = agreed; at < agreed + sizeof(agreed); at += strlen(at) + 1)
		if (!strcmp(at, path))
			return true;
	return false;
}

/* Somebody replaces a file, or makes one, that this host hasn't agreed to have replaced. */
static char strange[PATH_SIZE];
static int stranger;

static void come(const struct part *p)
{
	char path[PATH_SIZE];
	struct name *name;

	snprintf(path, sizeof(path), "%.*s", (int)p->size, (const char *)p->bytes);
	name = find(path);
	if (*path != '/' || stranger || is_agreed(path) || (name ? inodes[name->inode].directory : !has_room(path)))
		return;
	if (name)
		take(name);
	strcpy(strange, path);
	stranger = make(path, false, true);
}

static void check(bool kept)
{
	bool refused = parts_find(kernel_input, "fail");
	int found[HERE] = {0}, others = 0;

	for (int i = 0; i < name_count; i++) {
		must(names[i].inode >= (int)HERE || kept || refused || !strcmp(names[i].path, here[names[i].inode]), "what was here isn't where it was");
		if (names[i].inode < (int)HERE)
			found[names[i].inode]++;
		else
			others += names[i].inode != stranger;
	}
	for (size_t i = 0; i < HERE; i++)
		must(found[i] || !strcmp(here[i], strange) || (kept && is_agreed(here[i])), "what was here is lost");
	for (size_t i = 0; i < HERE; i++)
		must(is_agreed(here[i]) || !strcmp(here[i], strange) || (find(here[i]) && find(here[i])->inode == (int)i), "what nobody has agreed to is moved");
	must(!stranger || (find(strange) && find(strange)->inode == stranger), "a stranger's file is lost");
	must(!others || kept || refused || stranger, "something is left of a move that has failed");
}

/* ---- what is said ---- */

static const struct { const char *name; uint32_t kind; } kinds[] = {
	{ "directory", FILE_DIRECTORY }, { "head", FILE_HEAD }, { "data", FILE_DATA }, { "zero", FILE_ZERO }, { "tail", FILE_TAIL },
	{ "attribute", FILE_ATTRIBUTE }, { "done", FILE_DONE }, { "end", PHAUL_NOTE_FILES_END },
};
static size_t at;

int phaul_note_receive(struct phaul_channel *ch, uint32_t *ret_kind, void *buffer, size_t capacity, size_t *ret_size, int timeout_ms,
		       struct phaul_error *err)
{
	(void)ch;
	(void)timeout_ms;
	(void)err;
	while (at < kernel_input->count) {
		const struct part *p = &kernel_input->at[at++];

		if (!strcmp(p->name, "stranger"))
			come(p);
		for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
			if (strcmp(p->name, kinds[i].name) || p->size > capacity)
				continue;
			*ret_kind = kinds[i].kind;
			*ret_size = p->size;
			if (p->size)
				memcpy(buffer, p->bytes, p->size);
			return 0;
		}
	}
	return -ETIMEDOUT;
}

static void begin(void)
{
	name_count = inode_count = 0;
	for (size_t i = 0; i < HERE; i++)
		make(here[i], i < DIRECTORIES, true);
	stranger = 0;
	*strange = 0;
	at = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	struct phaul_received_files *files;
	struct phaul_error err;
	bool kept = false;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	begin();
	if (parts_find(&parts, "log")) {
		(void)tell(phaul_received_files_settle(LOG, 0, &err), &err);
	} else if (!tell(phaul_received_files_open(agreed, sizeof(agreed), LOG, &files, &err), &err)) {
		while (at < parts.count && !tell(phaul_received_files_receive(files, NULL, &err), &err))
			kept = at == parts.count && parts_find(&parts, "keep");
		if (kept)
			phaul_received_files_keep(files);
		phaul_received_files_close(files);
		check(kept);
	}
	kernel_end();
	return 0;
}
