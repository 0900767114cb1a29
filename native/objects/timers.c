/* timers.c - interval timers and POSIX timers. They are armed with what remained; signals that they send
 * before the process runs stay pending, as all are blocked until then.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

#define TIMERS_MAX 512		/* as many as the batch has room for */
#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77	/* Linux 6.15 */
#endif

struct answers {
	struct itimerval *interval[3];
	size_t count;
	struct timer {
		PosixTimerEntry entry;
		struct itimerspec *time;
		int overrun;		/* the call that asked for it */
	} timers[TIMERS_MAX];
};

static int read_timers(pid_t pid, char **ret)
{
	size_t capacity = 1 << 16, size = 0;
	char path[32], *text = malloc(capacity);
	ssize_t got = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/timers", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && text && size < capacity - 1 &&
	       (got = read(fd, text + size, capacity - 1 - size)) > 0)
		size += got;
	if (fd >= 0)
		close(fd);
	if (!text)
		return -ENOMEM;
	text[size] = 0;
	*ret = text;
	return 0;
}

/* "ID: 0\nsignal: 10/0000000000000000\nnotify: signal/pid.12\nClockID: 0\n" for each. */
static int parse(const char *text, struct answers *a)
{
	for (const char *at = text; *at; at = strchrnul(at, '\n'), at += *at == '\n') {
		PosixTimerEntry *e = &a->timers[a->count].entry;
		char how[16], whom[16];
		unsigned long long value;
		int id, signo, clock, owner;

		if (strncmp(at, "ID: ", 4))
			continue;
		if (a->count == TIMERS_MAX)
			return -ENOSPC;
		if (sscanf(at, "ID: %d signal: %d/%llx notify: %15[a-z]/%15[a-z].%d ClockID: %d", &id, &signo,
			   &value, how, whom, &owner, &clock) != 7)
			return -EPROTO;
		posix_timer_entry__init(e);
		e->it_id = id;
		e->clock_id = clock;
		e->si_signo = signo;
		e->sival_ptr = value;
		e->it_sigev_notify = !strcmp(how, "none") ? SIGEV_NONE : !strcmp(how, "thread") ?
				     SIGEV_THREAD : SIGEV_SIGNAL;
		if (!strcmp(whom, "tid")) {
			e->it_sigev_notify |= SIGEV_THREAD_ID;
			e->has_notify_thread_id = true;
			e->notify_thread_id = owner;
		}
		a->count++;
	}
	return 0;
}

static int ask(struct dump *d, struct batch *b, void **ret)
{
	struct answers *a = *ret = dump_alloc(d, sizeof(*a));
	char *text;
	int err = a ? read_timers(d->pid, &text) : -ENOMEM;

	if (err)
		return err;
	err = parse(text, a);
	free(text);
	for (int which = 0; which < 3; which++)
		batch_call(b, "tell an interval timer", SYS_getitimer, which,
			   batch_space(b, sizeof(struct itimerval), (void **)&a->interval[which]));
	for (size_t i = 0; i < a->count && !err; i++) {
		struct timer *t = &a->timers[i];

		batch_call(b, "tell a timer", SYS_timer_gettime, t->entry.it_id,
			   batch_space(b, sizeof(*t->time), (void **)&t->time));
		t->overrun = batch_call(b, NULL, SYS_timer_getoverrun, t->entry.it_id);
	}
	return err ? err : b->error;
}

static ItimerEntry *itimer_entry(struct dump *d, const struct itimerval *from)
{
	ItimerEntry *e = dump_alloc(d, sizeof(*e));

	if (!e)
		return NULL;
	itimer_entry__init(e);
	e->isec = from->it_interval.tv_sec;
	e->iusec = from->it_interval.tv_usec;
	e->vsec = from->it_value.tv_sec;
	e->vusec = from->it_value.tv_usec;
	return e;
}

static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	struct answers *a = answers;
	TaskTimersEntry *timers = dump_alloc(d, sizeof(*timers));
	PosixTimerEntry **posix = dump_alloc(d, (a->count + 1) * sizeof(*posix));

	if (!timers || !posix)
		return -ENOMEM;
	task_timers_entry__init(timers);
	timers->real = itimer_entry(d, a->interval[ITIMER_REAL]);
	timers->virt = itimer_entry(d, a->interval[ITIMER_VIRTUAL]);
	timers->prof = itimer_entry(d, a->interval[ITIMER_PROF]);
	for (size_t i = 0; i < a->count; i++) {
		struct timer *t = &a->timers[i];
		int64_t overrun = batch_result(b, t->overrun);

		t->entry.overrun = overrun > 0 ? overrun : 0;
		t->entry.isec = t->time->it_interval.tv_sec;
		t->entry.insec = t->time->it_interval.tv_nsec;
		t->entry.vsec = t->time->it_value.tv_sec;
		t->entry.vnsec = t->time->it_value.tv_nsec;
		posix[i] = &t->entry;
	}
	timers->n_posix = a->count;
	timers->posix = posix;
	core->tc->timers = timers;
	return timers->real && timers->virt && timers->prof ? 0 : -ENOMEM;
}

static void build_interval(struct batch *batch, int which, const ItimerEntry *from)
{
	struct itimerval value = {
		.it_interval = { from->isec, from->iusec }, .it_value = { from->vsec, from->vusec },
	};

	if (from->vsec || from->vusec)
		batch_call(batch, "set an interval timer", SYS_setitimer, which,
			   batch_bytes(batch, &value, sizeof(value)), 0);
}

static void build_posix(struct batch *batch, const PosixTimerEntry *from)
{
	/* struct sigevent of the kernel: value, signal, notify, thread. */
	struct { uint64_t value; int32_t signo, notify, tid, pad[11]; } event = {
		.value = from->sival_ptr, .signo = from->si_signo, .notify = from->it_sigev_notify,
		.tid = from->notify_thread_id,
	};
	struct itimerspec value = {
		.it_interval = { from->isec, from->insec }, .it_value = { from->vsec, from->vnsec },
	};
	int32_t id = from->it_id;

	_Static_assert(sizeof(event) == 64, "sigevent is 64 bytes in Linux");
	batch_call(batch, "make a timer", SYS_timer_create, from->clock_id,
		   batch_bytes(batch, &event, sizeof(event)), batch_bytes(batch, &id, sizeof(id)));
	if (from->vsec || from->vnsec)
		batch_call(batch, "set a timer", SYS_timer_settime, id, 0,
			   batch_bytes(batch, &value, sizeof(value)), 0);
}

static int build(struct build *b, struct batch *batch, const CoreEntry *core)
{
	const TaskTimersEntry *from = core->tc->timers;

	(void)b;
	if (!from)
		return 0;
	build_interval(batch, ITIMER_REAL, from->real);
	build_interval(batch, ITIMER_VIRTUAL, from->virt);
	build_interval(batch, ITIMER_PROF, from->prof);
	if (from->n_posix)
		batch_call(batch, "choose the ids of timers (Linux 6.15 can)", SYS_prctl,
			   PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0);
	for (size_t i = 0; i < from->n_posix; i++)
		build_posix(batch, from->posix[i]);
	if (from->n_posix)
		batch_call(batch, "end choosing the ids of timers", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0,
			   0, 0, 0);
	return batch->error;
}

const struct process_part timers_part = {
	.name = "timers", .ask = ask, .dump = dump, .build = build,
};
