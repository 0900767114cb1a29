/* descriptors_test.c - files, what is refused, and tables of any size. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "subject.h"

static void set_up_files(void)
{
	int fd;

	put_at(open("/dev/null", O_RDONLY), 0);
	snprintf(subject->path[0], sizeof(subject->path[0]), "%s/log", subject_directory);
	put_at(open(subject->path[0], O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600), 1);
	must(dup2(1, 2));
	must(write(1, "twelve bytes", 12));
	must(fd = open(subject->path[0], O_RDONLY | O_CLOEXEC));
	must(lseek(fd, 5, SEEK_SET));
	must(fcntl(fd, F_DUPFD_CLOEXEC, 40));
	must(fcntl(fd, F_DUPFD, 41));
	/* Not the same description, though all that shows of it is equal. */
	must(fd = open(subject->path[0], O_RDONLY));
	must(lseek(fd, 5, SEEK_SET));
	must(fd = open(subject_directory, O_RDONLY | O_DIRECTORY));
	must(syscall(SYS_getdents64, fd, (char[4096]){ 0 }, 4096));
	must(open("/dev/urandom", O_RDONLY | O_NONBLOCK));
	must(open("/dev/zero", O_RDWR));
	must(open("/dev/full", O_WRONLY | O_CLOEXEC));
}

static void files_come_back(void)
{
	pid_t pid = subject_start(set_up_files);
	char buffer[16] = "", *text = check_text(pid, 0);
	struct moved m;
	int fd;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move_subject(&m, pid, 0);
	expect(moved_after(&m, 1)->id == moved_after(&m, 2)->id);
	expect(moved_after(&m, 3)->id == moved_after(&m, 40)->id && moved_after(&m, 3)->id == moved_after(&m, 41)->id);
	expect(moved_after(&m, 3)->id != moved_after(&m, 4)->id);
	expect(moved_after(&m, 40)->cloexec && !moved_after(&m, 41)->cloexec);
	fd = moved_own(&m, 41);
	expect(read(fd, buffer, 15) == 7 && !strcmp(buffer, "e bytes"));
	close(fd);
	for (size_t i = 0; i < m.after.count; i++)
		expect(!strcmp(m.before.at[i].link, m.after.at[i].link));
	moved_forget(&m);
	subject_end(pid);
}

static void other_size_is_refused(void)
{
	pid_t pid = subject_start(set_up_files);
	struct phaul_error err = { 0 };
	struct moved m = { .pid = free_pid() };

	expect(moved_dump(&m, pid, 0, &err) == 0);
	expect(truncate(subject->path[0], 10) == 0);
	expect(moved_build(&m, 0, &err) == -ESTALE);
	if (!strstr(err.what, "has 10 bytes here, 12 on the source"))
		die("%s", err.what);
	moved_forget(&m);
	subject_end(pid);
}

/* A unix socket of the test itself, and one that is connected to it. */
static int listen_or_connect(int connects, pid_t test)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path + 1, 64, "phaul-descriptors-%d", test);
	must(connects ? connect(fd, (void *)&address, sizeof(address)) :
	     bind(fd, (void *)&address, sizeof(address)) ?: listen(fd, 1));
	return fd;
}

/* Received into a ring that is mapped. */
static int used_ring(void)
{
	struct tpacket_req ring = { .tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2 };
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = if_nametoindex("lo") };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	volatile unsigned long *status;

	must(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
	status = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(bind(fd, (void *)&at, sizeof(at)));
	while (!*status) {
		must(sendto(sender, "", 0, 0, (void *)&to, sizeof(to)));
		usleep(1000);
	}
	close(sender);
	return fd;
}

static int other_namespace(void)
{
	int own = open("/proc/self/ns/uts", O_RDONLY), other;

	must(unshare(CLONE_NEWUTS));
	other = open("/proc/self/ns/uts", O_RDONLY);
	must(setns(own, CLONE_NEWUTS));
	close(own);
	return other;
}

/* Of which nobody has a number any more. */
static int userfaultfd_on_its_way(void)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, c = 'x';
	struct iovec part = { &c, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int pair[2], fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);

	must(fd);
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	must(sendmsg(pair[0], &m, 0));
	close(fd);
	return pair[1];
}

static char slave_of_test[64];

static void set_up_refused_files(void)
{
	int fd;

	snprintf(subject->path[0], sizeof(subject->path[0]), "%s/first", subject_directory);
	snprintf(subject->path[1], sizeof(subject->path[1]), "%s/elsewhere", subject_directory);
	snprintf(subject->path[2], sizeof(subject->path[2]), "%s/elsewhere/second", subject_directory);
	put_at(open(subject->path[0], O_CREAT | O_RDWR, 0600), 10);
	must(mkdir(subject->path[1], 0700));
	must(link(subject->path[0], subject->path[2]));
	must(unlink(subject->path[0]));
	must(fcntl(10, F_DUPFD, 30));
	put_at(syscall(SYS_pidfd_open, getppid(), 0), 18);
	put_at(listen_or_connect(1, getppid()), 19);
	put_at(open(slave_of_test, O_RDWR | O_NOCTTY), 21);
	put_at(socket(AF_INET, SOCK_STREAM, 0), 23);
	must(fcntl(23, F_SETOWN, getppid()));
	fd = syscall(SYS_io_uring_setup, 4, (char[256]){ 0 });
	if (fd >= 0)
		put_at(fd, 24);
	put_at(other_namespace(), 25);
	put_at(used_ring(), 26);
	put_at(userfaultfd_on_its_way(), 28);
}

static void obstacles_are_named(void)
{
	int listener = listen_or_connect(0, getpid()), master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	int locked = !ptsname_r(master, slave_of_test, sizeof(slave_of_test)) ? unlockpt(master) : -1;
	pid_t pid = subject_start(set_up_refused_files);
	int accepted = accept(listener, NULL, NULL);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	char *text;

	expect(locked == 0);
	close(listener);
	text = check_text(pid, 0);
	expect_line(text, "FD_DELETED\tfd 10\tfd 10 (also fd 30) is ", "ln -L /proc/");
	expect_line(text, "FD_KIND\tfd 18\tfd 18 is a pidfd of pid", "stays on this host");
	expect_line(text, "FD_UNIX_SOCKET\tfd 19\tfd 19 is a unix socket without a name", "stays on this host");
	expect_line(text, "FD_TERMINAL\tfd 21\t", "setsid");
	expect_line(text, "FD_OWNER\tfd 23\t", "F_SETOWN");
	if (strstr(text, "fd 24"))
		expect_line(text, "FD_KIND\tfd 24\tfd 24 is an io_uring instance:", "");
	expect_line(text, "FD_NAMESPACE\tfd 25\tfd 25 is a handle of a namespace that the process is not in, uts:[", "stays on this host");
	expect_line(text, "FD_PACKET\tfd 26\tfd 26 is a packet socket that has received into its ring", "on the other host");
	expect_line(text, "FD_ON_ITS_WAY\tfd 28\tfd 28 is a unix socket in which a descriptor waits to be received that is a userfaultfd:", "");
	free(text);
	/* What came after the check is found in the freeze, and said just so. */
	expect(moved_dump(&m, pid, 0, &err) == -EOPNOTSUPP);
	expect(strstr(err.what, "can't be told from here"));
	image_set_free(m.images);
	descriptors_free(&m.before);
	(void)unlink(subject->path[2]);
	(void)rmdir(subject->path[1]);
	close(accepted);
	close(master);
	subject_end(pid);
}

static int how_many;

static void set_up_many(void)
{
	struct rlimit limit;

	must(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < how_many; i++)
		must(eventfd(i, i % 2 ? EFD_CLOEXEC : 0));
	for (int i = 0; i < how_many / 10; i++)
		must(dup2(i, how_many + 3 * i));
}

static void many_cost_little(int count)
{
	struct moved m;
	pid_t pid;

	how_many = count;
	pid = subject_start(set_up_many);
	move_subject(&m, pid, 0);
	for (int i = 0; i < count; i += 7)
		expect_fdinfo(&m, i, "eventfd-count:");
	printf("%zu descriptors: read and dumped in %.2f ms, built in %.2f ms\n", m.before.count,
	       m.dump_ns / 1e6, m.build_ns / 1e6);
	moved_forget(&m);
	subject_end(pid);
}

static void set_up_limited(void)
{
	struct rlimit limit = { 16, 16 };

	for (int i = 0; i < 16; i++)
		must(eventfd(i, 0));
	must(setrlimit(RLIMIT_NOFILE, &limit));
}

/* There is no number left for what we need while building. */
static void full_table_is_built(void)
{
	pid_t pid = subject_start(set_up_limited);
	struct rlimit limit;
	struct moved m;

	move_subject(&m, pid, 0);
	expect(!prlimit(m.pid, RLIMIT_NOFILE, NULL, &limit) && limit.rlim_cur > 16);
	moved_forget(&m);
	subject_end(pid);
}

static void set_up_sockets(void)
{
	for (int i = 0; i < 32; i++)
		must(socket(AF_INET, SOCK_STREAM | (i % 2 ? SOCK_CLOEXEC : 0), 0));
}

/* In the freeze all are open here, too: for that there may be no room. */
static void sockets_of_a_frozen_process(void)
{
	pid_t pid = subject_start(set_up_sockets);
	struct descriptor_table table;
	struct phaul_error err = { 0 };
	struct rlimit limit, less;

	expect(!getrlimit(RLIMIT_NOFILE, &limit));
	less = limit;
	less.rlim_cur = 16;
	expect(!setrlimit(RLIMIT_NOFILE, &less));
	expect(descriptors_read(pid, true, &table, &err) == -EMFILE && strstr(err.what, "ulimit -n"));
	expect(!setrlimit(RLIMIT_NOFILE, &limit));
	expect(!descriptors_read(pid, true, &table, &err) && table.count == 32);
	for (size_t i = 0; i < table.count; i++) {
		const struct descriptor *d = &table.at[i];

		expect(d->own >= 0 && d->family == AF_INET && d->kind && d->flags == O_RDWR && d->asks_cloexec);
	}
	descriptors_free(&table);
	subject_end(pid);
}

static void damaged_images_are_refused(void)
{
	FdinfoEntry number = FDINFO_ENTRY__INIT;
	struct moved m = { .pid = free_pid(), .images = image_set_new() };
	struct built_files none = { 0 };
	struct build build = { .pid = m.pid, .images = m.images, .files = &none, .table = m.pid };
	struct phaul_error err = { 0 };
	FileEntry file = FILE_ENTRY__INIT;
	uint32_t count;

	build.err = &err;
	number.id = 5;
	number.fd = 3;
	number.type = FD_TYPES__REG;
	expect(!image_put(m.images, "fdinfo", m.pid, &number.base));
	expect(descriptors_build(&build, &count) == -EPROTO);
	/* An entry without what its type promises. */
	file.id = 5;
	file.type = FD_TYPES__EVENTPOLL;
	expect(!image_put(m.images, "files", -1, &file.base));
	expect(moved_build(&m, 0, &err) == -EPROTO);
	moved_forget(&m);
}

int main(void)
{
	if (!subject_prepare())
		return 77;
	files_come_back();
	other_size_is_refused();
	obstacles_are_named();
	full_table_is_built();
	sockets_of_a_frozen_process();
	damaged_images_are_refused();
	many_cost_little(10);
	many_cost_little(1000);
	many_cost_little(10000);
	/* The names of refused_files, whichever of them are left. */
	for (const char *const *name =
		     (const char *[]){ "log", "replaced", "locked", "fifo", NULL };
	     *name; name++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", subject_directory, *name);
		unlink(path);
	}
	rmdir(subject_directory);
	return 0;
}
