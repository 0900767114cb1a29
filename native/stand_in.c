#include "stand_in.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "objects/object.h"

int stand_in_for(struct built_files *f, pid_t pid)
{
	struct clone_args args = { .set_tid = (uintptr_t)&pid, .set_tid_size = 1 };
	pid_t *larger = reallocarray(f->stand_ins, f->stand_in_count + 1, sizeof(*larger)), child;

	if (!larger)
		return -ENOMEM;
	f->stand_ins = larger;
	child = syscall(SYS_clone3, &args, sizeof(args));
	/* Should we be killed, it goes too. */
	if (!child)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!child)
		pause();
	if (child > 0)
		f->stand_ins[f->stand_in_count++] = child;
	/* One that lives is as good. */
	return child < 0 && errno != EEXIST ? -errno : 0;
}

void stand_ins_end(struct built_files *f)
{
	while (f->stand_in_count) {
		pid_t pid = f->stand_ins[--f->stand_in_count];

		(void)kill(pid, SIGKILL);
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	free(f->stand_ins);
	f->stand_ins = NULL;
}
