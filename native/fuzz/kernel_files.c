/* kernel_files.c - descriptors, and what there is to be opened, read and written. */
#include "kernel_inside.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sanitizer/common_interface_defs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define FIRST_FD 10
#define FDS_MAX 1024
#define WATCHES_MAX 100
#define STAT_LINES_MAX 256

static struct file fds[FDS_MAX];
static int fds_open, terminals;

static bool apart;

int kernel_new_fd(const struct file *f, const void *opened_by)
{
	if (kernel_refuses())
		return -1;
	for (int i = 0; i < FDS_MAX; i++)
		if (!fds[i].open) {
			fds[i] = *f;
			fds[i].open = true;
			fds[i].apart = apart;
			fds[i].opened_by = opened_by;
			fds_open++;
			return FIRST_FD + i;
		}
	errno = EMFILE;
	return -1;
}

/* A thread has descriptors of its own, until it ends. */
int kernel_unshare(int flags)
{
	int ret = kernel_answer(0);

	apart = !ret && flags & CLONE_FILES;
	return ret;
}

void kernel_thread_ends(void)
{
	for (int i = 0; apart && i < FDS_MAX; i++)
		if (fds[i].open && fds[i].apart)
			kernel_close(FIRST_FD + i);
	apart = false;
}

struct file *kernel_file(int fd)
{
	struct file *f = fd >= FIRST_FD && fd < FIRST_FD + FDS_MAX ? &fds[fd - FIRST_FD] : NULL;

	if (f && f->open)
		return f;
	errno = EBADF;
	return NULL;
}

int kernel_close(int fd)
{
	struct file *f = kernel_file(fd);

	if (!f)
		return -1;
	f->open = false;
	fds_open--;
	return 0;
}

/* ---- what there is ---- */

static const char default_maps[] =
	"00400000-00402000 r-xp 00000000 00:01 9 /memfd:phaul-husk (deleted)\n"
	"7ffff7fb9000-7ffff7fbd000 r--p 00000000 00:00 0 [vvar]\n"
	"7ffff7fbd000-7ffff7fbf000 r--p 00000000 00:00 0 [vvar_vclock]\n"
	"7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0 [vdso]\n"
	"7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n";

static const char default_status[] =
	"Name:\thusk\nState:\tt (tracing stop)\nPPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n"
	"CapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n"
	"CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n";

static const struct { const char *name, *text; } defaults[] = {
	{ "maps", default_maps }, { "status", default_status }, { "oom_score_adj", "0\n" }, { "loginuid", "4294967295\n" },
	{ "timens_offsets", "monotonic 0 0\nboottime 0 0\n" }, { "boot_id", "01234567-89ab-cdef-0123-456789abcdef\n" },
	{ "cgroup", "0::/\n" },
};

static mode_t last_made;		/* what it is, until it is opened */
char kernel_next_id[16];

static struct { char *name; mode_t mode; uint64_t size; dev_t rdev; } known[STAT_LINES_MAX];
static size_t known_count;
static char known_text[1 << 16];

static void read_known(void)
{
	const struct part *p = parts_find(kernel_input, "stat");
	size_t size = p && p->size < sizeof(known_text) ? p->size : 0;
	char *line, *rest = known_text;

	known[0].name = "/dev/null";
	known[0].mode = S_IFCHR | 0666;
	known[0].rdev = makedev(1, 3);
	known_count = 1;
	if (size)
		memcpy(known_text, p->bytes, size);
	known_text[size] = 0;
	while ((line = strsep(&rest, "\n")) && known_count < STAT_LINES_MAX) {
		known[known_count].mode = strtoul(line, &line, 8);
		known[known_count].size = strtoull(line, &line, 10);
		known[known_count].rdev = strtoull(line, &line, 16);
		known[known_count++].name = *line ? line + 1 : line;
	}
}

/* "status" of "/proc/12/task/13/status". */
static const char *proc_name(const char *path)
{
	return !strncmp(path, "/proc/", 6) ? strrchr(path, '/') + 1 : NULL;
}

/* "fd/" of "/proc/12/fd", if the input has such. */
static bool is_proc_directory(const char *path, char ret[32])
{
	const char *name = proc_name(path);

	if (!name || (strcmp(name, "fd") && strcmp(name, "fdinfo") && strcmp(name, "task")))
		return false;
	snprintf(ret, 32, "%s/", name);
	return true;
}

static bool find_file(const char *path, struct file *ret)
{
	const char *name = proc_name(path);
	const struct file *own = name && strstr(path, "self/fdinfo/") ? kernel_file(atoi(name)) : NULL;
	char of_own[32] = "";
	const struct part *p;

	if (own)
		snprintf(of_own, sizeof(of_own), "fdinfo/%d", own->number);
	p = own ? parts_find(kernel_input, of_own) : name && strncmp(path, "/proc/4000000/", 14) ? parts_find(kernel_input, name) : NULL;
	*ret = (struct file){ .mode = S_IFREG | 0644 };
	if (p) {
		ret->bytes = p->bytes;
		ret->size = p->size;
		return true;
	}
	for (size_t i = 0; name && i < sizeof(defaults) / sizeof(*defaults); i++)
		if (!strcmp(name, defaults[i].name)) {
			ret->bytes = (const uint8_t *)defaults[i].text;
			ret->size = strlen(defaults[i].text);
			return true;
		}
	for (size_t i = 0; i < known_count; i++)
		if (!strcmp(path, known[i].name)) {
			ret->mode = known[i].mode;
			ret->size = known[i].size;
			ret->rdev = known[i].rdev;
			return true;
		}
	return false;
}

int kernel_open(const char *path, int flags, ...)
{
	int number = 0;
	struct file f;

	(void)flags;
	if (!strncmp(path, "/proc/", 6) && strstr(path, "/fd/")) {
		const struct file *other = kernel_file(atoi(strrchr(path, '/') + 1));

		return other ? kernel_new_fd(other, __builtin_return_address(0)) : NEW_FD(.mode = S_IFREG | 0644);
	}
	if (!find_file(path, &f) && is_proc_directory(path, f.below))
		f.mode = S_IFDIR | 0500;
	else if (last_made)
		f.mode = last_made;
	last_made = 0;
	if (!strcmp(path, "/dev/ptmx"))
		f.number = terminals++;
	else if (sscanf(path, "/dev/pts/%d", &number) == 1)
		f.number = number;
	return kernel_new_fd(&f, __builtin_return_address(0));
}

/* Of the directory of images, or one in it or below /proc: what the parts in it begin with. NULL: it is none. */
static const char *below(int directory)
{
	const struct file *f = directory < FIRST_FD ? NULL : kernel_file(directory);

	return directory == KERNEL_DIRECTORY ? "" : f && S_ISDIR(f->mode) ? f->below : NULL;
}

static bool any_below(const char *name)
{
	for (size_t i = 0; i < kernel_input->count; i++)
		if (!strncmp(kernel_input->at[i].name, name, strlen(name)) && kernel_input->at[i].name[strlen(name)] == '/')
			return true;
	return false;
}

int kernel_openat(int directory, const char *path, int flags, ...)
{
	const char *in = below(directory);
	struct file f = { .mode = S_IFREG | 0600 };
	char name[96];
	const struct part *p;

	if (!in)
		return kernel_open(path, flags);
	snprintf(name, sizeof(name), "%s%s", in, path);
	p = parts_find(kernel_input, name);
	if (p) {
		f.bytes = p->bytes;
		f.size = p->size;
	} else if (!strcmp(path, ".")) {
		f.mode = S_IFDIR;
		strcpy(f.below, in);
	} else if (any_below(name) && strlen(name) + 1 < sizeof(f.below)) {
		f.mode = S_IFDIR;
		snprintf(f.below, sizeof(f.below), "%.*s/", (int)sizeof(f.below) - 2, name);
	} else if (!(flags & O_CREAT)) {
		errno = ENOENT;
		return -1;
	}
	return kernel_new_fd(&f, __builtin_return_address(0));
}

int kernel_mknod(const char *path, mode_t mode, dev_t rdev)
{
	(void)path;
	(void)rdev;
	last_made = mode;
	return kernel_answer(0);
}

int kernel_mkdir(const char *path, mode_t mode)
{
	(void)path;
	(void)mode;
	return kernel_answer(0);
}

int kernel_symlink(const char *to, const char *path)
{
	(void)path;
	last_made = to ? S_IFLNK | 0777 : 0;
	return kernel_answer(0);
}

FILE *kernel_fopen(const char *path, const char *mode)
{
	struct file f;

	if (kernel_refuses())
		return NULL;
	if (*mode == 'w')
		*kernel_next_id = 0;
	if (*mode == 'w')
		return fmemopen(kernel_next_id, sizeof(kernel_next_id), "w");
	if (find_file(path, &f) && f.bytes && f.size)
		return fmemopen((void *)f.bytes, f.size, "r");
	errno = ENOENT;
	return NULL;
}

static int give_stat(const struct file *f, struct stat *ret)
{
	if (!f || kernel_refuses())
		return -1;
	*ret = (struct stat){
		.st_mode = f->mode, .st_size = f->size, .st_rdev = f->rdev, .st_nlink = 1, .st_ino = 7 + strlen(f->below), .st_dev = 7,
	};
	return 0;
}

int kernel_fstat(int fd, struct stat *ret)
{
	static const struct file directory = { .mode = S_IFDIR };

	return give_stat(fd == KERNEL_DIRECTORY ? &directory : kernel_file(fd), ret);
}

int kernel_stat(const char *path, struct stat *ret)
{
	struct file f;

	(void)find_file(path, &f);
	return give_stat(&f, ret);
}

int kernel_lstat(const char *path, struct stat *ret)
{
	struct file f;

	if (find_file(path, &f))
		return give_stat(&f, ret);
	errno = ENOENT;
	return -1;
}

int kernel_fstatat(int directory, const char *path, struct stat *ret, int flags)
{
	(void)directory;
	(void)flags;
	return kernel_stat(path, ret);
}

int kernel_statx(int directory, const char *path, int flags, unsigned int mask, struct statx *ret)
{
	(void)directory;
	(void)path;
	(void)flags;
	(void)mask;
	memset(ret, 0, sizeof(*ret));
	return kernel_answer(0);
}

int kernel_statfs(const char *path, struct statfs *ret)
{
	(void)path;
	memset(ret, 0, sizeof(*ret));
	return kernel_answer(0);
}

int kernel_fstatfs(int fd, struct statfs *ret)
{
	memset(ret, 0, sizeof(*ret));
	return kernel_file(fd) ? kernel_answer(0) : -1;
}

/* Of the directory all parts, of one below /proc those that begin with its name. */
struct listing {
	size_t at;
	int fd;
	char below[32];
	struct dirent entry;
};

DIR *kernel_fdopendir(int fd)
{
	const char *in = below(fd);
	struct listing *l = !in || kernel_refuses() ? NULL : calloc(1, sizeof(*l));

	if (l) {
		l->fd = fd;
		strcpy(l->below, in);
	}
	return (DIR *)l;
}

/* Nothing is in others than those of processes. */
DIR *kernel_opendir(const char *path)
{
	struct file f = { .mode = S_IFDIR, .below = "-" };
	int fd;
	DIR *dir;

	(void)is_proc_directory(path, f.below);
	fd = kernel_new_fd(&f, __builtin_return_address(0));
	dir = fd < 0 ? NULL : kernel_fdopendir(fd);
	if (!dir && fd >= 0)
		kernel_close(fd);
	return dir;
}

struct dirent *kernel_readdir(DIR *dir)
{
	struct listing *l = (struct listing *)dir;

	while (l->at < kernel_input->count) {
		const char *name = kernel_input->at[l->at++].name;

		if (strncmp(name, l->below, strlen(l->below)) || strchr(name + strlen(l->below), '/'))
			continue;
		snprintf(l->entry.d_name, sizeof(l->entry.d_name), "%s", name + strlen(l->below));
		return &l->entry;
	}
	return NULL;
}

int kernel_closedir(DIR *dir)
{
	struct listing *l = (struct listing *)dir;

	if (l->fd >= 0)
		kernel_close(l->fd);
	free(l);
	return 0;
}

int kernel_dirfd(DIR *dir)
{
	return ((struct listing *)dir)->fd;
}

/* A link's text is a part; one that leads to a directory of the input needs none. */
ssize_t kernel_readlinkat(int directory, const char *name, char *ret, size_t size)
{
	const char *in = below(directory);
	char whole[96];
	const struct part *p;

	snprintf(whole, sizeof(whole), "%s%s", in ?: "", name);
	p = parts_find(kernel_input, whole);
	errno = in ? ENOENT : EBADF;
	if (!in || (!p && !any_below(whole)) || kernel_refuses())
		return -1;
	size = p && p->size < size ? p->size : p ? size : 0;
	if (size)
		memcpy(ret, p->bytes, size);
	return size;
}

ssize_t kernel_readlink(const char *path, char *ret, size_t size)
{
	(void)path;
	return kernel_refuses() ? -1 : (ssize_t)strlen(strncpy(ret, "/link", size));
}

/* ---- reading and writing ---- */

ssize_t kernel_pread(int fd, void *to, size_t size, off_t at)
{
	const struct file *f = kernel_file(fd);
	size_t left = f && (uint64_t)at < f->size ? f->size - at : 0, n = size < left ? size : left;

	if (!f || kernel_refuses())
		return -1;
	if (f->bytes)
		memcpy(to, f->bytes + at, n);
	else
		memset(to, 0, n);
	return n;
}

ssize_t kernel_read(int fd, void *to, size_t size)
{
	struct file *f = kernel_file(fd);
	ssize_t n = f ? kernel_pread(fd, to, size, f->pos) : -1;

	if (n > 0)
		f->pos += n;
	return n;
}

ssize_t kernel_pwrite(int fd, const void *from, size_t size, off_t at)
{
	struct file *f = kernel_file(fd);

	(void)from;
	if (!f || kernel_refuses())
		return -1;
	if (at < 0 || size > INT64_MAX - (uint64_t)at) {
		errno = at < 0 ? EINVAL : EFBIG;
		return -1;
	}
	f->size = !f->bytes && at + size > f->size ? at + size : f->size;
	return size;
}

ssize_t kernel_write(int fd, const void *from, size_t size)
{
	struct file *f = kernel_file(fd);
	ssize_t n = f ? kernel_pwrite(fd, from, size, f->pos) : -1;

	if (n > 0)
		f->pos += n;
	return n;
}

off_t kernel_lseek(int fd, off_t at, int whence)
{
	struct file *f = kernel_file(fd);

	if (!f || kernel_refuses())
		return -1;
	if (at < 0 || whence != SEEK_SET) {
		errno = EINVAL;
		return -1;
	}
	f->pos = at;
	return at;
}

int kernel_ftruncate(int fd, off_t size)
{
	struct file *f = kernel_file(fd);

	if (!f || kernel_refuses())
		return -1;
	if (size < 0) {
		errno = EINVAL;
		return -1;
	}
	f->size = size;
	return 0;
}

int kernel_fcntl(int fd, int command, ...)
{
	struct file *f = kernel_file(fd);

	if (!f)
		return -1;
	if (command == F_DUPFD_CLOEXEC || command == F_DUPFD)
		return kernel_new_fd(f, __builtin_return_address(0));
	return kernel_answer(command == F_GETPIPE_SZ ? 65536 : 0);
}

int kernel_ioctl(int fd, unsigned long request, void *argument)
{
	struct file *f = kernel_file(fd);

	if (!f || kernel_refuses())
		return -1;
	if (request == TIOCGPTN)
		*(unsigned int *)argument = f->number;
	else if (request == FIONREAD)
		*(int *)argument = 0;
	else if (request == UFFDIO_COPY)
		((struct uffdio_copy *)argument)->copy = ((struct uffdio_copy *)argument)->len;
	return 0;
}

/* ---- what makes descriptors ---- */

MAKES_FD(epoll_create1) MAKES_FD(eventfd) MAKES_FD(fanotify_init) MAKES_FD(inotify_init1) MAKES_FD(timerfd_create) MAKES_FD(signalfd)
MAKES_FD(open_by_handle_at) MAKES_FD(fsopen) MAKES_FD(fsmount)
AGREES(fanotify_mark) AGREES(inotify_rm_watch) AGREES(timerfd_settime) AGREES(timerfd_gettime)

int kernel_memfd_create(const char *name, unsigned int flags)
{
	(void)flags;
	if (strlen(name) < 250)
		return NEW_FD(.mode = S_IFREG | 0777);
	errno = EINVAL;
	return -1;
}

int kernel_new_pair(int ret[2], const void *opened_by)
{
	ret[0] = kernel_new_fd(&(struct file){ .mode = S_IFSOCK }, opened_by);
	if (ret[0] < 0)
		return -1;
	ret[1] = kernel_new_fd(&(struct file){ .mode = S_IFSOCK }, opened_by);
	if (ret[1] >= 0)
		return 0;
	kernel_close(ret[0]);
	return -1;
}

int kernel_pipe2(int ret[2], int flags)
{
	(void)flags;
	return kernel_new_pair(ret, __builtin_return_address(0));
}

int kernel_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	struct file *f = kernel_file(fd);

	(void)path;
	(void)mask;
	if (!f || kernel_refuses())
		return -1;
	if (f->number < WATCHES_MAX)
		return ++f->number;
	errno = ENOSPC;
	return -1;
}


/* ---- all of it ---- */

void kernel_files_begin(void)
{
	terminals = 0;
	last_made = 0;
	*kernel_next_id = 0;
	read_known();
}

void kernel_files_end(void)
{
	char by[256];

	for (int i = 0; fds_open && i < FDS_MAX; i++) {
		if (!fds[i].open)
			continue;
		__sanitizer_symbolize_pc((void *)fds[i].opened_by, "%f %s:%l", by, sizeof(by));
		fprintf(stderr, "kernel: descriptor %d was left open, by %s\n", FIRST_FD + i, by);
		abort();
	}
}
