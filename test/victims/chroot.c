/* chroot.c - another root directory, a current one in it, and files of inside and outside. All in a directory beside the report. */
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "victim.h"

/* The report lies outside: it is written by its directory, which stays open. */
static int report_at = -1;

static void say(const char *line)
{
	int fd = openat(report_at, strrchr(victim_path, '/') + 1, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		abort();
	close(fd);
}

static void must(int holds, const char *what)
{
	char line[256];

	if (holds)
		return;
	snprintf(line, sizeof(line), "failed: %s (%s)\n", what, strerror(errno));
	say(line);
	exit(1);
}

#define MUST(condition) must(!!(condition), #condition)

static int has_file(const char *name, const char *content)
{
	char got[64] = "";
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof(got) - 1);

	close(fd);
	return n == (ssize_t)strlen(content) && !strcmp(got, content);
}

static void put_file(const char *name, const char *content)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	victim_check(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
	close(fd);
}

int main(int argc, char **argv)
{
	char place[PATH_MAX], cwd[PATH_MAX];
	struct stat before, now;
	int inside;

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s", victim_path);
	*strrchr(place, '/') = 0;
	report_at = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(place, sizeof(place), "%s.files", victim_path);
	victim_check(report_at >= 0 && mkdir(place, 0755) == 0 && chdir(place) == 0);
	victim_check(mkdir("root", 0755) == 0 && mkdir("root/sub", 0755) == 0);
	put_file("root/file", "inside");
	put_file("root/sub/file", "in the current directory");
	victim_check(chroot("root") == 0 && chdir("/sub") == 0);
	inside = open("/file", O_RDONLY | O_CLOEXEC);
	victim_check(inside >= 0 && stat("/", &before) == 0);

	say("ready\n");
	while (victim_tick())
		usleep(1000);

	MUST(stat("/", &now) == 0 && now.st_ino == before.st_ino && now.st_dev == before.st_dev);
	MUST(getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/sub"));
	MUST(has_file("/file", "inside") && has_file("file", "in the current directory"));
	MUST(stat("/..", &now) == 0 && now.st_ino == before.st_ino && access("/proc", F_OK));
	MUST(read(inside, cwd, sizeof(cwd)) == 6 && !memcmp(cwd, "inside", 6));
	say("ok\n");
	return 0;
}
