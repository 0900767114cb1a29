/* watches.c - inotify with numbers that have a gap, on a directory, a file and a deleted file; fanotify; a netlink socket that
 * listens for changes of links, and one with an answer of the kernel that nobody has read, which is lost with a move.
 */
#include <errno.h>
#include <limits.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "victim.h"

static int watching;

static int waiting(void)
{
	int bytes = -1;

	victim_check(ioctl(watching, FIONREAD, &bytes) == 0);
	return bytes;
}

static void expect(int wd, uint32_t mask)
{
	union { struct inotify_event event; char bytes[512]; } got;
	ssize_t n = read(watching, &got, sizeof(got));

	if (n < (ssize_t)sizeof(got.event) || got.event.wd != wd || !(got.event.mask & mask))
		victim_fail("event %x of watch %d (%s) instead of %x of %d", got.event.mask, got.event.wd, strerror(errno), mask, wd);
}

/* The kernel answers at once. */
static void ask(int netlink, uint32_t number)
{
	struct { struct nlmsghdr head; struct ifinfomsg link; } question = {
		.head = { .nlmsg_len = sizeof(question), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = number },
		.link = { .ifi_family = AF_UNSPEC, .ifi_index = 1 },
	};

	victim_check(send(netlink, &question, sizeof(question), 0) == sizeof(question));
}

static void hear(int netlink, uint32_t number)
{
	union { struct nlmsghdr head; char bytes[8192]; } answer = { .head.nlmsg_seq = ~number };
	ssize_t n = recv(netlink, &answer, sizeof(answer), MSG_DONTWAIT);

	if (n < (ssize_t)sizeof(answer.head) || answer.head.nlmsg_seq != number || answer.head.nlmsg_type != RTM_NEWLINK)
		victim_fail("netlink answers %u (type %u, %s) instead of %u", answer.head.nlmsg_seq, answer.head.nlmsg_type, strerror(errno), number);
}

int main(int argc, char **argv)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK }, now = { 0 };
	int directory, file, gone, deleted, marks, netlink, answers;
	socklen_t size = sizeof(now);
	char place[PATH_MAX];

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s.watched", victim_path);
	victim_check(mkdir(place, 0700) == 0 && chdir(place) == 0);
	close(open("file", O_RDWR | O_CREAT, 0600));
	deleted = open("deleted", O_RDWR | O_CREAT, 0600);
	watching = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	victim_check(watching >= 0 && deleted >= 0);
	directory = inotify_add_watch(watching, ".", IN_CREATE);
	victim_check(inotify_rm_watch(watching, inotify_add_watch(watching, place, IN_DELETE_SELF)) == 0);
	directory = inotify_add_watch(watching, ".", IN_CREATE);
	file = inotify_add_watch(watching, "file", IN_CLOSE_WRITE);
	gone = inotify_add_watch(watching, "deleted", IN_MODIFY);
	victim_check(directory > 0 && file > 0 && gone > 0 && unlink("deleted") == 0);
	while (waiting())
		victim_check(read(watching, place, sizeof(place)) > 0);
	marks = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
	victim_check(marks >= 0 && fanotify_mark(marks, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "file") == 0);
	netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	victim_check(netlink >= 0 && bind(netlink, (void *)&own, sizeof(own)) == 0);
	victim_check(getsockname(netlink, (void *)&own, &size) == 0);
	answers = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	ask(answers, 1);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	if (waiting())
		expect(-1, 0);
	close(open("new", O_RDWR | O_CREAT, 0600));
	expect(directory, IN_CREATE);
	victim_check(write(deleted, "x", 1) == 1);
	expect(gone, IN_MODIFY);
	close(open("file", O_RDWR));
	expect(file, IN_CLOSE_WRITE);
	victim_check(waiting() == 0);
	victim_check(read(marks, place, sizeof(place)) >= (ssize_t)sizeof(struct fanotify_event_metadata));
	victim_check(getsockname(netlink, (void *)&now, &size) == 0 && now.nl_pid == own.nl_pid && now.nl_groups == own.nl_groups);
	ask(answers, 2);
	hear(answers, 2);
	return victim_ok();
}
