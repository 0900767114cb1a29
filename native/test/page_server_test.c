/* A page server, and a dump that hears of the checkpoint before, believe nothing that the other side says. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../image_sink.h"
#include "../pages_before.h"

static const uint8_t key[32] = "of this test....................";

struct words {
	uint32_t kind;
	const char *bytes;
	size_t size;
};

#define SAY(kind, text) { kind, text, sizeof(text) - 1 }

/* What no dump says. */
static const struct words lies[][4] = {
	{ SAY(SINK_OPEN, "../escaped.img") },
	{ SAY(SINK_OPEN, "/tmp/phaul-escaped.img") },
	{ SAY(SINK_OPEN, "core-1.img/x") },
	{ SAY(SINK_OPEN, "core-1.img\0.img") },
	{ SAY(SINK_OPEN, "parent") },
	{ SAY(SINK_OPEN, "pages-1.img.img") },
	{ SAY(SINK_OPEN, "pages-.img") },
	{ SAY(SINK_OPEN, "") },
	{ SAY(SINK_WRITE, "to no file") },
	{ SAY(SINK_CLOSE, "") },
	{ SAY(SINK_BEGIN, "") },
	{ SAY(99, "") },
	{ SAY(SINK_OPEN, "pages-1.img"), SAY(SINK_OPEN, "pages-2.img") },
	{ SAY(SINK_OPEN, "pages-1.img"), SAY(SINK_END, "") },
};

struct server {
	struct phaul_channel *ch;
	int directory, ret;
};

static void *serve(void *arg)
{
	struct server *s = arg;
	struct phaul_error err = {0};
	uint64_t bytes;

	s->ret = phaul_channel_accept(s->ch, 3000, &err) ?: phaul_page_server(s->ch, s->directory, &bytes, &err);
	return NULL;
}

static int open_directory(char name[32])
{
	strcpy(name, "/tmp/phaul-server.XXXXXX");
	return mkdtemp(name) ? open(name, O_RDONLY | O_DIRECTORY) : -1;
}

static int remove_directory(const char *name, int fd)
{
	char command[64];

	close(fd);
	snprintf(command, sizeof(command), "rm -rf %s", name);
	return system(command);
}

static int talk(const struct words *words, size_t count, int want)
{
	char name[32];
	struct server s = { .directory = open_directory(name) };
	struct pages_elsewhere before = {0};
	struct phaul_channel *ch = NULL;
	struct phaul_error err = {0};
	pthread_t thread;
	int ret;

	if (s.directory < 0 || phaul_channel_listen("127.0.0.1", 0, key, 1, &s.ch, &err))
		return 1;
	pthread_create(&thread, NULL, serve, &s);
	ret = phaul_channel_connect("127.0.0.1", phaul_channel_port(s.ch), key, 1, 3000, &ch, &err) ?: pages_hear(&before, ch, &err);
	for (size_t i = 0; i < count && words[i].kind; i++)
		(void)phaul_note_send(ch, words[i].kind, words[i].bytes, words[i].size, &err);
	pthread_join(thread, NULL);
	phaul_channel_close(s.ch);
	if (ch)
		phaul_channel_close(ch);
	fprintf(stderr, "%u \"%s\": %d\n", words[0].kind, words[0].bytes, s.ret);
	return ret || before.count || s.ret != want || remove_directory(name, s.directory);
}

/* ---- the other way round ---- */

struct teller {
	struct phaul_channel *ch;
	const void *note;
	size_t size;
};

static void *tell(void *arg)
{
	const struct teller *t = arg;

	if (!phaul_channel_accept(t->ch, 3000, NULL) && !phaul_note_send(t->ch, SINK_BEFORE, t->note, t->size, NULL))
		(void)phaul_note_send(t->ch, SINK_BEGIN, NULL, 0, NULL);
	return NULL;
}

static int hears(struct digests_head head, size_t digests, int want)
{
	uint8_t note[sizeof(head) + 4 * PAGE_DIGEST_SIZE] = {0};
	struct teller t = { .note = note, .size = sizeof(head) + digests * PAGE_DIGEST_SIZE };
	struct pages_elsewhere before = {0};
	struct phaul_channel *ch = NULL;
	struct phaul_error err = {0};
	pthread_t thread;
	int ret;

	memcpy(note, &head, sizeof(head));
	if (phaul_channel_listen("127.0.0.1", 0, key, 1, &t.ch, &err))
		return 1;
	pthread_create(&thread, NULL, tell, &t);
	ret = phaul_channel_connect("127.0.0.1", phaul_channel_port(t.ch), key, 1, 3000, &ch, &err) ?: pages_hear(&before, ch, &err);
	pthread_join(thread, NULL);
	pages_elsewhere_free(&before);
	phaul_channel_close(ch);
	phaul_channel_close(t.ch);
	fprintf(stderr, "%llu pages with %zu digests: %d %s\n", (unsigned long long)head.pages, digests, ret, err.what);
	return ret != want;
}

int main(void)
{
	static const struct words truth[] = { SAY(SINK_OPEN, "pages-1.img"), SAY(SINK_WRITE, "page"), SAY(SINK_CLOSE, ""), SAY(SINK_END, "") };
	int bad = talk(truth, 4, 0);

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		bad |= talk(lies[i], 4, -EPROTO);
	bad |= !access("/tmp/escaped.img", F_OK) || !access("/tmp/phaul-escaped.img", F_OK);
	bad |= hears((struct digests_head){ "pagemap", 1, 4096, 2 }, 2, 0);
	bad |= hears((struct digests_head){ "pagemap", 1, 4096, 3 }, 2, -EPROTO);
	bad |= hears((struct digests_head){ "pagemap", 1, 4097, 2 }, 2, -EPROTO);
	bad |= hears((struct digests_head){ "pagemap", 1, 4096, 1ull << 60 }, 2, -EPROTO);
	bad |= hears((struct digests_head){ "pagemap-of-more.", 1, 4096, 2 }, 2, -EPROTO);
	return bad;
}
