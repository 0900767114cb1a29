/* Files that come along: what another host may have written here, what is left of it when the move fails or the agent is killed, and
 * what isn't touched whatever that host says.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "../file_copy.h"

#define HERE "/tmp/phaul-files-test"	/* and the pid */
#define NOTES_MAX 32

enum end { CLOSE, KEEP, DIE };

static const uint8_t key[32] = "of this test....................";
static char here[64], log_name[128];
static int failures;

static struct { uint32_t kind; uint8_t bytes[5000]; size_t size; } notes[NOTES_MAX];
static size_t count;

static void say(uint32_t kind, const void *bytes, size_t size)
{
	notes[count].kind = kind;
	memcpy(notes[count].bytes, bytes, size);
	notes[count++].size = size;
}

static void say_head(uint32_t kind, const char *path, size_t length, uint64_t size)
{
	struct { struct file_head head; char path[FILE_PATH_MAX + 8]; } note = { .head = { .size = size, .mode = 0640, .uid = 1, .gid = 2, .modified_s = 77 } };

	memcpy(note.path, path, length);
	say(kind, &note, sizeof(note.head) + length);
}

static const char *at(const char *name)
{
	static char path[2][256];
	static int turn;

	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", here, name);
	return path[turn];
}

static void say_name(uint32_t kind, const char *name)
{
	say_head(kind, at(name), strlen(at(name)), 0);
}

static void say_data(uint64_t offset, const char *text)
{
	uint8_t bytes[64];

	memcpy(bytes, &offset, sizeof(offset));
	memcpy(bytes + sizeof(offset), text, strlen(text));
	say(FILE_DATA, bytes, sizeof(offset) + strlen(text));
}

static void say_attribute(const char *text, size_t size)
{
	say(FILE_ATTRIBUTE, text, size);
}

static void say_file(const char *name, const char *text)
{
	say_name(FILE_HEAD, name);
	say_data(0, text);
	say_head(FILE_TAIL, "", 0, strlen(text));
	say_attribute("user.of", 8);
	say(FILE_DONE, "", 0);
}

static void say_directory(const char *name)
{
	say_name(FILE_DIRECTORY, name);
	say_head(FILE_TAIL, "", 0, 0);
	say(FILE_DONE, "", 0);
}

/* ---- the other side, in a process that can be killed ---- */

static int receive(struct phaul_channel *ch, const char *agreed, enum end end)
{
	struct phaul_received_files *files;
	struct phaul_error err = {0};
	const char *list = at(agreed);
	int code = phaul_received_files_open(list, strlen(list) + 1, log_name, &files, &err) ?:
		   phaul_channel_accept(ch, 3000, &err) ?: phaul_received_files_receive(files, ch, &err);

	if (code)
		fprintf(stderr, "    %s\n", err.what);
	if (end == DIE)
		_exit(-code);
	if (end == KEEP)
		phaul_received_files_keep(files);
	phaul_received_files_close(files);
	phaul_channel_close(ch);
	exit(-code);
}

/* What was said is received, with leave to replace `agreed`. */
static void expect(const char *what, const char *agreed, enum end end, int want)
{
	struct phaul_channel *listening, *ch = NULL;
	struct phaul_error err = {0};
	int status;
	pid_t pid;

	fprintf(stderr, "%s\n", what);
	if (phaul_channel_listen("127.0.0.1", 0, key, 1, &listening, &err))
		exit(1);
	pid = fork();
	if (!pid)
		receive(listening, agreed, end);
	if (!phaul_channel_connect("127.0.0.1", phaul_channel_port(listening), key, 1, 3000, &ch, &err))
		for (size_t i = 0; i < count; i++)
			(void)phaul_note_send(ch, notes[i].kind, notes[i].bytes, notes[i].size, &err);
	if (ch)
		(void)phaul_note_send(ch, PHAUL_NOTE_FILES_END, NULL, 0, &err);
	waitpid(pid, &status, 0);
	if (ch)
		phaul_channel_close(ch);
	phaul_channel_close(listening);
	count = 0;
	if (WIFEXITED(status) && -WEXITSTATUS(status) == want)
		return;
	fprintf(stderr, "    status %x instead of %d\n", status, want);
	failures++;
}

/* ---- what is here ---- */

static void write_file(const char *name, const char *text)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		exit(1);
	close(fd);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "name=content " of all files, in their order; of a directory "name/". */
static void look(const char *what, const char *want)
{
	char *names[32], found[1024] = "", text[64];
	size_t n = 0;
	DIR *dir = opendir(here);
	struct dirent *d;

	while ((d = readdir(dir)))
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..") && n < 32)
			names[n++] = strdup(d->d_name);
	closedir(dir);
	qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++) {
		int fd = open(at(names[i]), O_RDONLY);
		ssize_t got = read(fd, text, sizeof(text) - 1);

		text[got > 0 ? got : 0] = 0;
		close(fd);
		sprintf(found + strlen(found), "%s%s%s ", names[i], got < 0 ? "/" : "=", text);
		free(names[i]);
	}
	if (strcmp(found, want)) {
		fprintf(stderr, "%s: there is %s\n        instead of %s\n", what, found, want);
		failures++;
	}
	if (strncmp(what, "killed", 6) && !access(log_name, F_OK)) {
		fprintf(stderr, "%s: the log is left\n", what);
		failures++;
	}
}

static void settle(const char *what, int keep, const char *want)
{
	struct phaul_error err = {0};

	if (phaul_received_files_settle(log_name, keep, &err) || phaul_received_files_settle(log_name, keep, &err)) {
		fprintf(stderr, "%s: %s\n", what, err.what);
		failures++;
	}
	look(what, want);
}

/* ---- tests ---- */

static void receives(void)
{
	struct stat st;
	char value[8];

	say_directory("new");
	say_file("new/file", "new");
	say_file("old", "replaced");
	expect("files of a move that fails", "old", CLOSE, 0);
	look("a move that fails", "old=here precious=mine ");
	say_directory("new");
	say_file("old", "replaced");
	say_file("new/file", "new");
	say_file("old", "in another pass");
	expect("files of a move", "old", KEEP, 0);
	look("a move", "new/ old=in another pass precious=mine ");
	if (stat(at("old"), &st) || st.st_mode != (S_IFREG | 0640) || st.st_uid != 1 || st.st_gid != 2 || st.st_mtime != 77 || st.st_nlink != 1 ||
	    getxattr(at("new/file"), "user.of", value, sizeof(value)) != 0) {
		fprintf(stderr, "mode %o, user %d, %d names, time %ld\n", st.st_mode, st.st_uid, (int)st.st_nlink, st.st_mtime);
		failures++;
	}
	unlink(at("new/file"));
	rmdir(at("new"));
	write_file("old", "here");
}

static void is_killed(void)
{
	say_directory("new");
	say_file("new/file", "new");
	say_file("old", "replaced");
	say_name(FILE_HEAD, "half");
	expect("an agent is killed", "old", DIE, -EPROTO);
	settle("killed before the commit", 0, "old=here precious=mine ");

	say_file("other", "new");
	say_file("old", "replaced");
	expect("another one is", "old", DIE, 0);
	settle("killed after it", 1, "old=replaced other=new precious=mine ");
	unlink(at("other"));
	write_file("old", "here");

	say_directory("new");
	say_file("other", "new");
	say_file("old", "replaced");
	expect("and one where others work", "old", DIE, 0);
	/* Made before, or it might get the same inode number, and the same birth within a tick. */
	write_file("theirs", "a stranger's");
	if (rename(at("theirs"), at("other")) < 0)
		abort();
	write_file("new/file", "a stranger's");
	settle("others have put something there", 0, "new/ old=here other=a stranger's precious=mine ");
	unlink(at("new/file"));
	rmdir(at("new"));
	unlink(at("other"));
}

static void lie(const char *what, int want)
{
	expect(what, "old", CLOSE, want);
	look(what, "old=here precious=mine ");
}

static void names_are_wrong(void)
{
	char path[256];

	say_file("precious", "not agreed");
	lie("a file that is here", -EEXIST);
	say_head(FILE_HEAD, path, sprintf(path, "%s/../%s/precious", here, strrchr(here, '/') + 1), 0);
	lie("a name by way of its parent", -EPROTO);
	say_head(FILE_HEAD, path, sprintf(path, "%s/./old", here), 0);
	lie("a name by way of itself", -EPROTO);
	say_head(FILE_HEAD, path, sprintf(path, "%s//old", here), 0);
	lie("a name with nothing in it", -EPROTO);
	say_head(FILE_HEAD, path, sprintf(path, "%s/old%cmore", here, 0), 0);
	lie("a name that ends early", -EPROTO);
	say_head(FILE_HEAD, "old", 3, 0);
	lie("a name without a place", -EPROTO);
	say_head(FILE_DIRECTORY, "/", 1, 0);
	lie("no name", -EPROTO);
	say_head(FILE_HEAD, "", 0, 0);
	lie("nothing", -EPROTO);
	say_head(FILE_DIRECTORY, "/sys/fs/cgroup/phaul-files-test", 31, 0);
	lie("a directory of the kernel's", -EPROTO);
	say_name(FILE_HEAD, "not/there");
	lie("a file in no directory", -ENOENT);
	say_name(FILE_DIRECTORY, "precious");
	say_data(0, "not agreed");
	lie("a file as a directory", -EPROTO);
}

static void order_is_wrong(void)
{
	struct file_range range = { 0, FILE_BLOCK + 1 };

	say_data(0, "of what?");
	lie("data of no file", -EPROTO);
	say_name(FILE_HEAD, "old");
	say_name(FILE_HEAD, "new");
	lie("a file in a file", -EPROTO);
	say_name(FILE_HEAD, "new");
	lie("an end within a file", -EPROTO);
	say_name(FILE_HEAD, "new");
	say(FILE_DONE, "", 0);
	lie("a file without an owner", -EPROTO);
	say_name(FILE_HEAD, "new");
	say_head(FILE_TAIL, "", 0, 1);
	say_data(0, "late");
	lie("data behind the owner", -EPROTO);
	say_name(FILE_HEAD, "new");
	say(FILE_ZERO, &range, sizeof(range));
	lie("too many zeros", -EPROTO);
	say_name(FILE_HEAD, "new");
	say_data(1ull << 63, "far away");
	lie("data beyond all files", -EINVAL);
	say_name(FILE_HEAD, "new");
	say_head(FILE_TAIL, "", 0, 1ull << 63);
	lie("a size beyond all files", -EINVAL);
}

static void attributes_are_wrong(void)
{
	static const struct { const char *bytes; size_t size; } wrong[] = {
		{ "user.without an end", 19 }, { "security.selinux\0label", 22 }, { "trusted.overlay.opaque\0y", 24 }, { "", 0 },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		say_name(FILE_HEAD, "new");
		say_head(FILE_TAIL, "", 0, 1);
		say_attribute(wrong[i].bytes, wrong[i].size);
		lie("an attribute that none may send", -EPROTO);
	}
}

int main(void)
{
	if (geteuid()) {
		puts("only root can give files away");
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	snprintf(here, sizeof(here), HERE ".%d", getpid());
	snprintf(log_name, sizeof(log_name), "%s.log", here);
	if (mkdir(here, 0700))
		return 1;
	write_file("old", "here");
	write_file("precious", "mine");
	receives();
	is_killed();
	names_are_wrong();
	order_is_wrong();
	attributes_are_wrong();
	unlink(at("old"));
	unlink(at("precious"));
	rmdir(here);
	return failures;
}
