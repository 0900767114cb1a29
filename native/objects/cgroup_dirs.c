/* cgroup_dirs.c - control groups themselves: what is below a path, with its properties and permissions, and the same again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../error.h"
#include "cgroup.h"

#define DEPTH_MAX 64
#define VALUE_MAX 4096

/* Without an entry in the file system: the mount goes with the descriptor. Of version 1 it makes what isn't there yet. */
static int mount_hierarchy(const char *name)
{
	int fs = fsopen(*name ? "cgroup" : "cgroup2", FSOPEN_CLOEXEC), fd = -1, err = fs < 0 ? -errno : 0;
	char *copy = strdup(name), *rest = copy, *word;

	if (!copy)
		err = -ENOMEM;
	while (!err && *name && (word = strsep(&rest, ",")))
		if (!strncmp(word, "name=", 5) ? fsconfig(fs, FSCONFIG_SET_STRING, "name", word + 5, 0) :
						 fsconfig(fs, FSCONFIG_SET_FLAG, word, NULL, 0))
			err = -errno;
	if (!err && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		err = -errno;
	if (!err) {
		fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
		err = fd < 0 ? -errno : 0;
	}
	if (fs >= 0)
		close(fs);
	free(copy);
	return err ? err : fd;
}

int cgroup_open(const struct cgroup_options *o, const char *hierarchy)
{
	const char *name = !*hierarchy ? "unified" : !strncmp(hierarchy, "name=", 5) ? hierarchy + 5 : hierarchy;
	char path[4096];
	int fd;

	if (!o->yard)
		return mount_hierarchy(hierarchy);
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", o->yard, name) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- properties ---- */

/* In the order in which they can be set. What is `early` must be set before somebody is in the group. */
static const struct property {
	const char *controller;		/* NULL: of all in version 1; "": of all in version 2 */
	const char *name;
	bool early;
} properties[] = {
	{ "cpu", "cpu.shares", false }, { "cpu", "cpu.cfs_period_us", false }, { "cpu", "cpu.cfs_quota_us", false },
	{ "cpu", "cpu.rt_period_us", false }, { "cpu", "cpu.rt_runtime_us", false },
	{ "memory", "memory.limit_in_bytes", false }, { "memory", "memory.memsw.limit_in_bytes", false },
	{ "memory", "memory.swappiness", true }, { "memory", "memory.soft_limit_in_bytes", false },
	{ "memory", "memory.oom_control", true },
	{ "cpuset", "cpuset.cpus", true }, { "cpuset", "cpuset.mems", true }, { "cpuset", "cpuset.memory_migrate", false },
	{ "cpuset", "cpuset.cpu_exclusive", false }, { "cpuset", "cpuset.mem_exclusive", false },
	{ "cpuset", "cpuset.mem_hardwall", false }, { "cpuset", "cpuset.memory_spread_page", false },
	{ "cpuset", "cpuset.memory_spread_slab", false }, { "cpuset", "cpuset.sched_load_balance", false },
	{ "cpuset", "cpuset.sched_relax_domain_level", false },
	{ "blkio", "blkio.weight", false }, { "net_cls", "net_cls.classid", false }, { "net_prio", "net_prio.ifpriomap", false },
	{ "pids", "pids.max", false }, { "devices", "devices.list", true },
	{ NULL, "cgroup.clone_children", false }, { NULL, "notify_on_release", false }, { NULL, "cgroup.procs", false },
	{ NULL, "tasks", false },
	{ "", "cgroup.type", true }, { "", "cgroup.subtree_control", false }, { "", "cgroup.max.descendants", false },
	{ "", "cgroup.max.depth", false }, { "", "cgroup.procs", false }, { "", "cgroup.threads", false },
	{ "", "cpuset.cpus", true }, { "", "cpuset.mems", true }, { "", "cpu.weight", false }, { "", "cpu.max", false },
	{ "", "memory.min", false }, { "", "memory.low", false }, { "", "memory.high", false }, { "", "memory.max", false },
	{ "", "memory.swap.max", false }, { "", "memory.oom.group", false }, { "", "pids.max", false },
};
#define PROPERTIES (sizeof(properties) / sizeof(*properties))

static bool is_early(const char *name)
{
	for (size_t i = 0; i < PROPERTIES; i++)
		if (!strcmp(properties[i].name, name))
			return properties[i].early;
	return false;
}

/* Who is in a group is told elsewhere: of these files only the permissions matter. */
static bool is_list(const char *name)
{
	return !strcmp(name, "cgroup.procs") || !strcmp(name, "cgroup.threads") || !strcmp(name, "tasks");
}

static bool concerns(const struct property *p, const CgControllerEntry *c)
{
	bool v2 = !*c->cnames[0];

	if (!p->controller)
		return !v2;
	if (!*p->controller)
		return v2;
	for (size_t i = 0; i < c->n_cnames; i++)
		if (!strcmp(c->cnames[i], p->controller))
			return true;
	return false;
}

static int read_value(int group, const char *name, char ret[VALUE_MAX])
{
	int fd = openat(group, name, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, ret, VALUE_MAX - 1);
	int err = -errno;

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return err;
	ret[got] = 0;
	if (got && ret[got - 1] == '\n')
		ret[got - 1] = 0;
	/* Of several lines, the one that is written is told. */
	if (!strcmp(name, "memory.oom_control")) {
		int disabled = 0;

		(void)sscanf(ret, "oom_kill_disable %d", &disabled);
		sprintf(ret, "%d", disabled);
	}
	return 0;
}

/* ---- dump ---- */

static CgroupPerms *perms_of(int group, const char *name)
{
	CgroupPerms *perms = malloc(sizeof(*perms));
	struct stat st;

	if (!perms || fstatat(group, name, &st, 0) < 0) {
		free(perms);
		return NULL;
	}
	cgroup_perms__init(perms);
	perms->mode = st.st_mode;
	perms->uid = st.st_uid;
	perms->gid = st.st_gid;
	return perms;
}

static int put_property(int group, const char *name, CgroupDirEntry *to)
{
	CgroupPropEntry **larger, *p;
	char value[VALUE_MAX] = "";

	/* Kernels and groups at the top lack some. */
	if (!is_list(name) && read_value(group, name, value))
		return 0;
	if (is_list(name) && faccessat(group, name, F_OK, 0) < 0)
		return 0;
	larger = reallocarray(to->properties, to->n_properties + 1, sizeof(*larger));
	p = larger ? malloc(sizeof(*p)) : NULL;
	to->properties = larger ? larger : to->properties;
	if (!p)
		return -ENOMEM;
	cgroup_prop_entry__init(p);
	larger[to->n_properties++] = p;
	p->name = strdup(name);
	p->value = strdup(value);
	p->perms = perms_of(group, name);
	return p->name && p->value && p->perms ? 0 : -ENOMEM;
}

static CgroupDirEntry *add_dir(CgroupDirEntry ***at, size_t *count, const char *name)
{
	CgroupDirEntry **larger = reallocarray(*at, *count + 1, sizeof(*larger)), *dir = larger ? malloc(sizeof(*dir)) : NULL;

	*at = larger ? larger : *at;
	if (!dir)
		return NULL;
	cgroup_dir_entry__init(dir);
	larger[(*count)++] = dir;
	dir->dir_name = strdup(name);
	return dir->dir_name ? dir : NULL;
}

static int put_dir(int group, const CgControllerEntry *c, CgroupDirEntry *to, bool below, int depth);

static int put_children(int group, const CgControllerEntry *c, CgroupDirEntry *to, int depth)
{
	int copy = openat(group, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	if (!dir)
		return -errno;
	while (!err && (entry = readdir(dir))) {
		CgroupDirEntry *child;
		int fd;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		fd = openat(group, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			continue;	/* removed meanwhile */
		child = add_dir(&to->children, &to->n_children, entry->d_name);
		err = child ? put_dir(fd, c, child, true, depth + 1) : -ENOMEM;
		close(fd);
	}
	closedir(dir);
	return err;
}

static int put_dir(int group, const CgControllerEntry *c, CgroupDirEntry *to, bool below, int depth)
{
	int err = depth > DEPTH_MAX ? -ELOOP : 0;

	to->dir_perms = perms_of(group, ".");
	if (!to->dir_perms)
		return -ENOMEM;
	for (size_t i = 0; i < PROPERTIES && !err; i++)
		if (concerns(&properties[i], c))
			err = put_property(group, properties[i].name, to);
	return err ?: below ? put_children(group, c, to, depth) : 0;
}

static bool covers(const CgroupDirEntry *head, const char *name)
{
	size_t n = strlen(head->dir_name);

	return !strcmp(head->dir_name, name) || (n && !strncmp(head->dir_name, name, n) && name[n] == '/');
}

int cgroup_dirs_dump(int root, const char *path, CgControllerEntry *to)
{
	const char *name = path + strspn(path, "/");
	CgroupDirEntry *head;
	int group, err;

	for (size_t i = 0; i < to->n_dirs; i++)
		if (covers(to->dirs[i], name))
			return 0;
	group = openat(root, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group < 0)
		return -errno;
	head = add_dir(&to->dirs, &to->n_dirs, name);
	/* Below the top are all of the host. */
	err = head ? put_dir(group, to, head, *name, 0) : -ENOMEM;
	close(group);
	return err;
}

/* ---- build ---- */

static int give_perms(int group, const char *name, const CgroupPerms *perms)
{
	struct stat st;

	if (!perms || fstatat(group, name, &st, 0) < 0)
		return 0;
	if ((st.st_uid != perms->uid || st.st_gid != perms->gid) && fchownat(group, name, perms->uid, perms->gid, 0) < 0)
		return -errno;
	if ((st.st_mode & 07777) != (perms->mode & 07777) && fchmodat(group, name, perms->mode & 07777, 0) < 0)
		return -errno;
	return 0;
}

static int write_value(int group, const char *name, const char *value, size_t size)
{
	int fd = openat(group, name, O_WRONLY | O_CLOEXEC);
	int err = fd < 0 || write(fd, value, size) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return err;
}

/* One line a write, as the kernel takes no more. */
static int write_lines(int group, const char *name, const char *lines, const char *but)
{
	int err = 0;

	for (const char *line = lines; *line && !err; line = strchrnul(line, '\n'), line += *line == '\n') {
		size_t length = strcspn(line, "\n");

		if (!but || length < strlen(but) || memcmp(line + length - strlen(but), but, strlen(but)))
			err = write_value(group, name, line, length);
	}
	return err;
}

/* What is there is taken away, what shall be there added. */
static int set_controllers(int group, const char *now, const char *wanted)
{
	char line[2 * VALUE_MAX + 2] = "", *copy, *rest, *word;

	for (int i = 0; i < 2; i++) {
		copy = rest = strdup(i ? wanted : now);
		while (rest && (word = strsep(&rest, " ")))
			if (*word && strlen(line) + strlen(word) + 3 < sizeof(line))
				sprintf(line + strlen(line), "%s%c%s", *line ? " " : "", i ? '+' : '-', word);
		free(copy);
	}
	return *line ? write_value(group, "cgroup.subtree_control", line, strlen(line)) : 0;
}

static int set_property(int group, const CgroupPropEntry *p)
{
	char now[VALUE_MAX] = "";
	int err = 0;

	if (!strcmp(p->name, "devices.list"))
		return write_value(group, "devices.deny", "a", 1) ?: write_lines(group, "devices.allow", p->value, NULL);
	/* Of a group that freezes nobody would go on. */
	if (!strcmp(p->name, "freezer.state") || !strcmp(p->name, "cgroup.freeze"))
		return 0;
	if (!is_list(p->name) && !read_value(group, p->name, now) && strcmp(now, p->value)) {
		if (!strcmp(p->name, "cgroup.subtree_control"))
			err = set_controllers(group, now, p->value);
		else if (!strcmp(p->name, "net_prio.ifpriomap"))
			(void)write_lines(group, p->name, p->value, " 0");	/* of devices that may not be here */
		else if (strcmp(p->name, "cgroup.type") || !strcmp(p->value, "threaded"))
			err = write_value(group, p->name, p->value, strlen(p->value));
	}
	return err ?: give_perms(group, p->name, p->perms);
}

static int set_properties(int group, const CgroupDirEntry *d, bool early, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < d->n_properties && !code; i++) {
		const CgroupPropEntry *p = d->properties[i];

		code = is_early(p->name) == early ? set_property(group, p) : 0;
		if (code)
			phaul_fail(err, code, "control groups", "setting %s of the control group %s to \"%.64s\"", p->name, d->dir_name,
				   p->value);
	}
	return code;
}

static void forget_properties(CgroupDirEntry *d)
{
	for (size_t i = 0; i < d->n_properties; i++)
		cgroup_prop_entry__free_unpacked(d->properties[i], NULL);
	d->n_properties = 0;
}

static const char *name_of(const CgroupDirEntry *d)
{
	const char *name = d->dir_name + strspn(d->dir_name, "/");

	return *name ? name : ".";
}

/* "a/b/c" with all that is missing of it. */
static int make_path(int parent, const char *name)
{
	char path[4096];
	int err = 0;

	if (snprintf(path, sizeof(path), "%s", name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *slash = path; !err && slash; ) {
		slash = strchr(slash, '/');
		if (slash)
			*slash = 0;
		if (mkdirat(parent, path, 0755) < 0 && (errno != EEXIST || !slash))
			err = -errno;
		if (slash)
			*slash++ = '/';
	}
	return err;
}

static int make_dir(const struct cgroup_options *o, int parent, CgroupDirEntry *d, int depth, struct phaul_error *err)
{
	const char *name = name_of(d);
	int group = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;
	bool there = group >= 0, top = !strcmp(name, ".");

	if (depth > DEPTH_MAX || strstr(name, "..") == name || strstr(name, "/.."))
		code = phaul_fail(err, -EPROTO, "control groups", "the images tell of a control group %s", name);
	else if (!there && (o->mode == CGROUPS_NONE || o->mode == CGROUPS_PROPS))
		code = phaul_fail(err, -ENOENT, "control groups", "there is no control group %s here, and --manage-cgroups %s makes none", name,
				  o->mode == CGROUPS_NONE ? "none" : "props");
	else if (there && !top && o->mode == CGROUPS_STRICT)
		code = phaul_fail(err, -EEXIST, "control groups", "there is a control group %s here already, and --manage-cgroups strict wants "
				  "none", name);
	if (!code && !there) {
		code = make_path(parent, name);
		group = code ? -1 : openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		code = code ?: group < 0 ? -errno : give_perms(group, ".", d->dir_perms);
		code = code ? phaul_fail(err, code, "control groups", "making the control group %s", name) : set_properties(group, d, true, err);
	} else if (!code) {
		if (o->mode == CGROUPS_SOFT || o->mode == CGROUPS_NONE || top)
			forget_properties(d);
		if (o->mode != CGROUPS_NONE && !top && give_perms(group, ".", d->dir_perms))
			code = phaul_fail(err, -EPERM, "control groups", "giving the control group %s to its owner", name);
	}
	for (size_t i = 0; i < d->n_children && !code; i++)
		code = make_dir(o, group, d->children[i], depth + 1, err);
	if (group >= 0)
		close(group);
	return code;
}

int cgroup_dirs_make(const struct cgroup_options *o, int root, const CgControllerEntry *c, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < c->n_dirs && !code; i++)
		code = make_dir(o, root, c->dirs[i], 0, err);
	return code;
}

static int finish_dir(int parent, const CgroupDirEntry *d, struct phaul_error *err)
{
	int group = openat(parent, name_of(d), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int code = group < 0 ? phaul_fail(err, -errno, "control groups", "opening the control group %s", d->dir_name) :
			       set_properties(group, d, false, err);

	for (size_t i = 0; i < d->n_children && !code; i++)
		code = finish_dir(group, d->children[i], err);
	if (group >= 0)
		close(group);
	return code;
}

int cgroup_dirs_finish(int root, const CgControllerEntry *c, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < c->n_dirs && !code; i++)
		code = finish_dir(root, c->dirs[i], err);
	return code;
}
