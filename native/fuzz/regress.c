/* regress.c - SEEDS: what the fuzzers have found, or were written for, each by itself. Run under the sanitizers. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conversation.h"
#include "image.h"
#include "kernel.h"

#define INPUT_MAX (1 << 18)

static const char *seeds;
static struct phaul_error err;
static int failures;

static uint8_t *slurp(const char *fuzzer, const char *name, size_t *ret_size)
{
	char path[512];
	uint8_t *bytes = malloc(INPUT_MAX);
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "%s/%s/%s", seeds, fuzzer, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, bytes, INPUT_MAX);
	if (got < 0) {
		perror(path);
		exit(1);
	}
	close(fd);
	*ret_size = got;
	return bytes;
}

static void expect(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s: %d %s\n", what, err.code, err.what);
	failures++;
}

/* ---- one image of a seed is another ---- */

struct seed {
	uint8_t *bytes;
	struct parts parts;
	struct image_set *changed;
};

static void seed_open(struct seed *s, const char *name)
{
	size_t size;

	s->bytes = slurp("restore", name, &size);
	parts_read(s->bytes, size, &s->parts);
	s->changed = image_set_new();
}

static void seed_close(struct seed *s)
{
	image_set_free(s->changed);
	free(s->bytes);
}

/* "pagemap-" are those of processes, and not of memory that they share. */
static bool is_of(const char *name, const char *base)
{
	size_t size = strlen(base);

	return !strncmp(name, base, size) && (base[size - 1] != '-' || isdigit((unsigned char)name[size]));
}

static const struct part *part_of(const struct seed *s, const char *base)
{
	for (size_t i = 0; i < s->parts.count; i++)
		if (is_of(s->parts.at[i].name, base))
			return &s->parts.at[i];
	fprintf(stderr, "the seed has no %s\n", base);
	exit(1);
}

#define ALL SIZE_MAX

/* The first image of this base: `act` changes its entry `number`, counted from 0, or ALL. */
static void change(struct seed *s, const char *base, const ProtobufCMessageDescriptor *type, size_t number, void (*act)(void *message))
{
	const struct part *p = part_of(s, base);
	char name[PART_NAME_MAX], short_base[PART_NAME_MAX];
	struct image_reader r;
	ProtobufCMessage *m;

	snprintf(name, sizeof(name), "%s", p->name);
	snprintf(short_base, sizeof(short_base), "%.*s", (int)strcspn(base, "."), base);
	short_base[strlen(short_base) - (short_base[strlen(short_base) - 1] == '-')] = 0;
	if (image_read_bytes(short_base, p->bytes, p->size, &r))
		abort();
	for (size_t i = 0; image_next(&r, i || strcmp(short_base, "pagemap") ? type : &pagemap_head__descriptor, &m) == 1; i++) {
		if (i == number || number == ALL)
			act(m);
		(void)image_put(s->changed, short_base, -1, m);
		protobuf_c_message_free_unpacked(m, NULL);
	}
	(void)image_read(s->changed, short_base, -1, &r);
	parts_remove(&s->parts, name);
	parts_add(&s->parts, name, r.at - 8, image_left(&r) + 8);
}

static int restore(const struct seed *s)
{
	struct phaul_restore *r;
	int pid, code;

	kernel_begin(&s->parts);
	code = phaul_restore_open(KERNEL_DIRECTORY, 0, "", &r, &pid, &err);
	if (!code)
		phaul_restore_close(r);
	kernel_end();
	return code;
}

/* Is refused, and the error has both words. */
static void expect_refusal(const char *victim, const char *base, const ProtobufCMessageDescriptor *type, size_t number,
			   void (*act)(void *message), const char *file, const char *field)
{
	struct seed s;

	seed_open(&s, victim);
	change(&s, base, type, number, act);
	expect(restore(&s) == -EPROTO && strstr(err.what, file) && strstr(err.what, field), field);
	seed_close(&s);
}

static void wrong_thread(void *m)
{
	PstreeEntry *e = m;

	e->threads[e->n_threads - 1] = 1u << 31;
}

static void wrong_pid(void *m)
{
	((PstreeEntry *)m)->pid = ((PstreeEntry *)m)->threads[0] = -1;
}

static void wrong_pages(void *m)
{
	((PagemapEntry *)m)->nr_pages = 1ull << 60;
}

static void too_many_pages(void *m)
{
	((PagemapEntry *)m)->nr_pages = 1ull << 34;
}

static void wrong_address(void *m)
{
	((PagemapEntry *)m)->vaddr++;
}

static void wrong_vma(void *m)
{
	((MmEntry *)m)->vmas[2]->end = 1;
}

/* In the last 2 MiB of all addresses: who counts chunks of 2 MiB up to its end never gets there. */
static void wrong_vsyscall(void *m)
{
	MmEntry *e = m;

	e->vmas[e->n_vmas - 1]->status = 1 << 2;
	e->vmas[e->n_vmas - 1]->start = 0xfffffffffff00000;
	e->vmas[e->n_vmas - 1]->end = 0xfffffffffff01000;
}

static void wrong_file(void *m)
{
	((FileEntry *)m)->id = 1u << 31;
}

static void wrong_number(void *m)
{
	((FdinfoEntry *)m)->id = 4000;
}

static void wrong_groups(void *m)
{
	CredsEntry *creds = ((CoreEntry *)m)->thread_core->creds;

	creds->n_groups = 70000;
	creds->groups = realloc(creds->groups, creds->n_groups * sizeof(*creds->groups));
	memset(creds->groups, 1, creds->n_groups * sizeof(*creds->groups));
}

/* Each connection leads to itself. */
static void wrong_peer(void *m)
{
	UnixSkEntry *e = ((FileEntry *)m)->usk;

	if (e)
		e->peer = e->state == TCP_ESTABLISHED ? e->ino : 0;
}

/* A filter that leads to itself. */
static void wrong_filter(void *m)
{
	SeccompEntry *all = m;

	for (size_t i = 0; i < all->n_seccomp_filters; i++) {
		all->seccomp_filters[i]->has_prev = true;
		all->seccomp_filters[i]->prev = i;
	}
}

static void refuse_fields(void)
{
	expect_refusal("threads", "pstree.img", &pstree_entry__descriptor, 0, wrong_thread, "pstree.img", "2147483648 is no number of a thread");
	expect_refusal("tree", "pstree.img", &pstree_entry__descriptor, 1, wrong_pid, "pstree.img", "pid 4294967295");
	expect_refusal("tree", "pagemap-", &pagemap_entry__descriptor, 1, wrong_pages, "pagemap-", "nr_pages");
	expect_refusal("tree", "pagemap-", &pagemap_entry__descriptor, 2, too_many_pages, "pages-", "tells of 17179869185 pages");
	expect_refusal("tree", "pagemap-", &pagemap_entry__descriptor, 1, wrong_address, "pagemap-", "vaddr");
	expect_refusal("tree", "mm-", &mm_entry__descriptor, 0, wrong_vma, "mm-", "vmas[2]");
	expect_refusal("tree", "mm-", &mm_entry__descriptor, 0, wrong_vsyscall, "mm-", "vsyscall page");
	expect_refusal("tree", "files.img", &file_entry__descriptor, 0, wrong_file, "files.img", "id 2147483648");
	expect_refusal("unix_sockets", "files.img", &file_entry__descriptor, ALL, wrong_peer, "the unix socket", "finding the peer");
	expect_refusal("tree", "fdinfo-", &fdinfo_entry__descriptor, 0, wrong_number, "fdinfo-", "id 4000");
	expect_refusal("timers", "core-", &core_entry__descriptor, 0, wrong_groups, "core-", "creds");
	expect_refusal("seccomp.criu", "seccomp.img", &seccomp_entry__descriptor, 0, wrong_filter, "core-", "seccomp_filter");
}

/* ---- the order of a conversation ---- */

static void refuse_order(void)
{
	static struct parts said;
	size_t size;
	uint8_t *bytes = slurp("target", "tree", &size);

	parts_read(bytes, size, &said);
	expect(!converse(&said, &err), "a conversation as it should be");
	while (parts_find(&said, "layout"))
		parts_remove(&said, "layout");
	expect(converse(&said, &err) == -EPROTO && strstr(err.what, "before its memory"), "a state without memory");
	parts_read(bytes, size, &said);
	parts_add(&said, "layout", parts_find(&said, "layout")->bytes, parts_find(&said, "layout")->size);
	expect(converse(&said, &err) == -EPROTO && strstr(err.what, "after it had told its state"), "a layout behind the state");
	free(bytes);
}

/* ---- what /proc says ---- */

/* One that ends while it is looked at. */
static void state_is_missing(void)
{
	static struct parts parts;
	char status[64], text[4096];
	int32_t pid;
	size_t size;
	uint8_t *bytes = slurp("proc", "signals", &size);

	parts_read(bytes, size, &parts);
	memcpy(&pid, parts_find(&parts, "pid")->bytes, sizeof(pid));
	parts_remove(&parts, "status");
	parts_add(&parts, "status", status, snprintf(status, sizeof(status), "Name:\tshort\nTgid:\t%d\n", pid));
	kernel_begin(&parts);
	expect(phaul_check(pid, 0, text, sizeof(text), &err) > 0 && strstr(text, "PROCESS_KERNEL"), "a status without a state");
	kernel_end();
	free(bytes);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "regress SEEDS\n");
		return 2;
	}
	seeds = argv[1];
	refuse_fields();
	refuse_order();
	state_is_missing();
	return failures != 0;
}
