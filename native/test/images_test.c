/* images_test.c - images that are damaged on their way are read without harm, whatever they say: those of a process of ours,
 * with bits flipped, bytes set, cut and moved. PHAUL_FUZZ_ROUNDS=N for more of it than fits into a test.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ghosts.pb-c.h"
#include "ipc.pb-c.h"
#include "layout.h"
#include "locks.pb-c.h"
#include "memfd.pb-c.h"
#include "objects/inet_socket.h"
#include "objects/unix_socket.h"
#include "tty.pb-c.h"
#include "xstate.h"
#include "xstate_criu.h"

#define ROUNDS 20000
#define DAMAGES_MAX 6

static void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

/* One of each kind, so that all messages are there. */
static void become_subject(const char *directory)
{
	struct epoll_event event = { .events = EPOLLIN };
	int pair[2], pipes[2], epoll = epoll_create1(0), memfd = memfd_create("m", MFD_ALLOW_SEALING);

	must(!chdir(directory) && !pipe(pipes) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "subject");
	must(write(pipes[1], "pipe", 4) == 4 && write(pair[0], "socket", 6) == 6 && write(memfd, "memfd", 5) == 5, "subject");
	must(!epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) && eventfd(3, 0) >= 0, "subject");
	must(inotify_add_watch(inotify_init1(0), ".", IN_CREATE) >= 0, "subject");
	must(open("gone", O_RDWR | O_CREAT, 0600) >= 0 && !unlink("gone"), "subject");
	must(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "subject");
	must(open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0 && socket(AF_INET, SOCK_DGRAM, 0) >= 0, "subject");
	must(write(1, "", 1) == 1, "subject");
	for (;;)
		pause();
}

static void dump_subject(uint8_t **ret, size_t *size, pid_t *ret_pid)
{
	char directory[] = "/tmp/phaul-images.XXXXXX", command[64];
	struct image_set *set;
	struct phaul_checkpoint *checkpoint;
	struct phaul_dumped dumped;
	uint64_t frozen_ns;
	struct phaul_error err = { 0 };
	int ready[2], fd;
	pid_t pid;
	char c;

	must(mkdtemp(directory) && !pipe(ready), "preparing");
	fflush(NULL);
	pid = fork();
	if (!pid) {
		dup2(ready[1], 1);
		dup2(open("/dev/null", O_RDWR), 2);
		close_range(3, ~0u, 0);
		become_subject(directory);
	}
	must(pid > 0 && read(ready[0], &c, 1) == 1, "starting the subject");
	close(ready[0]);
	close(ready[1]);
	fd = open(directory, O_RDONLY | O_DIRECTORY);
	if (phaul_checkpoint_open(pid, fd, NULL, PHAUL_TO_DIRECTORY, NULL, 5000, &checkpoint, &err) ||
	    phaul_checkpoint_write(checkpoint, &dumped, &err) ||
	    phaul_checkpoint_close(checkpoint, PHAUL_KILL, &frozen_ns, &err) || image_set_load(fd, &set, &err) ||
	    image_set_pack(set, ret, size)) {
		printf("dumping the subject: %s\n", err.what);
		exit(1);
	}
	waitpid(pid, NULL, 0);
	image_set_free(set);
	close(fd);
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	must(!system(command), "removing the images");
	*ret_pid = pid;
}

static void damage(uint8_t *bytes, size_t *size)
{
	int count = 1 + rand() % DAMAGES_MAX;

	while (count--) {
		size_t at = rand() % *size, other = rand() % *size, length = rand() % 64;

		switch (rand() % 6) {
		case 0:
			bytes[at] ^= 1 << rand() % 8;
			break;
		case 1:
			bytes[at] = rand();
			break;
		case 2:
			bytes[at] = 0xff;
			break;
		case 3:
			if (at + length < *size && other + length < *size)
				memmove(bytes + at, bytes + other, length);
			break;
		case 4:
			memset(bytes + at, 0xff, *size - at < 10 ? *size - at : 10);
			break;
		case 5:
			if (!(rand() % 20) && *size > 100)
				*size -= rand() % 50;
			break;
		}
	}
}

static const struct { const char *name; int of_process; const ProtobufCMessageDescriptor *type; } kinds[] = {
	{ "inventory", 0, &inventory_entry__descriptor }, { "pstree", 0, &pstree_entry__descriptor },
	{ "core", 1, &core_entry__descriptor }, { "mm", 1, &mm_entry__descriptor }, { "fs", 1, &fs_entry__descriptor },
	{ "ids", 1, &task_kobj_ids_entry__descriptor }, { "fdinfo", 1, &fdinfo_entry__descriptor },
	{ "remap-fpath", 0, &remap_file_path_entry__descriptor }, { "filelocks", 0, &file_lock_entry__descriptor },
	{ "memfd", 0, &memfd_inode_entry__descriptor }, { "tty-info", 0, &tty_info_entry__descriptor },
	{ "tty-data", 0, &tty_data_entry__descriptor },
};

static int ignore(void *to, const SkPacketEntry *packet, const void *bytes)
{
	volatile uint8_t *last = to;

	if (packet->length)
		*last = ((const uint8_t *)bytes)[packet->length - 1];
	return 0;
}

static void read_registers(const struct image_set *set, pid_t pid)
{
	static uint8_t state[XSTATE_MAX];
	ProtobufCMessage **all;
	size_t count, size;

	if (image_read_all(set, "core", pid, &core_entry__descriptor, &all, &count))
		count = 0;
	for (size_t i = 0; i < count; i++) {
		const ThreadInfoX86 *info = ((CoreEntry *)all[i])->thread_info;

		if (info && info->has_phaul_xstate)
			(void)xstate_unpack(info->phaul_xstate.data, info->phaul_xstate.len, state, &size);
		if (info && info->fpregs)
			(void)xstate_from_criu(info->fpregs, state, &size);
	}
	image_free_all(count ? all : NULL, count);
}

/* Whether all of it was read as if nothing were wrong. */
static bool read_all(const struct image_set *set, pid_t pid)
{
	struct phaul_error err = { 0 };
	struct built_files files = { 0 };
	struct memory_map map = { 0 };
	struct range_list guards = { 0 };
	struct connection_pair *pairs = NULL;
	size_t count = 0;
	uint8_t last = 0;
	bool good = !built_files_read(set, &pid, 1, &files, &err);

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		ProtobufCMessage **all = NULL;

		good &= !image_read_all(set, kinds[i].name, kinds[i].of_process ? pid : -1, kinds[i].type, &all, &count);
		image_free_all(all, count);
	}
	good &= !layout_read_map(set, pid, files.count ? &files : NULL, &map);
	good &= !layout_read_guards(set, pid, &guards);
	good &= !unix_packets_each(set, ignore, &last);
	if (files.count)
		good &= !inet_connections_of_images(&files, &pairs, &count);
	read_registers(set, pid);
	free(pairs);
	memory_map_free(&map);
	range_list_free(&guards);
	built_files_free(&files);
	return good;
}

int main(void)
{
	const char *more = getenv("PHAUL_FUZZ_ROUNDS");
	long rounds = more ? atol(more) : ROUNDS, refused = 0;
	struct image_set *set;
	size_t whole, size;
	uint8_t *original, *bytes;
	pid_t pid;

	dump_subject(&original, &whole, &pid);
	must(!image_set_unpack(original, whole, &set, NULL) && read_all(set, pid), "reading undamaged images");
	image_set_free(set);
	for (long i = 0; i < rounds; i++) {
		/* Of their very size, so that a sanitizer sees a read too many. */
		bytes = malloc(whole);
		size = whole;
		memcpy(bytes, original, whole);
		damage(bytes, &size);
		bytes = realloc(bytes, size);
		if (image_set_unpack(bytes, size, &set, NULL)) {
			refused++;
		} else {
			refused += !read_all(set, pid);
			image_set_free(set);
		}
		free(bytes);
	}
	free(original);
	/* Most damage is to what can have any value; but not all of it. */
	if (refused < rounds / 20) {
		printf("%ld of %ld damaged images were refused\n", refused, rounds);
		return 1;
	}
	return 0;
}
