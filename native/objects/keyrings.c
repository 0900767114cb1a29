/* keyrings.c - keys that the kernel keeps for a process: in keyrings of its threads, of itself, of its session.
 *
 * They can't move: the kernel gives out neither all of their content nor their numbers, by which programs know them.
 * /proc/keys shows to each user what he may see, and not whose it is: only if there is something that may be the
 * process's, it is asked itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../check.h"
#include "../freeze.h"
#include "../memory_map.h"
#include "object.h"
#include "proc_status.h"

#define KEYS_MAX 64		/* of a keyring, that are looked at */
#define ASK_TIMEOUT_MS 1000
#define AREA_SIZE (4 * 4096ul)

static const struct {
	int32_t id;
	const char *what;
} keyrings[] = {
	{ KEY_SPEC_THREAD_KEYRING, "thread keyring" },
	{ KEY_SPEC_PROCESS_KEYRING, "process keyring" },
	{ KEY_SPEC_SESSION_KEYRING, "session keyring" },
};

#define KEYRINGS (sizeof(keyrings) / sizeof(*keyrings))

/* ---- what there is ---- */

struct key {
	uint32_t serial, uid;
	char type[24], name[96];	/* the name with what there is to say of it: "_pid: 2" */
};

struct key_list {
	struct key *at;
	size_t count;
};

static int add(struct key_list *keys, const struct key *key)
{
	struct key *larger = reallocarray(keys->at, keys->count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	keys->at = larger;
	keys->at[keys->count++] = *key;
	return 0;
}

/* As this user sees them. */
static int list(struct key_list *keys, uid_t uid)
{
	int before = setfsuid(uid), err = 0;
	FILE *f = fopen("/proc/keys", "re");
	char line[512];

	while (f && !err && fgets(line, sizeof(line), f)) {
		struct key key;

		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "%x %*s %*s %*s %*s %u %*s %23s %95[^\n]", &key.serial, &key.uid, key.type, key.name) == 4)
			err = add(keys, &key);
	}
	if (f)
		fclose(f);
	(void)setfsuid(before);
	return err;
}

static bool is_keyring(const struct key *key)
{
	return !strcmp(key->type, "keyring");
}

static bool is_empty(const struct key *key)
{
	return strstr(key->name, ": empty");
}

/* Of which nobody would miss it: systemd puts one into the session keyring of each service. */
static bool is_ordinary(const struct key *key)
{
	return is_keyring(key) || !strncmp(key->name, "invocation_id", 13);
}

static const struct key *find(const struct key_list *keys, uint32_t serial)
{
	for (size_t i = 0; i < keys->count; i++)
		if (keys->at[i].serial == serial)
			return &keys->at[i];
	return NULL;
}

/* May any be its own? `ret_threads`: may threads have some? A process keyring, too, is only that of the thread that has made it,
 * and of those that it starts afterwards. */
static bool may_have_some(const struct key_list *keys, bool *ret_threads)
{
	bool found = false;

	*ret_threads = false;
	for (size_t i = 0; i < keys->count; i++) {
		const struct key *key = &keys->at[i];
		bool private = is_keyring(key) && (!strncmp(key->name, "_tid:", 5) || !strncmp(key->name, "_pid:", 5)) && !is_empty(key);

		*ret_threads |= private;
		found |= private || !is_ordinary(key);
	}
	return found;
}

/* ---- asking ---- */

struct told {
	uint32_t *serials[KEYRINGS];
	int call[KEYRINGS];
};

/* KEYCTL_READ makes none that isn't there, but for the session's: there it is that of the user then. */
static void ask_for(struct batch *b, size_t most, struct told *ret)
{
	for (size_t i = 0; i < most; i++) {
		size_t size = KEYS_MAX * sizeof(uint32_t);
		remote_addr at = batch_space(b, size, (void **)&ret->serials[i]);

		ret->call[i] = batch_call(b, NULL, SYS_keyctl, KEYCTL_READ, (uint64_t)keyrings[i].id, at, size);
	}
}

static size_t count_told(const struct batch *b, const struct told *told, size_t i)
{
	int64_t bytes = batch_result(b, told->call[i]);
	size_t count = bytes > 0 ? bytes / sizeof(uint32_t) : 0;

	return count < KEYS_MAX ? count : KEYS_MAX;
}

/* Those that somebody would miss, by their names; how many they are. */
static size_t name_keys(const struct key_list *keys, const uint32_t *serials, size_t count, char *ret, size_t size)
{
	size_t n = 0;

	*ret = 0;
	for (size_t i = 0; i < count; i++) {
		const struct key *key = find(keys, serials[i]);
		size_t used = strlen(ret);

		if (key && is_ordinary(key) && !(is_keyring(key) && strncmp(key->name, "_uid", 4)))
			continue;
		n++;
		snprintf(ret + used, size - used, "%s%s%s%.*s", used ? ", " : "", key ? key->type : "one that only it may see",
			 key ? " " : "", key ? (int)strcspn(key->name, ":") : 0, key ? key->name : "");
	}
	return n;
}

/* What all threads have is told of the first. */
struct known {
	uint32_t serials[KEYRINGS][KEYS_MAX];
	size_t count[KEYRINGS];
};

static bool is_known(struct known *known, size_t i, const uint32_t *serials, size_t count)
{
	bool same = known->count[i] == count && !memcmp(known->serials[i], serials, count * sizeof(*serials));

	memcpy(known->serials[i], serials, count * sizeof(*serials));
	known->count[i] = count;
	return same;
}

static void tell(struct check *c, pid_t tid, const struct key_list *keys, const struct batch *b, const struct told *told,
		 struct known *known)
{
	for (size_t i = 0; i < KEYRINGS; i++) {
		char names[160], subject[32];
		size_t all = count_told(b, told, i), count = name_keys(keys, told->serials[i], all, names, sizeof(names));

		if (is_known(known, i, told->serials[i], all) || !count)
			continue;
		snprintf(subject, sizeof(subject), "%s %d", tid == c->pid ? "pid" : "thread", tid);
		if (keyrings[i].id == KEY_SPEC_SESSION_KEYRING)
			notice(c, "KEYRING", subject, "%s has a session keyring with %zu key%s (%s): keys stay in this host's kernel, and on the "
			       "target it begins with an empty one", subject, count, count == 1 ? "" : "s", names);
		else
			obstacle(c, "KEYRING", subject, "%s has a %s with %zu key%s (%s), which can't leave this host's kernel: let the program "
				 "take them out (keyctl), or leave it here", subject, keyrings[i].what, count, count == 1 ? "" : "s", names);
	}
}

static int ask_thread(struct check *c, struct remote *r, struct remote_area *area, const struct key_list *keys, struct known *known)
{
	struct phaul_error unwanted;
	struct told told;
	struct batch b;
	int code;

	remote_area_reset(area);
	code = batch_begin(&b, area, r, KEYRINGS);
	ask_for(&b, KEYRINGS, &told);
	code = code ?: batch_run(&b, 1, &unwanted);
	if (!code)
		tell(c, r->tid, keys, &b, &told, known);
	batch_free(&b);
	return code;
}

static int ask_frozen(struct check *c, struct frozen *f, remote_addr syscall_at, remote_addr hint, const struct key_list *keys)
{
	struct remote_area area = {0};
	struct known known = {0};
	struct proc_status s;
	int code = 0;

	for (size_t i = 0; i < f->count && !code; i++) {
		struct frozen_thread *t = &f->threads[i];
		struct remote r;

		remote_begin_with(&r, t->tid, syscall_at, &t->regs, t->mask);
		if (!proc_status_read(c->pid, t->tid, &s))
			remote_choose_signal(&r, proc_status_set(&s, "SigCgt"), proc_status_set(&s, "ShdPnd") | proc_status_set(&s, "SigPnd"));
		code = area.at ? 0 : remote_area_map(&r, hint, AREA_SIZE, &area);
		code = code ?: ask_thread(c, &r, &area, keys, &known);
		if (i + 1 == f->count || code)
			(void)remote_area_unmap(&r, &area);
		(void)remote_end(&r);
	}
	return code;
}

/* It stands still meanwhile, for less than a millisecond if there are few threads. */
static void ask_process(struct check *c, const struct key_list *keys, bool threads)
{
	struct memory_map map;
	struct phaul_error unwanted;
	struct frozen frozen;
	remote_addr syscall_at;

	if (memory_map_read(c->pid, false, &map, &unwanted))
		return;
	if (!remote_find_syscall(c->pid, &map, &syscall_at) &&
	    !(threads ? freeze(c->pid, ASK_TIMEOUT_MS, &frozen, &unwanted) : freeze_leader(c->pid, ASK_TIMEOUT_MS, &frozen, &unwanted))) {
		(void)ask_frozen(c, &frozen, syscall_at, memory_map_gap(&map), keys);
		(void)thaw(&frozen);
	}
	memory_map_free(&map);
}

static void check(struct check *c)
{
	struct key_list keys = {0};
	struct proc_status s;
	bool threads;
	int err = proc_status_read(c->pid, c->pid, &s);

	/* Who is traced, or is our ancestor, is refused for that. */
	if (err || proc_status_number(&s, "TracerPid") > 0 || c->pid == getpid())
		return;
	/* One that was another user before has keyrings of that one, most often of root. */
	err = list(&keys, proc_status_number(&s, "Uid")) ?: list(&keys, geteuid());
	if (!err && may_have_some(&keys, &threads))
		ask_process(c, &keys, threads);
	free(keys.at);
}

/* ---- in the freeze ---- */

static int ask(struct dump *d, struct batch *b, void **ret)
{
	struct told *told = *ret = dump_alloc(d, sizeof(*told));

	if (!told)
		return -ENOMEM;
	/* Not for that of the session, of which there was a notice. */
	ask_for(b, 2, told);
	return b->error;
}

/* What came after the check. */
static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	(void)core;
	for (size_t i = 0; i < 2; i++)
		if (count_told(b, answers, i))
			return phaul_fail(d->err, -EOPNOTSUPP, "keyrings", "pid %d has just put keys into a %s, which can't leave this host's "
					  "kernel: let the program take them out (keyctl), or leave it here", d->pid, keyrings[i].what);
	return 0;
}

const struct process_part keyrings_part = { .name = "keyrings", .check = check, .ask = ask, .dump = dump };
