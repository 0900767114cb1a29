/* ghosts.c - files in use whose name is gone: deleted, replaced by another, or with another name left; directories, a
 * FIFO, a symbolic link, what is mapped, the program itself, the current directory. All in a directory beside the report.
 */
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "victim.h"

#define HOLE (8 << 20)
#define MOST 32

static struct { int fd; char link[PATH_MAX]; struct stat st; } before[MOST];
static int known;

static int keep(int fd)
{
	char path[32];
	ssize_t n;

	victim_check(fd >= 0 && known < MOST);
	before[known].fd = fd;
	victim_check(fstat(fd, &before[known].st) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, before[known].link, PATH_MAX - 1);
	victim_check(n > 0);
	before[known].link[n] = 0;
	known++;
	return fd;
}

static void compare(int i)
{
	char link[PATH_MAX] = "";
	int fd = before[i].fd, was = known;
	struct stat *old = &before[i].st, *new;

	keep(fd);
	new = &before[was].st;
	strcpy(link, before[was].link);
	known = was;
	/* A file without a name has its inode's number instead. */
	if (!strstr(link, "/#") && strcmp(link, before[i].link))
		victim_fail("fd %d is %s, was %s", fd, link, before[i].link);
	if (new->st_nlink != old->st_nlink || new->st_size != old->st_size || new->st_mode != old->st_mode ||
	    new->st_uid != old->st_uid || (S_ISREG(new->st_mode) && new->st_mtime != old->st_mtime))
		victim_fail("fd %d (%s): nlink %ld (%ld), size %ld (%ld), mode %o (%o)", fd, link, (long)new->st_nlink,
			    (long)old->st_nlink, (long)new->st_size, (long)old->st_size, new->st_mode, old->st_mode);
}

static int file(const char *name, const char *content)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);

	victim_check(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
	return fd;
}

static void holds(int fd, off_t at, const char *content)
{
	char text[64] = "";

	if (pread(fd, text, strlen(content), at) != (ssize_t)strlen(content) || strcmp(text, content))
		victim_fail("fd %d has \"%s\" at %ld instead of \"%s\"", fd, text, (long)at, content);
}

/* Goes on as a copy of itself, which is then deleted. */
static void become_copy(char **argv)
{
	char *again[] = { argv[0], argv[1], "copied", NULL };
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), to = open("program", O_WRONLY | O_CREAT | O_EXCL, 0755);
	struct stat st;

	victim_check(from >= 0 && to >= 0 && fstat(from, &st) == 0 && sendfile(to, from, NULL, st.st_size) == st.st_size);
	close(to);
	execv("program", again);
	victim_fail("execv: %s", strerror(errno));
}

/* ---- that are open ---- */

static int gone, sparse, replaced, linked, nameless, fifo, here;

static void open_ghosts(void)
{
	gone = keep(file("gone", "gone"));
	victim_check(fchown(gone, 12, 34) == 0 && unlink("gone") == 0 && lseek(gone, 3, SEEK_SET) == 3);
	sparse = keep(file("sparse", "start"));
	victim_check(pwrite(sparse, "end", 3, HOLE) == 3 && unlink("sparse") == 0);
	replaced = keep(file("replaced", "old"));
	victim_check(close(file("new", "new")) == 0 && rename("new", "replaced") == 0);
	linked = keep(file("first", "linked"));
	victim_check(link("first", "second") == 0 && unlink("first") == 0);
	nameless = keep(open(".", O_TMPFILE | O_RDWR, 0600));
	victim_check(write(nameless, "nameless", 8) == 8);
	victim_check(mkfifo("fifo", 0600) == 0);
	fifo = keep(open("fifo", O_RDWR | O_NONBLOCK));
	victim_check(write(fifo, "in fifo", 7) == 7 && unlink("fifo") == 0);
	victim_check(symlink("nowhere", "symbolic") == 0);
	keep(open("symbolic", O_PATH | O_NOFOLLOW));
	victim_check(unlink("symbolic") == 0);
}

/* Into a directory, which goes. */
static void go_nowhere(void)
{
	victim_check(mkdir("here", 0700) == 0 && chdir("here") == 0);
	here = keep(open(".", O_RDONLY | O_DIRECTORY));
	victim_check(rmdir("../here") == 0);
}

/* As they are now that all names are gone. */
static void keep_again(void)
{
	int count = known;

	known = 0;
	for (int i = 0; i < count; i++)
		keep(before[i].fd);
}

static void check_ghosts(void)
{
	char text[16];
	struct stat st;

	victim_check(lseek(gone, 0, SEEK_CUR) == 3);
	holds(gone, 0, "gone");
	holds(sparse, 0, "start");
	holds(sparse, HOLE, "end");
	victim_check(fstat(sparse, &st) == 0 && st.st_blocks * 512 < HOLE / 2);
	holds(replaced, 0, "old");
	holds(linked, 0, "linked");
	holds(nameless, 0, "nameless");
	victim_check(read(fifo, text, sizeof(text)) == 7 && !memcmp(text, "in fifo", 7));
}

/* ---- that are mapped ---- */

static char *private, *shared;

static void map_ghost(void)
{
	int mapped = file("mapped", "mapped");

	victim_check(ftruncate(mapped, 8192) == 0);
	private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, mapped, 0);
	shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
	victim_check(private != MAP_FAILED && shared != MAP_FAILED && close(mapped) == 0 && unlink("mapped") == 0);
	memcpy(private + 4096, "private", 7);
	memcpy(shared + 6000, "shared", 6);
}

static void check_mapped(void)
{
	victim_check(!strcmp(private, "mapped") && !strcmp(private + 4096, "private"));
	victim_check(!strcmp(shared, "mapped") && !strcmp(shared + 6000, "shared") && !strcmp(private + 6000, ""));
}

/* ---- one that grows all the time: by memory in the first page, by write(2) behind it ---- */

static int growing;
static uint64_t written, *words;

static void begin_growing(void)
{
	growing = file("growing", "");
	victim_check(ftruncate(growing, 4096) == 0);
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, growing, 0);
	victim_check(words != MAP_FAILED && unlink("growing") == 0);
}

static void grow(void)
{
	words[written % 512] = written;
	victim_check(pwrite(growing, &written, 8, 4096 + 8 * written) == 8);
	written++;
}

static void check_growing(void)
{
	struct stat st;
	uint64_t word;

	for (uint64_t i = 0; i < written; i++)
		if (pread(growing, &word, 8, 4096 + 8 * i) != 8 || word != i || (i + 512 >= written && words[i % 512] != i))
			victim_fail("word %ld of the growing file is %ld (%ld)", (long)i, (long)word, (long)words[i % 512]);
	victim_check(fstat(growing, &st) == 0 && st.st_size == (off_t)(4096 + 8 * written) && st.st_nlink == 0);
}

/* ---- names ---- */

static void check_program(const char *place)
{
	char expected[PATH_MAX + 32], link[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", link, sizeof(link) - 1);

	snprintf(expected, sizeof(expected), "%s/program (deleted)", place);
	link[n > 0 ? n : 0] = 0;
	victim_check(!strcmp(link, expected));
}

static void check_names(const char *place)
{
	struct stat st, there;

	victim_check(stat(".", &st) == 0 && st.st_nlink == 0 && fstat(here, &there) == 0 && st.st_ino == there.st_ino);
	victim_check(chdir(place) == 0);
	victim_check(fstat(linked, &st) == 0 && stat("second", &there) == 0 && st.st_ino == there.st_ino);
	victim_check(open("replaced", O_RDONLY) >= 0 && access("gone", F_OK) && access("first", F_OK) && access("link_remap.1", F_OK));
}

int main(int argc, char **argv)
{
	char place[PATH_MAX];

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s.files", victim_path);
	victim_check((mkdir(place, 0700) == 0 || argc > 2) && chdir(place) == 0);
	if (argc < 3)
		become_copy(argv);
	victim_check(unlink("program") == 0);
	open_ghosts();
	map_ghost();
	begin_growing();
	go_nowhere();
	keep_again();

	victim_ready();
	while (victim_tick()) {
		grow();
		usleep(1000);
	}

	for (int i = 0; i < known; i++)
		compare(i);
	check_growing();
	check_program(place);
	check_ghosts();
	check_mapped();
	check_names(place);
	return victim_ok();
}
