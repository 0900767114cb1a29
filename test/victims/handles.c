/* handles.c - REPORT: descriptors that lead to something without being open for reading it: its own namespaces, files, directories
 * and symbolic links by O_PATH.
 */
#include <errno.h>
#include <sched.h>
#include <sys/stat.h>

#include "victim.h"

static const char *const namespaces[] = { "net", "uts", "ipc", "mnt", "pid", "cgroup" };
#define NAMESPACES (sizeof(namespaces) / sizeof(*namespaces))

static void expect_link(const char *link, const char *expected)
{
	char text[512];
	ssize_t n = readlink(link, text, sizeof(text) - 1);

	text[n < 0 ? 0 : n] = 0;
	if (strcmp(text, expected))
		victim_fail("%s is %s, not %s", link, text, expected);
}

int main(int argc, char **argv)
{
	int own[NAMESPACES], file, directory, link, fd;
	char path[600], name[64], expected[512];
	ssize_t n;

	victim_begin(argc, argv);
	for (size_t i = 0; i < NAMESPACES; i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", namespaces[i]);
		own[i] = open(path, O_RDONLY);
		victim_check(own[i] >= 0);
	}
	snprintf(path, sizeof(path), "%s.file", argv[1]);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	victim_check(fd >= 0 && write(fd, "inside", 6) == 6 && close(fd) == 0);
	file = open(path, O_PATH);
	snprintf(path, sizeof(path), "%s.link", argv[1]);
	(void)unlink(path);
	victim_check(symlink("nowhere", path) == 0);
	link = open(path, O_PATH | O_NOFOLLOW);
	directory = open("/etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	victim_check(file >= 0 && directory >= 0);
	victim_ready();
	while (victim_tick())
		usleep(1000);

	for (size_t i = 0; i < NAMESPACES; i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", namespaces[i]);
		n = readlink(path, expected, sizeof(expected) - 1);
		victim_check(n > 0);
		expected[n] = 0;
		snprintf(name, sizeof(name), "/proc/self/fd/%d", own[i]);
		expect_link(name, expected);
		victim_check((fcntl(own[i], F_GETFL) & O_ACCMODE) == O_RDONLY);
	}
	victim_check(fcntl(file, F_GETFL) & O_PATH && read(file, path, 1) < 0 && errno == EBADF);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", file);
	fd = open(name, O_RDONLY);
	victim_check(fd >= 0 && read(fd, path, 7) == 6 && !memcmp(path, "inside", 6));
	victim_check(fcntl(directory, F_GETFD) == FD_CLOEXEC && openat(directory, "passwd", O_RDONLY) >= 0);
	victim_check(readlinkat(link, "", path, sizeof(path)) == 7 && !memcmp(path, "nowhere", 7));
	snprintf(path, sizeof(path), "%s.file", argv[1]);
	unlink(path);
	snprintf(path, sizeof(path), "%s.link", argv[1]);
	unlink(path);
	return victim_ok();
}
