/* seeds.c - DIRECTORY VICTIMS: what the fuzzers begin with, made from processes of this machine. The programs in the directory
 * VICTIMS are dumped, moved to nobody while what is said is written down, and looked at in /proc; for each fuzzer a directory
 * of inputs comes into being in DIRECTORY. Needs root.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "file_copy.h"
#include "ghosts.pb-c.h"
#include "image.h"
#include "pages.h"
#include "parts.h"

#define PAGE 4096u
#define INPUT_MAX (1 << 17)
#define FILE_MAX (24 << 10)	/* larger ones are left out: an input that is large is changed where it means nothing */
#define NOTE_MAX (64 << 10)
#define FRAMES_MAX 6		/* of a round */
#define SMALL (30 << 10)		/* those of images */
#define SET_MAGIC 0x31746573u
#define FRAME_MAGIC 0x31676170u

static const char *const victims[] = {
	"credentials", "files", "ghosts", "inet_sockets", "memfd", "memory", "restarts", "seccomp", "signals", "sysv", "terminal",
	"threads", "timers", "tree", "unix_sockets", "watches",
};
static const uint8_t key[32] = "a key of thirty-two bytes......";
static struct phaul_error err;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", err.code ? err.what : strerror(errno));
	exit(1);
}

/* "DIRECTORY/FUZZER/NAME" */
static void write_input(const char *directory, const char *fuzzer, const char *name, const struct parts *parts)
{
	static uint8_t bytes[INPUT_MAX];
	size_t size = parts_write(parts, bytes, sizeof(bytes));
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, fuzzer);
	if (mkdir(path, 0755) && errno != EEXIST)
		die("making %s", path);
	snprintf(path, sizeof(path), "%s/%s/%s", directory, fuzzer, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (!size || fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		die("writing %s, %zu bytes", path, size);
	close(fd);
}

/* malloc'ed, and never freed: this program ends soon. */
static uint8_t *slurp(int directory, const char *name, size_t most, size_t *ret_size)
{
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes = malloc(most + 1);
	ssize_t got, size = 0;

	if (fd < 0 || !bytes)
		die("reading %s", name);
	while (size < (ssize_t)most && (got = read(fd, bytes + size, most - size)) > 0)
		size += got;
	close(fd);
	*ret_size = size;
	return bytes;
}

/* ---- victims ---- */

static pid_t start(const char *directory, const char *name, char report[64])
{
	static int number;
	char path[512];
	pid_t pid;

	snprintf(report, 64, "/tmp/phaul-seeds.%d/%s.%d", getpid(), name, ++number);
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setsid();
		dup2(open("/dev/null", O_RDWR), 0);
		dup2(0, 1);
		dup2(0, 2);
		close_range(3, ~0u, 0);
		execl(path, path, report, NULL);
		_exit(127);
	}
	for (int i = 0; access(report, F_OK); i++) {
		if (i == 10000)
			die("starting %s", path);
		usleep(1000);
	}
	usleep(20000);
	return pid;
}

/* With all its children, which are ours when their parents have ended. */
static void end(void)
{
	char path[64];
	int child;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	do {
		FILE *children = fopen(path, "re");

		while (children && fscanf(children, "%d", &child) == 1)
			(void)kill(child, SIGKILL);
		if (children)
			fclose(children);
	} while (waitpid(-1, NULL, 0) > 0);
}

/* ---- checkpoints ---- */

/* Two pages are as good as thousands. */
static void add_pagemap(struct parts *to, const char *name, const uint8_t *bytes, size_t size)
{
	const char *base = strstr(name, "shmem") ? "pagemap-shmem" : "pagemap";
	struct image_reader r;
	ProtobufCMessage *m;
	uint8_t *out = calloc(1, 512), *at = out + 8;
	uint32_t word;

	if (image_read_bytes(base, bytes, size, &r) || image_next(&r, &pagemap_head__descriptor, &m) != 1)
		die("reading %s", name);
	memcpy(out, bytes, 8);
	for (int i = 0; i < 3; i++) {
		PagemapEntry *e = (PagemapEntry *)m;

		if (i) {
			e->compat_nr_pages = 1;
			e->nr_pages = 1;
			e->has_phaul_sum = false;
		}
		word = protobuf_c_message_get_packed_size(m);
		memcpy(at, &word, sizeof(word));
		at += sizeof(word) + protobuf_c_message_pack(m, at + sizeof(word));
		if (image_next(&r, &pagemap_entry__descriptor, &m) != 1)
			break;
	}
	parts_add(to, name, out, at - out);
}

/* Without its sums, as criu's have none: whatever is changed would be found by them. */
static void add_inventory(struct parts *to, const char *name, const uint8_t *bytes, size_t size)
{
	struct image_reader r;
	ProtobufCMessage *m;
	InventoryEntry *e;
	uint8_t *out;
	uint32_t word;

	if (image_read_bytes("inventory", bytes, size, &r) || image_next(&r, &inventory_entry__descriptor, &m) != 1)
		die("reading %s", name);
	e = (InventoryEntry *)m;
	e->n_phaul_images = 0;
	e->has_phaul_sha256 = false;
	word = protobuf_c_message_get_packed_size(m);
	out = malloc(8 + word);
	memcpy(out, bytes, 4);
	memcpy(out + 4, &word, sizeof(word));
	parts_add(to, name, out, 8 + protobuf_c_message_pack(m, out + 8));
}

/* Of a large file no content: it is all a hole. */
static void add_ghost(struct parts *to, const char *name, const uint8_t *bytes, size_t size)
{
	struct image_reader r;
	ProtobufCMessage *m;

	if (size <= FILE_MAX) {
		parts_add(to, name, bytes, size);
		return;
	}
	if (image_read_bytes("ghost-file", bytes, size, &r) || image_next(&r, &ghost_file_entry__descriptor, &m) != 1)
		die("reading %s", name);
	parts_add(to, name, bytes, r.at - bytes);
}

/* For the kernel of the fuzzers: what files are. */
static void add_stat(struct parts *to, const struct image_set *set)
{
	ProtobufCMessage **entries;
	size_t count, size;
	char *text;
	FILE *lines = open_memstream(&text, &size);
	struct stat st;

	if (image_read_all(set, "files", -1, &file_entry__descriptor, &entries, &count))
		die("reading files.img");
	for (size_t i = 0; i < count; i++) {
		const RegFileEntry *reg = ((FileEntry *)entries[i])->reg;

		if (reg && !stat(reg->name, &st) && !S_ISREG(st.st_mode))
			fprintf(lines, "%o %ld %lx %s\n", st.st_mode, st.st_size, st.st_rdev, reg->name);
		else if (reg && (reg->has_size || reg->has_mode))
			fprintf(lines, "%o %lu 0 %s\n", reg->has_mode ? reg->mode : S_IFREG | 0644, (unsigned long)reg->size, reg->name);
	}
	fclose(lines);
	parts_add(to, "stat", text, size);
}

static void add_directory(struct parts *to, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = opendir(path);
	struct image_set *set;
	struct dirent *d;
	size_t size;

	if (fd < 0 || !dir || image_set_load(fd, &set, &err))
		die("reading %s", path);
	while ((d = readdir(dir))) {
		uint8_t *bytes;

		if (*d->d_name == '.')
			continue;
		bytes = slurp(fd, d->d_name, FILE_MAX + 1, &size);
		if (!strncmp(d->d_name, "pages-", 6))
			parts_add(to, d->d_name, calloc(2, PAGE), 2 * PAGE);
		else if (!strncmp(d->d_name, "pagemap", 7))
			add_pagemap(to, d->d_name, bytes, size);
		else if (!strncmp(d->d_name, "ghost-file-", 11))
			add_ghost(to, d->d_name, bytes, size);
		else if (!strcmp(d->d_name, "inventory.img"))
			add_inventory(to, d->d_name, bytes, size);
		else if (size <= FILE_MAX)
			parts_add(to, d->d_name, bytes, size);
	}
	closedir(dir);
	add_stat(to, set);
	close(fd);
}

/* The image of the set, which lives as long as this program, is the part of this name. */
static void replace(struct parts *to, const char *name, const struct image_set *set, const char *base, int64_t id)
{
	struct image_reader r;

	if (image_read(set, base, id, &r))
		die("reading %s again", name);
	parts_remove(to, name);
	parts_add(to, name, r.at - 8, image_left(&r) + 8);
}

/* As criu has it: the filters in an image of their own, of which each thread's last leads to those before. */
static void add_seccomp_of_criu(struct parts *to)
{
	SeccompEntry all = SECCOMP_ENTRY__INIT;
	struct image_set *set = image_set_new();
	struct image_reader r;
	ProtobufCMessage *m;
	const struct part *core = NULL;
	char name[PART_NAME_MAX];
	ThreadCoreEntry *thread;

	for (size_t i = 0; i < to->count && !core; i++)
		if (!strncmp(to->at[i].name, "core-", 5))
			core = &to->at[i];
	if (!core || image_read_bytes("core", core->bytes, core->size, &r) || image_next(&r, &core_entry__descriptor, &m) != 1)
		die("reading a core");
	thread = ((CoreEntry *)m)->thread_core;
	all.seccomp_filters = calloc(thread->n_phaul_filters, sizeof(*all.seccomp_filters));
	for (size_t i = 0; i < thread->n_phaul_filters; i++) {
		SeccompFilter *f = all.seccomp_filters[all.n_seccomp_filters++] = malloc(sizeof(*f));

		seccomp_filter__init(f);
		f->filter = thread->phaul_filters[i]->filter;
		f->has_prev = i;
		f->prev = i - 1;
	}
	thread->has_seccomp_filter = true;
	thread->seccomp_filter = thread->n_phaul_filters - 1;
	thread->n_phaul_filters = 0;
	(void)image_put(set, "seccomp", -1, &all.base);
	(void)image_put(set, "core", 1, m);
	snprintf(name, sizeof(name), "%s", core->name);
	replace(to, "seccomp.img", set, "seccomp", -1);
	replace(to, name, set, "core", 1);
}

/* The same as one set, small enough to be changed and read by the million. */
static void add_set(struct parts *to, const struct parts *files)
{
	uint32_t words[2] = { SET_MAGIC, 0 };
	uint8_t *bytes = malloc(INPUT_MAX), *at = bytes + sizeof(words);

	for (size_t i = 0; i < files->count; i++) {
		const struct part *p = &files->at[i];
		uint32_t sizes[2] = { strlen(p->name) - 4, p->size };

		if (!strncmp(p->name, "pages-", 6)) {
			parts_add(to, p->name, p->bytes, p->size);
			continue;
		}
		if (!strstr(p->name, ".img") || !strncmp(p->name, "ghost", 5) || at - bytes + p->size > INPUT_MAX / 2)
			continue;
		at = mempcpy(at, sizes, sizeof(sizes));
		at = mempcpy(at, p->name, sizes[0]);
		at = mempcpy(at, p->bytes, p->size);
		words[1]++;
	}
	memcpy(bytes, words, sizeof(words));
	parts_add(to, "set", bytes, at - bytes);
}

static size_t parts_size(const struct parts *parts)
{
	size_t size = 0;

	for (size_t i = 0; i < parts->count; i++)
		size += parts->at[i].size;
	return size;
}

static void dump(const char *to, const char *programs, const char *victim)
{
	const uint32_t flags = PHAUL_TO_DIRECTORY | PHAUL_FILE_LOCKS | PHAUL_LINK_REMAP | PHAUL_TCP_ESTABLISHED;
	char directory[] = "/tmp/phaul-seeds.XXXXXX", command[600], report[64];
	static struct parts parts, images;
	struct phaul_checkpoint *c;
	struct phaul_dumped dumped;
	uint64_t frozen_ns;
	pid_t pid = start(programs, victim, report);
	int fd = mkdtemp(directory) ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd < 0 || phaul_checkpoint_open(pid, fd, NULL, flags, "", 5000, &c, &err) || phaul_checkpoint_write(c, &dumped, &err) ||
	    phaul_checkpoint_close(c, PHAUL_KILL, &frozen_ns, &err))
		die("dumping %s", victim);
	end();
	parts.count = 0;
	add_directory(&parts, directory);
	write_input(to, "restore", victim, &parts);
	if (!strcmp(victim, "seccomp")) {
		add_seccomp_of_criu(&parts);
		write_input(to, "restore", "seccomp.criu", &parts);
	}
	images.count = 0;
	add_set(&images, &parts);
	if (parts_size(&images) <= SMALL)
		write_input(to, "images", victim, &images);
	snprintf(command, sizeof(command), "rm -rf %s; nft delete table inet phaul-%d 2>/dev/null; true", directory, pid);
	if (system(command))
		die("removing %s", directory);
	close(fd);
}

/* ---- packets ---- */

static void add_packets(struct parts *to)
{
	static const char addresses[] = "10.0.0.7/24@eth0 fd00::7/64@eth1";
	static const uint8_t packets[] = {
		40, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 7, 4, 0, 0, 80,
		0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
		60, 0, 0x60, 0, 0, 0, 0, 20, 6, 64, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
		0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1,
		0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
	};

	parts_add(to, "addresses", addresses, strlen(addresses));
	parts_add(to, "packets", packets, sizeof(packets));
}

/* ---- conversations ---- */

/* pages.h */
struct frame_head {
	uint32_t magic, round, extents, flags, data, wire;
	uint64_t owner;
};

struct record {
	struct phaul_channel *channel;
	pthread_mutex_t lock;
	struct parts parts;		/* the notes; frames are put between them afterwards */
	struct { struct frame_head head; struct page_extent *extents; } frames[1024];
	size_t frame_count;
};

static void *hear_pages(void *arg)
{
	struct record *r = arg;
	struct frame_head head;
	uint8_t *data = malloc(1 << 20);

	while (!stream_read(&r->channel->pages[0], &head, sizeof(head), -1)) {
		struct page_extent *extents = calloc(head.extents + 1, sizeof(*extents));

		if (stream_read(&r->channel->pages[0], extents, head.extents * sizeof(*extents), -1) ||
		    stream_read(&r->channel->pages[0], data, head.wire, -1))
			break;
		if (r->frame_count < 1024) {
			r->frames[r->frame_count].head = head;
			r->frames[r->frame_count++].extents = extents;
		}
	}
	free(data);
	return NULL;
}

static void *hear_notes(void *arg)
{
	static const char *const names[] = { "", "layout", "state", "threads", "packets" };
	struct record *r = arg;
	size_t capacity = 8 << 20, size;
	uint8_t *buffer = malloc(capacity), *bytes;
	uint32_t kind;

	while (!phaul_note_receive(r->channel, &kind, buffer, capacity, &size, 60000, NULL)) {
		if (!kind || kind > PHAUL_NOTE_PACKETS)
			break;
		bytes = malloc(size + 1);
		memcpy(bytes, buffer, size);
		parts_add(&r->parts, names[kind], bytes, size);
	}
	free(buffer);
	return NULL;
}

static void add_frames(const struct record *r, uint32_t round, struct parts *to)
{
	int count = 0;

	for (size_t i = 0; i < r->frame_count && count < FRAMES_MAX; i++) {
		const struct frame_head *head = &r->frames[i].head;
		uint32_t words[2] = { head->round, head->extents };
		size_t table = head->extents * sizeof(struct page_extent);
		uint8_t *bytes = malloc(16 + table);

		if (head->round != round || !head->extents)
			continue;
		memcpy(bytes, words, 8);
		memcpy(bytes + 8, &head->owner, 8);
		memcpy(bytes + 16, r->frames[i].extents, table);
		parts_add(to, "frames", bytes, 16 + table);
		count++;
	}
}

static void converse(struct phaul_source *src, struct phaul_channel *ch)
{
	struct phaul_round round;
	struct phaul_freeze freeze;
	uint64_t stop_ns;

	if (phaul_source_arm(src, &stop_ns, &err) || phaul_source_round(src, ch, &round, &err) ||
	    phaul_source_round(src, ch, &round, &err) || phaul_source_freeze(src, 5000, &freeze, &err) ||
	    phaul_source_final(src, ch, &freeze, &err) || phaul_note_send(ch, PHAUL_NOTE_USER, NULL, 0, &err))
		die("copying a process");
}

static void *accept_it(void *arg)
{
	if (phaul_channel_accept(arg, 10000, &err))
		die("accepting");
	return NULL;
}

static void record(struct record *r, pid_t pid)
{
	struct phaul_source *src;
	struct phaul_channel *ch;
	pthread_t accepting, pages, notes;

	if (phaul_channel_listen("127.0.0.1", 0, key, 1, &r->channel, &err))
		die("listening");
	pthread_create(&accepting, NULL, accept_it, r->channel);
	if (phaul_channel_connect("127.0.0.1", phaul_channel_port(r->channel), key, 1, 10000, &ch, &err) ||
	    phaul_source_open(pid, PHAUL_TCP_ESTABLISHED, "", "", &src, &err))
		die("connecting");
	pthread_join(accepting, NULL);
	pthread_create(&pages, NULL, hear_pages, r);
	pthread_create(&notes, NULL, hear_notes, r);
	converse(src, ch);
	pthread_join(notes, NULL);
	phaul_source_close(src);
	phaul_channel_close(ch);
	pthread_join(pages, NULL);
	phaul_channel_close(r->channel);
}

static void move(const char *to, const char *programs, const char *victim)
{
	static struct parts parts;
	struct record *r = calloc(1, sizeof(*r));
	struct image_set *state;
	uint32_t round = 0;
	char report[64];
	pid_t pid = start(programs, victim, report), *own = malloc(sizeof(*own));

	record(r, pid);
	end();
	parts.count = 0;
	*own = pid;
	parts_add(&parts, "pid", own, sizeof(*own));
	if (!strcmp(victim, "timers"))
		add_packets(&parts);
	for (size_t i = 0; i < r->parts.count; i++) {
		const struct part *p = &r->parts.at[i];

		if (p->size <= NOTE_MAX)
			parts_add(&parts, p->name, p->bytes, p->size);
		if (!strcmp(p->name, "layout"))
			add_frames(r, ++round, &parts);
		else if (!strcmp(p->name, "state") && !image_set_unpack(p->bytes, p->size, &state, &err))
			add_stat(&parts, state);
	}
	write_input(to, "target", victim, &parts);
}

/* ---- what a stream carries ---- */

static uint8_t *put_frame(uint8_t *at, uint32_t round, bool packed, bool zero)
{
	struct page_extent extent = { 0x400000, 2, zero ? PAGE_EXTENT_ZERO : 0 };
	struct frame_head head = { FRAME_MAGIC, round, 1, packed ? 2 : 0, zero ? 0 : 2 * PAGE, zero ? 0 : 2 * PAGE, 4242 };
	static char pages[2 * PAGE], data[3 * PAGE];

	memset(pages, 'x', sizeof(pages));
	if (packed)
		head.wire = LZ4_compress_default(pages, data, sizeof(pages), sizeof(data));
	else
		memcpy(data, pages, sizeof(pages));
	at = mempcpy(at, &head, sizeof(head));
	at = mempcpy(at, &extent, sizeof(extent));
	return mempcpy(at, data, head.wire);
}

static void make_streams(const char *to)
{
	uint8_t *bytes = malloc(1 << 16), *at;
	static struct parts parts;
	uint32_t note[2] = { PHAUL_NOTE_USER, 3 };

	for (int kind = 0; kind < 4; kind++) {
		struct frame_head end_of_round = { FRAME_MAGIC, 1, 0, 1, 0, 0, 0 };
		char name[16];

		at = kind == 3 ? mempcpy(mempcpy(bytes, note, sizeof(note)), "abc", 3) : put_frame(bytes, 1, kind == 1, kind == 2);
		if (kind < 3)
			at = mempcpy(at, &end_of_round, sizeof(end_of_round));
		snprintf(name, sizeof(name), "stream-%d", kind);
		parts.count = 0;
		parts_add(&parts, "wire", bytes, at - bytes);
		write_input(to, "stream", name, &parts);
	}
}

/* ---- /proc ---- */

static void look(const char *to, const char *programs, const char *victim)
{
	static const char *const names[] = { "maps", "smaps", "stat", "status", "timers", "mountinfo" };
	char path[300], report[64], name[64], *link;
	static struct parts parts;
	pid_t pid = start(programs, victim, report), *own = malloc(sizeof(*own));
	struct dirent *d;
	size_t size;
	DIR *dir;

	parts.count = 0;
	*own = pid;
	parts_add(&parts, "pid", own, sizeof(*own));
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		uint8_t *bytes;

		snprintf(path, sizeof(path), "/proc/%d/%s", strcmp(names[i], "mountinfo") ? pid : getpid(), names[i]);
		bytes = slurp(AT_FDCWD, path, 6000, &size);
		parts_add(&parts, names[i], bytes, size);
	}
	snprintf(name, sizeof(name), "task/%d", pid);
	parts_add(&parts, name, "", 0);
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", pid);
	dir = opendir(path);
	while (dir && (d = readdir(dir)) && parts.count < PARTS_MAX / 2) {
		uint8_t *bytes;

		if (*d->d_name == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, d->d_name);
		link = calloc(1, 512);
		if (readlink(path, link, 511) < 0)
			continue;
		snprintf(name, sizeof(name), "fd/%.32s", d->d_name);
		parts_add(&parts, name, link, strlen(link));
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, d->d_name);
		bytes = slurp(AT_FDCWD, path, 4000, &size);
		snprintf(name, sizeof(name), "fdinfo/%.32s", d->d_name);
		parts_add(&parts, name, bytes, size);
	}
	if (dir)
		closedir(dir);
	end();
	write_input(to, "proc", victim, &parts);
}

/* ---- connections by themselves ---- */

static size_t save_connection(uint8_t **ret)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = socket(AF_INET, SOCK_STREAM, 0), other;
	socklen_t size = sizeof(a);
	int64_t saved;

	if (bind(listener, (struct sockaddr *)&a, size) || listen(listener, 1) || getsockname(listener, (struct sockaddr *)&a, &size) ||
	    connect(one, (struct sockaddr *)&a, size) || (other = accept(listener, NULL, NULL)) < 0 || write(other, "to be read", 10) != 10)
		die("connecting a socket with itself");
	*ret = malloc(1 << 16);
	if (phaul_tcp_pause(one, &err) || (saved = phaul_tcp_save(one, *ret, 1 << 16, &err)) < 0)
		die("saving a connection");
	close(one);
	close(other);
	close(listener);
	return saved;
}

static void make_sockets(const char *to)
{
	uint8_t *connection;
	size_t size = save_connection(&connection);
	static struct parts parts;

	parts_add(&parts, "connection", connection, size);
	add_packets(&parts);
	write_input(to, "socket", "seed", &parts);
}

/* ---- files that come along ---- */

static void add_head(struct parts *parts, const char *name, const char *path, uint64_t size)
{
	const struct file_head head = { .size = size, .mode = 0640, .modified_s = 77 };
	uint8_t *bytes = malloc(sizeof(head) + strlen(path) + 1);

	memcpy(bytes, &head, sizeof(head));
	memcpy(bytes + sizeof(head), path, strlen(path));
	parts_add(parts, name, bytes, sizeof(head) + strlen(path));
}

static void add_file(struct parts *parts, const char *path)
{
	static const struct file_range hole = { 4096, FILE_BLOCK };

	add_head(parts, "head", path, 4096 + FILE_BLOCK);
	parts_add(parts, "data", "\0\0\0\0\0\0\0\0what is in it", 21);
	parts_add(parts, "zero", &hole, sizeof(hole));
	add_head(parts, "tail", "", 4096 + FILE_BLOCK);
	parts_add(parts, "attribute", "user.note\0text", 14);
	parts_add(parts, "done", "", 0);
}

/* The paths are those of files_fuzz.c. */
static void make_files(const char *to)
{
	static struct parts parts;

	add_head(&parts, "directory", "/srv/app/more", 0);
	add_head(&parts, "tail", "", 0);
	parts_add(&parts, "attribute", "system.posix_acl_default\0acl", 28);
	parts_add(&parts, "done", "", 0);
	add_file(&parts, "/srv/app/more/file");
	add_file(&parts, "/srv/app/old");
	parts_add(&parts, "end", "", 0);
	write_input(to, "files", "one_pass", &parts);
	add_file(&parts, "/srv/app/old");
	parts_add(&parts, "end", "", 0);
	write_input(to, "files", "two_passes", &parts);
	parts_add(&parts, "keep", "", 0);
	write_input(to, "files", "kept", &parts);
	parts_remove(&parts, "keep");
	parts_add(&parts, "stranger", "/srv/app/more/file", 18);
	add_file(&parts, "/srv/app/more/file");
	write_input(to, "files", "stranger", &parts);
	parts.count = 0;
	add_file(&parts, "/srv/app/precious");
	write_input(to, "files", "not_agreed", &parts);
	parts.count = 0;
	add_head(&parts, "head", "/srv/app/fresh", 0);
	parts_add(&parts, "stranger", "/srv/app/fresh", 14);
	add_head(&parts, "tail", "", 0);
	parts_add(&parts, "done", "", 0);
	write_input(to, "files", "at_once", &parts);
	parts.count = 0;
	parts_add(&parts, "log", "d 5 0 0 /srv/app/more\0\0t 0 0 0 /srv/app/x\0\0f 6 7 8 /srv/app/old\0/srv/app/.phaul\0", 83);
	write_input(to, "files", "log", &parts);
}

static void tidy(void)
{
	char command[64];

	end();
	snprintf(command, sizeof(command), "rm -rf /tmp/phaul-seeds.%d", getpid());
	if (system(command))
		perror("removing the victims' reports");
}

int main(int argc, char **argv)
{
	char directory[64];

	signal(SIGPIPE, SIG_IGN);
	if (argc != 3) {
		fprintf(stderr, "seeds DIRECTORY VICTIMS\n");
		return 2;
	}
	if (geteuid()) {
		puts("only root can look at processes as phaul does");
		return 77;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	snprintf(directory, sizeof(directory), "/tmp/phaul-seeds.%d", getpid());
	if (mkdir(directory, 0755))
		die("making %s", directory);
	atexit(tidy);
	for (size_t i = 0; i < sizeof(victims) / sizeof(*victims); i++) {
		dump(argv[1], argv[2], victims[i]);
		look(argv[1], argv[2], victims[i]);
		if (strcmp(victims[i], "ghosts") && strcmp(victims[i], "terminal") && strcmp(victims[i], "watches"))
			move(argv[1], argv[2], victims[i]);
	}
	make_streams(argv[1]);
	make_sockets(argv[1]);
	make_files(argv[1]);
	return 0;
}
