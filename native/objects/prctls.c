/* prctls.c - small settings of a process that only it can tell. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

/* arch_prctl(), Linux 5.16. */
#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023

#define GET_REGISTRATIONS (1 << 9)	/* MEMBARRIER_CMD_..., Linux 6.3; an enum where it is known */

struct answers {
	int dumpable, thp_disabled, personality, barriers;
	int *subreaper, permitted;
	uint64_t *xstate;
};

static int ask(struct dump *d, struct batch *b, void **ret)
{
	struct answers *a = *ret = dump_alloc(d, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->dumpable = batch_call(b, "tell if it is dumpable", SYS_prctl, PR_GET_DUMPABLE);
	a->thp_disabled = batch_call(b, "tell if it wants huge pages", SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0,
				     0);
	/* Older kernels don't tell. */
	a->barriers = batch_call(b, NULL, SYS_membarrier, GET_REGISTRATIONS, 0, 0);
	a->personality = batch_call(b, "tell its personality", SYS_personality, 0xffffffff);
	batch_call(b, "tell if it is a subreaper", SYS_prctl, PR_GET_CHILD_SUBREAPER,
		   batch_space(b, sizeof(int), (void **)&a->subreaper));
	a->permitted = batch_call(b, NULL, SYS_arch_prctl, ARCH_GET_XCOMP_PERM, batch_space(b, sizeof(*a->xstate), (void **)&a->xstate));
	return b->error;
}

/* ~0: nobody has logged in. */
static bool read_loginuid(pid_t pid, uint32_t *ret)
{
	char path[48];
	FILE *f;
	bool got;

	snprintf(path, sizeof(path), "/proc/%d/loginuid", pid);
	f = fopen(path, "re");
	got = f && fscanf(f, "%u", ret) == 1;
	if (f)
		fclose(f);
	return got;
}

/* Only the process itself can set it, by a file; as long as it has no descriptors the number of that is known. */
int loginuid_build(struct build *b, const CoreEntry *core)
{
	static const char path[] = "/proc/self/loginuid";
	uint32_t wanted = core->tc->loginuid, now = ~0u;
	struct batch batch;
	char text[16];
	int n, err;

	if (!core->tc->has_loginuid || !read_loginuid(b->pid, &now) || now == wanted)
		return 0;
	n = snprintf(text, sizeof(text), "%u", wanted);
	remote_area_reset(b->area);
	err = batch_begin(&batch, b->area, b->leader, 3);
	batch_call(&batch, "open its loginuid", SYS_openat, AT_FDCWD, batch_bytes(&batch, path, sizeof(path)),
		   O_WRONLY | O_CLOEXEC);
	batch_call(&batch, "set its loginuid (CAP_AUDIT_CONTROL)", SYS_write, 0, batch_bytes(&batch, text, n), n);
	batch_call(&batch, "close its loginuid", SYS_close, 0);
	err = err ?: batch_run(&batch, 1, b->err) ?: batch_check(&batch, b->err);
	batch_free(&batch);
	return err;
}

/* What a process may use of the CPU without having asked for it, which is another matter on another one. */
static uint64_t own_xstate(void)
{
	uint64_t own;

	return syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &own) < 0 ? 0 : own;
}

static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	struct answers *a = answers;
	TaskCoreEntry *tc = core->tc;

	d->dumpable = batch_result(b, a->dumpable);
	d->thp_disabled = batch_result(b, a->thp_disabled) > 0;
	tc->personality = batch_result(b, a->personality);
	tc->has_membarrier_registration_mask = batch_result(b, a->barriers) > 0;
	tc->membarrier_registration_mask = batch_result(b, a->barriers);
	tc->has_loginuid = read_loginuid(d->pid, &tc->loginuid);
	tc->has_child_subreaper = true;
	tc->child_subreaper = *a->subreaper;
	tc->phaul_permitted_xstate = batch_result(b, a->permitted) ? 0 : *a->xstate & ~own_xstate();
	tc->has_phaul_permitted_xstate = tc->phaul_permitted_xstate;
	return 0;
}

static void permit_xstate(struct batch *batch, const TaskCoreEntry *tc)
{
	uint64_t more = tc->has_phaul_permitted_xstate ? tc->phaul_permitted_xstate & ~own_xstate() : 0;

	for (int bit = 0; bit < 64; bit++)
		if (more >> bit & 1)
			batch_call(batch, "permit it extended state of the CPU (AMX)", SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, bit);
}

static int build(struct build *b, struct batch *batch, const CoreEntry *core)
{
	const TaskCoreEntry *tc = core->tc;

	batch_call(batch, "set if it is dumpable", SYS_prctl, PR_SET_DUMPABLE, b->dumpable, 0, 0, 0);
	if (b->thp_disabled)
		batch_call(batch, "disable huge pages for it", SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
	batch_call(batch, "set its personality", SYS_personality, tc->personality);
	for (uint32_t left = tc->membarrier_registration_mask; left; left &= left - 1)
		batch_call(batch, "register it for membarrier", SYS_membarrier, left & -left, 0, 0);
	permit_xstate(batch, tc);
	if (tc->child_subreaper)
		batch_call(batch, "make it a subreaper", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	return batch->error;
}

const struct process_part prctls_part = { .name = "settings", .ask = ask, .dump = dump, .build = build };
