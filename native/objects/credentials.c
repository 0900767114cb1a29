/* credentials.c - who each thread is and what it may do. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "parts.h"
#include "proc_status.h"

#define CAPS 64		/* bits of a set; the kernel has 41 */

static bool get_ids(const struct proc_status *s, const char *name, uint32_t to[4])
{
	const char *at = proc_status_field(s, name);
	char *end;

	for (int i = 0; at && i < 4; i++, at = end)
		to[i] = strtoul(at, &end, 10);
	return at;
}

static bool get_caps(const struct proc_status *s, const char *name, uint32_t to[2])
{
	const char *at = proc_status_field(s, name);
	uint64_t caps = at ? strtoull(at, NULL, 16) : 0;

	to[0] = caps;
	to[1] = caps >> 32;
	return at;
}

struct creds_store {
	CredsEntry entry;
	uint32_t inh[2], prm[2], eff[2], bnd[2], amb[2];
};

static int get_groups(const struct proc_status *s, struct dump *d, CredsEntry *c)
{
	const char *at = proc_status_field(s, "Groups");
	size_t n = 0;

	if (!at)
		return -EPROTO;
	for (const char *p = at; *p && *p != '\n'; p++)
		n += *p == ' ';
	c->groups = dump_alloc(d, (n + 1) * sizeof(*c->groups));
	if (!c->groups)
		return -ENOMEM;
	while (*at >= '0' && *at <= '9') {
		char *end;

		c->groups[c->n_groups++] = strtoul(at, &end, 10);
		at = *end == ' ' ? end + 1 : end;
	}
	return 0;
}

static int read_creds(struct dump *d, pid_t pid, pid_t tid, CredsEntry **ret)
{
	struct creds_store *store = dump_alloc(d, sizeof(*store));
	struct proc_status status;
	uint32_t uid[4], gid[4];
	CredsEntry *c = &store->entry;
	int err = store ? proc_status_read(pid, tid, &status) : -ENOMEM;
	const char *privs;

	if (err)
		return err;
	creds_entry__init(c);
	if (!get_ids(&status, "Uid", uid) || !get_ids(&status, "Gid", gid) ||
	    !get_caps(&status, "CapInh", store->inh) || !get_caps(&status, "CapPrm", store->prm) ||
	    !get_caps(&status, "CapEff", store->eff) || !get_caps(&status, "CapBnd", store->bnd) ||
	    !get_caps(&status, "CapAmb", store->amb))
		return -EPROTO;
	c->uid = uid[0];
	c->euid = uid[1];
	c->suid = uid[2];
	c->fsuid = uid[3];
	c->gid = gid[0];
	c->egid = gid[1];
	c->sgid = gid[2];
	c->fsgid = gid[3];
	c->n_cap_inh = c->n_cap_prm = c->n_cap_eff = c->n_cap_bnd = c->n_cap_amb = 2;
	c->cap_inh = store->inh;
	c->cap_prm = store->prm;
	c->cap_eff = store->eff;
	c->cap_bnd = store->bnd;
	c->cap_amb = store->amb;
	privs = proc_status_field(&status, "NoNewPrivs");
	c->has_no_new_privs = true;
	c->no_new_privs = privs && *privs == '1';
	*ret = c;
	return get_groups(&status, d, c);
}

int credentials_ask_thread(struct batch *b, struct creds_answers *ret)
{
	remote_addr at = batch_space(b, sizeof(*ret->told), (void **)&ret->told);
	uint32_t id = sizeof(uint32_t);
	remote_addr uid = at, gid = at + 4 * id, caps_at = at + 8 * id, groups = at + 14 * id;
	remote_addr header = groups + CREDS_GROUPS_MAX * id;

	if (!at)
		return -ENOSPC;
	ret->told->header[0] = _LINUX_CAPABILITY_VERSION_3;
	ret->first = batch_call(b, "tell its user", SYS_getresuid, uid, uid + id, uid + 2 * id);
	batch_call(b, "tell its group", SYS_getresgid, gid, gid + id, gid + 2 * id);
	batch_call(b, NULL, SYS_setfsuid, -1);
	batch_call(b, NULL, SYS_setfsgid, -1);
	batch_call(b, "tell its capabilities", SYS_capget, header, caps_at);
	batch_call(b, NULL, SYS_getgroups, CREDS_GROUPS_MAX, groups);
	batch_call(b, NULL, SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	batch_call(b, "tell its securebits", SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0);
	return b->error;
}

static bool told_the_same(const struct creds_answers *a, const struct creds_answers *b)
{
	for (int i = 0; i < CREDS_CALLS; i++)
		if (batch_result(a->batch, a->first + i) != batch_result(b->batch, b->first + i))
			return false;
	/* More groups than there is room for: they were not told. */
	return batch_result(a->batch, a->first + CREDS_GROUPS) >= 0 && !memcmp(a->told, b->told, sizeof(*a->told));
}

/* The leader comes first. Bounding and ambient sets of a thread that differs in nothing else count as the
 * leader's: asking for each of their bits would take longer than /proc does. */
int credentials_dump_thread(struct dump *d, pid_t tid, const struct creds_answers *answers,
			    ThreadCoreEntry *to)
{
	int err;

	if (tid != d->pid && told_the_same(answers, d->leader_told)) {
		to->creds = d->leader_creds;
		return 0;
	}
	err = read_creds(d, d->pid, tid, &to->creds);
	/* Of which /proc doesn't tell. */
	if (!err)
		to->creds->secbits = batch_result(answers->batch, answers->first + CREDS_SECUREBITS);
	if (tid == d->pid) {
		d->leader_told = answers;
		d->leader_creds = to->creds;
	}
	return err;
}

/* ---- build ---- */

static uint64_t caps(size_t n, const uint32_t *words)
{
	return (n > 0 ? words[0] : 0) | (n > 1 ? (uint64_t)words[1] << 32 : 0);
}

/* What the husk has is what phaul has: asked once. */
static int husk_creds(struct build *b)
{
	if (b->own)
		return 0;
	return read_creds(&b->scratch, b->pid, b->pid, &b->own);
}

static bool same_user(const CredsEntry *a, const CredsEntry *b)
{
	return a->uid == b->uid && a->euid == b->euid && a->suid == b->suid && a->fsuid == b->fsuid;
}

static bool same_group(const CredsEntry *a, const CredsEntry *b)
{
	return a->gid == b->gid && a->egid == b->egid && a->sgid == b->sgid && a->fsgid == b->fsgid;
}

static bool same_groups(const CredsEntry *a, const CredsEntry *b)
{
	return a->n_groups == b->n_groups && (!a->n_groups || !memcmp(a->groups, b->groups, a->n_groups * sizeof(*a->groups)));
}

static bool same_caps(const CredsEntry *a, const CredsEntry *b)
{
	return caps(a->n_cap_inh, a->cap_inh) == caps(b->n_cap_inh, b->cap_inh) &&
	       caps(a->n_cap_prm, a->cap_prm) == caps(b->n_cap_prm, b->cap_prm) &&
	       caps(a->n_cap_eff, a->cap_eff) == caps(b->n_cap_eff, b->cap_eff) &&
	       caps(a->n_cap_bnd, a->cap_bnd) == caps(b->n_cap_bnd, b->cap_bnd) &&
	       caps(a->n_cap_amb, a->cap_amb) == caps(b->n_cap_amb, b->cap_amb) && a->secbits == b->secbits;
}

static bool same(const CredsEntry *a, const CredsEntry *b)
{
	return same_user(a, b) && same_group(a, b) && same_groups(a, b) && same_caps(a, b);
}

/* Only what differs: each of these calls costs a thread a copy of all that it is. */
static void set_ids(struct batch *batch, const CredsEntry *c, const CredsEntry *have)
{
	/* Capabilities must outlive the change of user, until they are set themselves. */
	if (!same_user(c, have))
		batch_call(batch, "keep capabilities while it changes its user", SYS_prctl, PR_SET_SECUREBITS,
			   SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS, 0, 0, 0);
	if (!same_groups(c, have))
		batch_call(batch, "set its groups", SYS_setgroups, c->n_groups,
			   batch_bytes(batch, c->groups, c->n_groups * sizeof(*c->groups)));
	if (!same_group(c, have)) {
		batch_call(batch, "set its group", SYS_setresgid, c->gid, c->egid, c->sgid);
		batch_call(batch, NULL, SYS_setfsgid, c->fsgid);
	}
	if (!same_user(c, have)) {
		batch_call(batch, "set its user", SYS_setresuid, c->uid, c->euid, c->suid);
		batch_call(batch, NULL, SYS_setfsuid, c->fsuid);
	}
}

/* With those that somebody has, too, if that isn't NULL. */
static void set_sets(struct batch *batch, const CredsEntry *c, const CredsEntry *more)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++)
		data[i] = (struct __user_cap_data_struct){
			.effective = c->cap_eff[i] | (more ? more->cap_eff[i] : 0),
			.permitted = c->cap_prm[i] | (more ? more->cap_prm[i] : 0), .inheritable = c->cap_inh[i],
		};
	batch_call(batch, "set its capabilities (does phaul on this host lack one that the process has?)",
		   SYS_capset, batch_bytes(batch, &head, sizeof(head)), batch_bytes(batch, data, sizeof(data)));
}

static void raise_ambient(struct batch *batch, uint64_t ambient)
{
	for (int cap = 0; cap < CAPS; cap++)
		if (ambient >> cap & 1)
			batch_call(batch, "raise an ambient capability", SYS_prctl, PR_CAP_AMBIENT,
				   PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

static void set_caps(struct batch *batch, const CredsEntry *c, const CredsEntry *have)
{
	uint64_t drop = caps(2, have->cap_bnd) & ~caps(c->n_cap_bnd, c->cap_bnd), ambient = caps(c->n_cap_amb, c->cap_amb);
	/* It may forbid what comes after it, and needs a capability that may be gone then. */
	bool ambient_first = ambient && c->secbits & SECBIT_NO_CAP_AMBIENT_RAISE;

	for (int cap = 0; cap < CAPS; cap++)
		if (drop >> cap & 1)
			batch_call(batch, "drop a capability from its bounding set", SYS_prctl,
				   PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (ambient_first) {
		set_sets(batch, c, have);
		raise_ambient(batch, ambient);
	}
	batch_call(batch, "set its securebits", SYS_prctl, PR_SET_SECUREBITS, c->secbits, 0, 0, 0);
	set_sets(batch, c, NULL);
	if (!ambient_first)
		raise_ambient(batch, ambient);
}

int credentials_change(struct build *b, const CredsEntry *wanted)
{
	int err = husk_creds(b);

	if (err)
		return err;
	if (wanted && wanted->n_groups > GROUPS_MAX)
		return -EPROTO;
	return wanted && !same(wanted, b->own) ? 1 + wanted->n_groups : 0;
}

int credentials_build_thread(struct build *b, struct batch *batch, const ThreadCoreEntry *from)
{
	const CredsEntry *c = from->creds;
	int err = husk_creds(b);

	if (err)
		return err;
	if (!c || c->n_cap_inh != 2 || c->n_cap_prm != 2 || c->n_cap_eff != 2 || c->n_cap_bnd != 2)
		return -EPROTO;
	if (caps(2, c->cap_bnd) & ~caps(2, b->own->cap_bnd))
		return phaul_fail(b->err, -EPERM, "credentials", "the process may gain capabilities (bounding set "
				  "%llx) that phaul on this host doesn't have to give (%llx)",
				  (unsigned long long)caps(2, c->cap_bnd),
				  (unsigned long long)caps(2, b->own->cap_bnd));
	if (!same(c, b->own)) {
		set_ids(batch, c, b->own);
		if (!same_user(c, b->own) || !same_caps(c, b->own))
			set_caps(batch, c, b->own);
		/* Reset by each of those changes. */
		batch_call(batch, NULL, SYS_prctl, PR_SET_DUMPABLE, b->dumpable, 0, 0, 0);
	}
	if (c->no_new_privs)
		batch_call(batch, "set no_new_privs", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return batch->error;
}
