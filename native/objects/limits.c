/* limits.c - resource limits, which the process is asked for, and the OOM killer's score; both are set from
 * outside. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

static const char *const names[RLIM_NLIMITS] = {
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
	"SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
};

static int score(pid_t pid, const int *set, int *ret)
{
	char path[48], text[16] = "";
	ssize_t n;
	int fd, err;

	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	fd = open(path, (set ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (set)
		snprintf(text, sizeof(text), "%d", *set);
	n = set ? write(fd, text, strlen(text)) : read(fd, text, sizeof(text) - 1);
	err = n < 0 ? -errno : 0;
	close(fd);
	if (!set)
		*ret = atoi(text);
	return err;
}

/* To ask for those of another user's process takes CAP_SYS_RESOURCE. */
static int ask(struct dump *d, struct batch *b, void **ret)
{
	struct rlimit64 **answers = *ret = dump_alloc(d, RLIM_NLIMITS * sizeof(*answers));

	if (!answers)
		return -ENOMEM;
	for (int i = 0; i < RLIM_NLIMITS; i++)
		batch_call(b, "tell a resource limit", __NR_prlimit64, 0, i, 0,
			   batch_space(b, sizeof(*answers[i]), (void **)&answers[i]));
	return b->error;
}

static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	struct rlimit64 **told = answers;
	TaskRlimitsEntry *limits = dump_alloc(d, sizeof(*limits));
	RlimitEntry *entries = dump_alloc(d, RLIM_NLIMITS * sizeof(*entries));
	RlimitEntry **pointers = dump_alloc(d, RLIM_NLIMITS * sizeof(*pointers));

	(void)b;
	if (!limits || !entries || !pointers)
		return -ENOMEM;
	task_rlimits_entry__init(limits);
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		rlimit_entry__init(&entries[i]);
		entries[i].cur = told[i]->rlim_cur;
		entries[i].max = told[i]->rlim_max;
		pointers[i] = &entries[i];
	}
	limits->n_rlimits = RLIM_NLIMITS;
	limits->rlimits = pointers;
	core->tc->rlimits = limits;
	core->tc->has_oom_score_adj = true;
	return score(d->pid, NULL, &core->tc->oom_score_adj);
}

static int build(struct build *b, struct batch *batch, const CoreEntry *core)
{
	const TaskRlimitsEntry *limits = core->tc->rlimits;
	int have, want = core->tc->oom_score_adj, err;

	(void)batch;
	for (size_t i = 0; limits && i < limits->n_rlimits && i < RLIM_NLIMITS; i++) {
		struct rlimit64 old, new = { limits->rlimits[i]->cur, limits->rlimits[i]->max };

		if (prlimit64(b->pid, i, NULL, &old) < 0)
			return -errno;
		if (old.rlim_cur == new.rlim_cur && old.rlim_max == new.rlim_max)
			continue;
		if (prlimit64(b->pid, i, &new, NULL) < 0)
			return phaul_fail(b->err, -errno, "limits", "setting RLIMIT_%s to %llu, hard %llu; phaul's own "
					  "hard limit on this host is %llu: start it with a higher one", names[i],
					  (unsigned long long)new.rlim_cur, (unsigned long long)new.rlim_max,
					  (unsigned long long)old.rlim_max);
	}
	if (!core->tc->has_oom_score_adj)
		return 0;
	err = score(b->pid, NULL, &have);
	if (!err && have != want)
		err = score(b->pid, &want, NULL);
	return err ? phaul_fail(b->err, err, "limits", "setting oom_score_adj to %d (to lower it takes "
				"CAP_SYS_RESOURCE)", want) : 0;
}

const struct process_part limits_part = { .name = "limits", .ask = ask, .dump = dump, .build = build };
