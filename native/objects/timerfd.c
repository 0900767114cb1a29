/* timerfd.c - timers that are read. What is left of a period goes on; the time in between doesn't
 * count. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)

static bool is(const struct descriptor *d)
{
	return !strcmp(d->link, "anon_inode:[timerfd]");
}

/* "it_value: (1, 500000000)" */
static bool fdinfo_time(const char *fdinfo, const char *key, struct timespec *ret)
{
	const char *line = strstr(fdinfo, key);

	return line && sscanf(line + strlen(key), ": (%ld, %ld)", &ret->tv_sec, &ret->tv_nsec) == 2;
}

/* The time that is left, and how often it went off unread. A periodic timer that went off counts
 * further periods only when somebody looks, so look, and count with what is shown then. */
static int state(const struct descriptor *d, struct itimerspec *ret, uint64_t *ret_ticks)
{
	char path[64], text[1024] = "";
	struct descriptor now = *d;
	uint64_t flags;
	ssize_t got;
	int fd;

	if (timerfd_gettime(d->own, ret) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", d->own);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = 0;
	now.fdinfo = text;
	if (!fdinfo_number(&now, "ticks", 10, ret_ticks) ||
	    !fdinfo_number(&now, "settime flags", 8, &flags) ||
	    !fdinfo_time(text, "it_value", &ret->it_value) ||
	    !fdinfo_time(text, "it_interval", &ret->it_interval))
		return -EPROTO;
	/* It went off between the two looks. */
	if (!ret->it_value.tv_sec && !ret->it_value.tv_nsec && *ret_ticks)
		ret->it_value = ret->it_interval;
	return 0;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	TimerfdEntry timerfd = TIMERFD_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	uint64_t clock, flags;
	struct itimerspec left;
	int err = state(d, &left, &timerfd.ticks);

	if (err)
		return err;
	if (!fdinfo_number(d, "clockid", 10, &clock) ||
	    !fdinfo_number(d, "settime flags", 8, &flags))
		return -EPROTO;
	timerfd.id = d->id;
	timerfd.flags = d->flags;
	timerfd.fown = file_owner(d);
	timerfd.clockid = clock;
	timerfd.settime_flags = flags;
	timerfd.vsec = left.it_value.tv_sec;
	timerfd.vnsec = left.it_value.tv_nsec;
	timerfd.isec = left.it_interval.tv_sec;
	timerfd.insec = left.it_interval.tv_nsec;
	file.tfd = &timerfd;
	return file_put(dump, d, &file);
}

static int arm(int fd, const TimerfdEntry *image)
{
	struct itimerspec timer = {
		.it_value = { .tv_sec = image->vsec, .tv_nsec = image->vnsec },
		.it_interval = { .tv_sec = image->isec, .tv_nsec = image->insec },
	};
	uint64_t ticks = image->ticks;
	struct timespec now;

	/* An absolute time is shown as what is left until it, but the flag has to be kept. */
	if (image->settime_flags & TFD_TIMER_ABSTIME && (image->vsec || image->vnsec)) {
		if (clock_gettime(image->clockid, &now) < 0)
			return -errno;
		timer.it_value.tv_sec += now.tv_sec;
		timer.it_value.tv_nsec += now.tv_nsec;
		if (timer.it_value.tv_nsec >= 1000000000) {
			timer.it_value.tv_sec++;
			timer.it_value.tv_nsec -= 1000000000;
		}
	}
	if (timerfd_settime(fd, image->settime_flags, &timer, NULL) < 0)
		return -errno;
	return ticks && ioctl(fd, TFD_IOC_SET_TICKS, &ticks) < 0 ? -errno : 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const TimerfdEntry *image = file->tfd;
	int fd = timerfd_create(image->clockid, TFD_CLOEXEC);
	int err = fd < 0 ? -errno : arm(fd, image);

	if (err) {
		if (fd >= 0)
			close(fd);
		return err;
	}
	return file_set_flags(b, fd, image->flags);
}

const struct descriptor_kind timerfd_kind = {
	.name = "a timerfd",
	.asks = true,
	.is = is,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__TIMERFD,
};
