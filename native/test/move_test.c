/* A process moves into another pid namespace and back out of the way: the whole engine in one program, the
 * target in a child with a pid namespace and a /proc of its own.
 *
 *	move_test [VICTIM ARGUMENTS...]		default: a few victims of build/victims
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../phaul.h"

enum { NOTE_APPLIED = PHAUL_NOTE_USER, NOTE_READY, NOTE_COMMIT, NOTE_RUNNING };

/* The target takes the source's kernel for another one. */
static bool other_kernel;

static const uint8_t key[32] = "a key of thirty-two bytes......";
static const char report[] = "/tmp/phaul-move-test.report";
static struct phaul_error err;

static void die(const char *doing)
{
	char text[512] = "";
	int fd = open(report, O_RDONLY);

	fprintf(stderr, "%s: %s: %s\n", doing, err.where, err.what);
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		fprintf(stderr, "the victim says: %s", text);
	exit(1);
}

static void must(int ret, const char *doing)
{
	if (ret < 0)
		die(doing);
}

static size_t hear(struct phaul_channel *ch, uint32_t *kind, uint8_t **bytes)
{
	static uint8_t *buffer;
	static size_t capacity;
	size_t size;
	int ret;

	do {
		ret = phaul_note_receive(ch, kind, buffer, capacity, &size, 20000, &err);
		if (ret == -ENOBUFS)
			buffer = realloc(buffer, capacity = size);
	} while (ret == -ENOBUFS);
	must(ret, "hearing");
	*bytes = buffer;
	return size;
}

/* The vdso's last bytes are unused. */
static void change_vdso(uint8_t *layout, size_t size)
{
	const uint8_t *vdso = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
	uint8_t *at = other_kernel ? memmem(layout, size, vdso, 4096) : NULL;

	if (at)
		at[2 * 4096 - 1] ^= 1;
}

static unsigned long vdso_of(pid_t pid)
{
	unsigned long at = 0;
	char line[512];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/maps", pid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]"))
			at = strtoul(line, NULL, 16);
	if (f)
		fclose(f);
	return at;
}

/* In the new pid namespace. */
static void target(pid_t pid, int port_fd)
{
	struct phaul_channel *ch;
	struct phaul_target *tgt;
	struct phaul_applied applied;
	struct phaul_built built;
	static char sums[1 << 20];
	char clocks[64] = "";
	int port;

	if (other_kernel)
		must(phaul_clocks(getpid(), clocks, sizeof(clocks) - 4, &err), "reading clocks");
	/* So that they are a time namespace's. */
	strcat(clocks, other_kernel ? " own" : "");

	must(phaul_channel_listen("127.0.0.1", 0, key, 2, &ch, &err), "listening");
	port = phaul_channel_port(ch);
	if (write(port_fd, &port, sizeof(port)) != sizeof(port))
		exit(1);
	must(phaul_channel_accept(ch, 10000, &err), "accepting");
	must(phaul_target_open(pid, 0, NULL, NULL, clocks, phaul_now_ns(), 0, &tgt, &err), "making a husk");
	must(phaul_target_receive(tgt, ch, &err), "receiving");
	for (;;) {
		uint8_t *bytes;
		uint32_t kind;
		size_t size = hear(ch, &kind, &bytes);

		if (kind == PHAUL_NOTE_LAYOUT) {
			change_vdso(bytes, size);
			must(phaul_target_round(tgt, ch, bytes, size, 20000, &applied, &err), "a round");
			must(phaul_target_checksum(tgt, sums, sizeof(sums), &err), "summing");
			must(phaul_note_send(ch, NOTE_APPLIED, sums, strlen(sums) + 1, &err), "telling");
		} else if (kind == PHAUL_NOTE_THREADS) {
			must(phaul_target_threads(tgt, bytes, size, &err), "building threads");
		} else if (kind == PHAUL_NOTE_STATE) {
			must(phaul_target_build(tgt, bytes, size, &built, &err), "building");
			must(phaul_note_send(ch, NOTE_READY, &built, sizeof(built), &err), "telling");
		} else {
			phaul_priority(PHAUL_PRIORITY_FREEZE);
			must(phaul_target_release(tgt, &err), "releasing");
			phaul_priority(PHAUL_PRIORITY_NORMAL);
			must(phaul_note_send(ch, NOTE_RUNNING, NULL, 0, &err), "telling");
			break;
		}
	}
	phaul_channel_close(ch);
	phaul_target_close(tgt);
}

/* Pid 1 there: ends when the moved process has. */
static pid_t start_target(pid_t pid, int *ret_port)
{
	unsigned long vdso = vdso_of(pid);
	int fds[2];
	pid_t child;

	if (pipe(fds))
		exit(1);
	child = fork();
	if (child == 0) {
		pid_t init;

		if (unshare(CLONE_NEWPID | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
			_exit(77);
		init = fork();
		if (init == 0) {
			pid_t agent;
			int status;

			if (mount("proc", "/proc", "proc", 0, NULL))
				_exit(77);
			agent = fork();
			if (agent == 0) {
				setsid();
				target(pid, fds[1]);
				_exit(0);
			}
			while (wait(&status) != agent)
				;
			if (status)
				_exit(1);
			fprintf(stderr, "arrived\n");
			if ((vdso_of(pid) != vdso) != other_kernel) {
				fprintf(stderr, "the vdso is at %lx, and was at %lx\n", vdso_of(pid), vdso);
				_exit(1);
			}
			kill(pid, SIGUSR2);
			usleep(100000);
			kill(pid, SIGTERM);
			while (wait(&status) > 0)
				;
			_exit(0);
		}
		waitpid(init, fds, 0);
		_exit(WIFEXITED(*fds) ? WEXITSTATUS(*fds) : 1);
	}
	close(fds[1]);
	if (read(fds[0], ret_port, sizeof(*ret_port)) != sizeof(*ret_port))
		exit(1);
	return child;
}

static pid_t start_victim(char **argv)
{
	pid_t pid;

	unlink(report);
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setsid();
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		close_range(3, ~0u, 0);
		execv(argv[0], argv);
		_exit(127);
	}
	while (access(report, F_OK))
		usleep(1000);
	usleep(20000);
	return pid;
}

static bool reported(const char *line)
{
	char text[4096] = "";
	int fd = open(report, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return false;
	close(fd);
	fputs(text, stderr);
	return strstr(text, line);
}

static int move(char **argv)
{
	pid_t pid = start_victim(argv), agent;
	struct phaul_channel *ch;
	struct phaul_source *src;
	struct phaul_round round;
	struct phaul_freeze freeze;
	uint64_t stop_ns, start_ns;
	static char sums[1 << 20], sums_there[1 << 20];
	uint8_t *bytes;
	uint32_t kind;
	int port, status;

	agent = start_target(pid, &port);
	must(phaul_source_open(pid, other_kernel ? PHAUL_OTHER_KERNEL : 0, NULL, NULL, &src, &err), "opening");
	must(phaul_source_track_by(src, getenv("PHAUL_TRACKER"), &err), "choosing a tracker");
	must(phaul_channel_connect("127.0.0.1", port, key, 2, 5000, &ch, &err), "connecting");
	must(phaul_source_arm(src, &stop_ns, &err), "arming");
	kill(pid, SIGUSR1);
	for (int i = 0; i < 3; i++) {
		must(phaul_source_round(src, ch, &round, &err), "a round");
		hear(ch, &kind, &bytes);
		fprintf(stderr, "round %u: %lu dirty, %lu sent, scan %.2f send %.2f ms\n", round.round,
			round.pages_dirty, round.pages_sent, round.scan_ns / 1e6, round.send_ns / 1e6);
	}
	phaul_priority(PHAUL_PRIORITY_FREEZE);
	must(phaul_source_freeze(src, 2000, &freeze, &err), "freezing");
	start_ns = freeze.frozen_at_ns;
	must(phaul_source_checksum(src, sums, sizeof(sums), &err), "summing");
	must(phaul_source_final(src, ch, &freeze, &err), "the last round");
	hear(ch, &kind, &bytes);
	snprintf(sums_there, sizeof(sums_there), "%s", (char *)bytes);
	hear(ch, &kind, &bytes);
	must(phaul_source_commit(src, &err), "committing");
	must(phaul_note_send(ch, NOTE_COMMIT, NULL, 0, &err), "telling");
	hear(ch, &kind, &bytes);
	start_ns = phaul_now_ns() - start_ns;
	phaul_priority(PHAUL_PRIORITY_NORMAL);
	must(phaul_source_kill(src, &err), "ending the original");
	fprintf(stderr, "stood still %.3f ms: stop %.3f scan %.3f send %.3f (%lu pages) dump %.3f\n",
		start_ns / 1e6, freeze.stop_ns / 1e6, freeze.scan_ns / 1e6, freeze.send_ns / 1e6,
		freeze.last.pages_sent, freeze.dump_ns / 1e6);
	phaul_channel_close(ch);
	phaul_source_close(src);
	waitpid(pid, &status, 0);
	waitpid(agent, &status, 0);
	if (status && WEXITSTATUS(status) != 77)
		return 1;
	if (WEXITSTATUS(status) == 77) {
		puts("skipped: no namespaces");
		return 77;
	}
	if (strcmp(sums, sums_there)) {
		fprintf(stderr, "memory differs:\n--- here\n%s--- there\n%s", sums, sums_there);
		return 1;
	}
	return reported("ok\n") ? 0 : 1;
}

int main(int argc, char **argv)
{
	char *writer[] = { "build/victims/static_writer", (char *)report, "16", "10000", "8", NULL };
	char *vdso[] = { "build/victims/vdso", (char *)report, NULL };
	char *churn[] = { "build/victims/churn", (char *)report, "32", NULL };
	int ret;

	signal(SIGPIPE, SIG_IGN);
	other_kernel = getenv("PHAUL_OTHER_KERNEL");
	if (argc > 1)
		return move(argv + 1);
	ret = move(writer) ?: move(churn);
	other_kernel = true;
	return ret ?: move(writer) ?: move(churn) ?: move(vdso);
}
