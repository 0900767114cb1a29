#include "port_holder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The inode of a socket that has the port and no peer. */
static unsigned long find_socket(const char *path, int wanted)
{
	char line[512];
	unsigned long ino, found = 0;
	unsigned int port, peer;
	FILE *file = fopen(path, "re");

	while (file && !found && fgets(line, sizeof(line), file))
		if (sscanf(line,
			   " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%x %*x %*x:%*x %*x:%*x %*x %*d "
			   "%*d %lu",
			   &port, &peer, &ino) == 3 &&
		    (int)port == wanted && !peer)
			found = ino;
	if (file)
		fclose(file);
	return found;
}

static int has_socket(const char *pid, const char *wanted)
{
	char path[300], link[64];
	struct dirent *entry;
	int found = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		link[length > 0 ? length : 0] = 0;
		found = !strcmp(link, wanted);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void name_of(const char *pid, char *ret, size_t size)
{
	char path[300], name[32] = "?";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	file = fopen(path, "re");
	if (file && fgets(name, sizeof(name), file))
		name[strcspn(name, "\n")] = 0;
	if (file)
		fclose(file);
	snprintf(ret, size, "pid %s (%s)", pid, name);
}

void port_holder(int type, int port, char *ret, size_t size)
{
	const char *protocol = type == SOCK_DGRAM ? "udp" : "tcp";
	char path[32], wanted[64];
	unsigned long ino = 0;
	struct dirent *entry;
	DIR *dir;

	snprintf(ret, size, "another process");
	for (int version = 0; version < 2 && !ino; version++) {
		snprintf(path, sizeof(path), "/proc/net/%s%s", protocol, version ? "6" : "");
		ino = find_socket(path, port);
	}
	if (!ino)
		return;
	snprintf(wanted, sizeof(wanted), "socket:[%lu]", ino);
	dir = opendir("/proc");
	while (dir && (entry = readdir(dir)))
		if (atoi(entry->d_name) > 0 && has_socket(entry->d_name, wanted)) {
			name_of(entry->d_name, ret, size);
			break;
		}
	if (dir)
		closedir(dir);
}
