#include "subject.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../tree.h"

struct subject *subject;
char subject_directory[] = "/tmp/phaul-descriptors-XXXXXX";

bool subject_prepare(void)
{
	signal(SIGPIPE, SIG_IGN);
	if (geteuid()) {
		printf("needs root\n");
		return false;
	}
	subject = mmap(NULL, sizeof(*subject), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	expect(subject != MAP_FAILED && mkdtemp(subject_directory));
	return true;
}

pid_t subject_start(void (*set_up)(void))
{
	pid_t pid;

	memset(subject, 0, sizeof(*subject));
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "subject");
		close_range(0, ~0u, 0);
		set_up();
		subject->ready = 1;
		for (;;)
			pause();
	}
	for (int i = 0; !subject->ready && i < 5000; i++) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			die("the subject is dead");
		usleep(1000);
	}
	expect(subject->ready);
	return pid;
}

void subject_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int put_at(int fd, int number)
{
	must(fd);
	if (fd == number)
		return fd;
	must(dup2(fd, number));
	close(fd);
	return number;
}

void watch(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

char *check_text(pid_t pid, uint32_t flags)
{
	struct descriptor_table table;
	struct phaul_error err = { 0 };
	struct task task = { .pid = pid, .state = TASK_ALIVE };
	struct tree alone = { .tasks = &task, .count = 1 };
	struct check c = { .pid = pid, .flags = flags, .descriptors = &table, .tree = &alone, .capacity = 1 << 16 };

	c.text = calloc(1, c.capacity);
	if (descriptors_read(pid, false, &table, &err))
		die("%s", err.what);
	descriptors_check(&c);
	descriptors_free(&table);
	return c.text;
}

void expect_line(const char *text, const char *start, const char *part)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (!strncmp(line, start, strlen(start)) && strstr(line, part) &&
		    strstr(line, part) < line + strcspn(line, "\n"))
			return;
	}
	die("no line that begins with \"%s\" and says \"%s\" in:\n%s", start, part, text);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

pid_t free_pid(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid;
}

int moved_dump(struct moved *m, pid_t pid, uint32_t flags, struct phaul_error *err)
{
	struct dump dump = { .pid = pid, .ns_pid = m->pid, .flags = flags, .err = err,
			     .descriptors = &m->before };
	uint64_t start = now_ns();
	int code;

	m->images = dump.images = image_set_new();
	code = descriptors_read(pid, false, &m->before, err);
	if (!code)
		code = descriptors_dump(&dump);
	m->dump_ns = now_ns() - start;
	dump_free(&dump);
	return code;
}

int moved_build(struct moved *m, int reserve, struct phaul_error *err)
{
	struct built_files files = { 0 };
	struct build build = { .pid = m->pid, .images = m->images, .leader = &m->husk.leader,
			       .area = &m->area, .files = &files, .table = m->pid, .err = err };
	uint32_t count;
	uint64_t start;
	int code;

	errno = 0;
	code = husk_open(m->pid, "", &m->husk, err);
	if (code)
		return code;
	expect(remote_area_map(&m->husk.leader, 0, 1 << 18, &m->area) == 0);
	if (reserve)
		expect(descriptors_reserve(&build, reserve) == 0);
	start = now_ns();
	code = built_files_read(m->images, &m->pid, 1, &files, err);
	if (!code)
		code = descriptors_build(&build, &count);
	m->build_ns = now_ns() - start;
	built_files_free(&files);
	if (!code)
		expect(count == m->before.count);
	return code;
}

void compare_tables(const struct moved *m)
{
	expect(m->before.count == m->after.count);
	for (size_t i = 0; i < m->before.count; i++) {
		const struct descriptor *b = &m->before.at[i], *a = &m->after.at[i];

		if (b->fd != a->fd || b->cloexec != a->cloexec || b->flags != a->flags ||
		    b->pos != a->pos || b->id != a->id || (b->st.st_mode ^ a->st.st_mode) & S_IFMT)
			die("fd %d: cloexec %d flags %o pos %lu id %u became fd %d: cloexec %d "
			    "flags %o pos "
			    "%lu id %u",
			    b->fd, b->cloexec, b->flags, (unsigned long)b->pos, b->id, a->fd,
			    a->cloexec, a->flags, (unsigned long)a->pos, a->id);
	}
}

void move_subject(struct moved *m, pid_t pid, uint32_t flags)
{
	struct phaul_error err = { 0 };

	memset(m, 0, sizeof(*m));
	m->pid = free_pid();
	if (moved_dump(m, pid, flags, &err) || moved_build(m, 0, &err) ||
	    descriptors_read(m->pid, false, &m->after, &err))
		die("%s: %s", err.where, err.what);
	compare_tables(m);
}

int moved_own(const struct moved *m, int fd)
{
	int ours = syscall(SYS_pidfd_getfd, m->after.pidfd, fd, 0);

	if (ours < 0)
		die("fd %d can't be had: errno %d", fd, errno);
	return ours;
}

const struct descriptor *moved_after(const struct moved *m, int fd)
{
	for (size_t i = 0; i < m->after.count; i++)
		if (m->after.at[i].fd == fd)
			return &m->after.at[i];
	die("there is no fd %d", fd);
}

const struct descriptor *moved_before(const struct moved *m, int fd)
{
	for (size_t i = 0; i < m->before.count; i++)
		if (m->before.at[i].fd == fd)
			return &m->before.at[i];
	die("there was no fd %d", fd);
}

void moved_forget(struct moved *m)
{
	free(m->area.mirror);
	husk_close(&m->husk);
	image_set_free(m->images);
	descriptors_free(&m->before);
	descriptors_free(&m->after);
}

void expect_fdinfo(const struct moved *m, int fd, const char *key)
{
	const char *b = strstr(moved_before(m, fd)->fdinfo, key), *a = strstr(moved_after(m, fd)->fdinfo, key);

	if (!a || !b || strcspn(a, "\n") != strcspn(b, "\n") || strncmp(a, b, strcspn(a, "\n")))
		die("fd %d: was \"%.*s\", is \"%.*s\"", fd, b ? (int)strcspn(b, "\n") : 0, b,
		    a ? (int)strcspn(a, "\n") : 0, a);
}
