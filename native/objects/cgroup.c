#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../error.h"

#define TEXT_MAX (1u << 16)	/* a path is at most a page long, and there are some fifteen hierarchies */
#define REFUSALS_MAX 16

/* ---- options ---- */

static const char *const modes[] = {
	[CGROUPS_IGNORE] = "ignore", [CGROUPS_NONE] = "none", [CGROUPS_PROPS] = "props", [CGROUPS_SOFT] = "soft",
	[CGROUPS_FULL] = "full", [CGROUPS_STRICT] = "strict",
};

static int parse_root(struct cgroup_options *o, const char *text)
{
	const char *path = strrchr(text, ':') ? strrchr(text, ':') + 1 : text;
	struct cgroup_root *larger = *path == '/' ? reallocarray(o->roots, o->root_count + 1, sizeof(*larger)) : NULL, *root;

	if (!larger)
		return *path == '/' ? -ENOMEM : -EINVAL;
	o->roots = larger;
	root = &larger[o->root_count++];
	root->path = strdup(path);
	root->controller = strndup(text, path == text ? 0 : path - text - 1);
	return root->path && root->controller ? 0 : -ENOMEM;
}

static int parse_word(struct cgroup_options *o, const char *word)
{
	if (!strncmp(word, "root=", 5))
		return parse_root(o, word + 5);
	if (!strncmp(word, "yard=", 5)) {
		free(o->yard);
		o->yard = strdup(word + 5);
		return o->yard ? 0 : -ENOMEM;
	}
	for (size_t i = CGROUPS_IGNORE; i < sizeof(modes) / sizeof(*modes); i++)
		if (!strcmp(word, modes[i])) {
			o->mode = i;
			return 0;
		}
	return *word ? -EINVAL : 0;
}

int cgroup_options_parse(const char *text, struct cgroup_options *ret, struct phaul_error *err)
{
	char *copy = strdup(text ? text : ""), *rest = copy, *word;
	int code = copy ? 0 : -ENOMEM;

	memset(ret, 0, sizeof(*ret));
	while (!code && (word = strsep(&rest, "\n")))
		code = parse_word(ret, word);
	free(copy);
	if (code)
		cgroup_options_free(ret);
	return code ? phaul_fail(err, code, "control groups", "reading what to do with control groups: \"%s\"", text) : 0;
}

void cgroup_options_free(struct cgroup_options *o)
{
	for (size_t i = 0; i < o->root_count; i++) {
		free(o->roots[i].controller);
		free(o->roots[i].path);
	}
	free(o->roots);
	free(o->yard);
	memset(o, 0, sizeof(*o));
}

/* Is it among "cpu,cpuacct"? */
static bool has_controller(const char *hierarchy, const char *controller)
{
	size_t length = strlen(controller);

	if (!length || !*hierarchy)
		return length == strlen(hierarchy);
	for (const char *at = hierarchy; (at = strstr(at, controller)); at += length)
		if ((at == hierarchy || at[-1] == ',') && (!at[length] || at[length] == ','))
			return true;
	return false;
}

const char *cgroup_options_root(const struct cgroup_options *o, const char *hierarchy)
{
	const char *of_all = NULL;

	for (size_t i = 0; i < o->root_count; i++) {
		if (!*o->roots[i].controller)
			of_all = o->roots[i].path;
		else if (has_controller(hierarchy, o->roots[i].controller))
			return o->roots[i].path;
	}
	return of_all;
}

/* ---- sets ---- */

static int read_text(pid_t pid, pid_t tid, char **ret)
{
	char path[64], *text = malloc(TEXT_MAX);
	size_t used = 0;
	ssize_t got = 0;
	int fd, err;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/cgroup", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (text && fd >= 0 && used < TEXT_MAX - 1 && (got = read(fd, text + used, TEXT_MAX - 1 - used)) > 0)
		used += got;
	err = !text ? -ENOMEM : fd < 0 || got < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (err) {
		free(text);
		return err;
	}
	text[used] = 0;
	*ret = realloc(text, used + 1) ?: text;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const CgMemberEntry *left = *(CgMemberEntry *const *)a, *right = *(CgMemberEntry *const *)b;

	return strcmp(left->name, right->name);
}

/* "4:memory:/a/b\n", in the order of names as criu has them. */
static int add_member(CgSetEntry *set, const char *line)
{
	const char *name = strchr(line, ':'), *path = name ? strchr(name + 1, ':') : NULL;
	CgMemberEntry **larger = path ? reallocarray(set->ctls, set->n_ctls + 1, sizeof(*larger)) : NULL, *member;

	if (!larger)
		return path ? -ENOMEM : -EPROTO;
	set->ctls = larger;
	member = malloc(sizeof(*member));
	if (!member)
		return -ENOMEM;
	cg_member_entry__init(member);
	larger[set->n_ctls++] = member;
	member->name = strndup(name + 1, path - name - 1);
	member->path = strndup(path + 1, strcspn(path + 1, "\n"));
	return member->name && member->path ? 0 : -ENOMEM;
}

static CgSetEntry *set_from(uint32_t id, const char *text)
{
	CgSetEntry *set = malloc(sizeof(*set));
	int err = 0;

	if (!set)
		return NULL;
	cg_set_entry__init(set);
	set->id = id;
	for (const char *line = text; *line && !err; line = strchrnul(line, '\n'), line += *line == '\n')
		err = add_member(set, line);
	if (err) {
		cg_set_entry__free_unpacked(set, NULL);
		return NULL;
	}
	if (set->n_ctls)
		qsort(set->ctls, set->n_ctls, sizeof(*set->ctls), by_name);
	return set;
}

static const char *path_in(const CgSetEntry *set, const char *hierarchy)
{
	for (size_t i = 0; set && i < set->n_ctls; i++)
		if (!strcmp(set->ctls[i]->name, hierarchy))
			return set->ctls[i]->path;
	return NULL;
}

static int add_set(struct cgroup_sets *sets, pid_t pid, pid_t tid, uint32_t *ret_id)
{
	struct cgroup_set *larger;
	char *text;
	int err = read_text(pid, tid, &text);

	if (err)
		return err;
	for (size_t i = 0; i < sets->count; i++)
		if (!strcmp(sets->at[i].text, text)) {
			*ret_id = sets->at[i].id;
			free(text);
			return 0;
		}
	larger = reallocarray(sets->at, sets->count + 1, sizeof(*larger));
	if (!larger) {
		free(text);
		return -ENOMEM;
	}
	sets->at = larger;
	*ret_id = CGROUP_OWN_SET + sets->count;
	sets->at[sets->count++] = (struct cgroup_set){ *ret_id, text };
	return 0;
}

int cgroup_set_of(struct cgroup_sets *sets, pid_t pid, pid_t tid, uint32_t *ret_id)
{
	int err = sets->count ? 0 : add_set(sets, getpid(), getpid(), ret_id);

	return err ?: add_set(sets, pid, tid, ret_id);
}

void cgroup_sets_free(struct cgroup_sets *sets)
{
	for (size_t i = 0; i < sets->count; i++)
		free(sets->at[i].text);
	free(sets->at);
	memset(sets, 0, sizeof(*sets));
}

/* ---- dump ---- */

static int put_names(CgControllerEntry *to, const char *hierarchy)
{
	char *copy = strdup(hierarchy), *rest = copy, *name;
	int err = copy ? 0 : -ENOMEM;

	while (!err && (name = strsep(&rest, ","))) {
		char **larger = reallocarray(to->cnames, to->n_cnames + 1, sizeof(*larger));

		to->cnames = larger ? larger : to->cnames;
		if (larger)
			larger[to->n_cnames] = strdup(name);
		if (!larger || !larger[to->n_cnames])
			err = -ENOMEM;
		else
			to->n_cnames++;
	}
	free(copy);
	return err;
}

/* The groups of all sets, or the one that was named instead, with what is below them. */
static int put_dirs(CgControllerEntry *to, const CgroupEntry *image, const struct cgroup_options *o, const char *hierarchy)
{
	const char *named = cgroup_options_root(o, hierarchy);
	int root = cgroup_open(o, hierarchy), err = root < 0 ? root : 0;

	for (size_t i = 0; i < image->n_sets && !err; i++) {
		const char *path = named ? named : path_in(image->sets[i], hierarchy);

		err = path ? cgroup_dirs_dump(root, path, to) : 0;
	}
	if (root >= 0)
		close(root);
	return err;
}

static int put_controller(CgroupEntry *image, const struct cgroup_options *o, const char *hierarchy)
{
	CgControllerEntry **larger = reallocarray(image->controllers, image->n_controllers + 1, sizeof(*larger));
	CgControllerEntry *c = larger ? malloc(sizeof(*c)) : NULL;
	bool makes = o->mode != CGROUPS_AUTO && o->mode != CGROUPS_IGNORE;

	image->controllers = larger ? larger : image->controllers;
	if (!c)
		return -ENOMEM;
	cg_controller_entry__init(c);
	larger[image->n_controllers++] = c;
	c->has_is_threaded = true;
	c->is_threaded = *hierarchy;
	return put_names(c, hierarchy) ?: makes ? put_dirs(c, image, o, hierarchy) : 0;
}

static int fill(CgroupEntry *image, const struct cgroup_sets *sets, const struct cgroup_options *o, struct phaul_error *err)
{
	int code = 0;

	image->sets = calloc(sets->count, sizeof(*image->sets));
	for (size_t i = 1; i < sets->count && !code; i++) {
		CgSetEntry *set = image->sets ? set_from(sets->at[i].id, sets->at[i].text) : NULL;

		code = set ? 0 : -ENOMEM;
		if (set)
			image->sets[image->n_sets++] = set;
	}
	for (size_t i = 0; !code && i < image->sets[0]->n_ctls; i++) {
		const char *hierarchy = image->sets[0]->ctls[i]->name;

		code = put_controller(image, o, hierarchy);
		if (code)
			return phaul_fail(err, code, "control groups", "reading the hierarchy %s of control groups",
					  *hierarchy ? hierarchy : "of version 2");
	}
	return code ? phaul_fail(err, code, "control groups", "listing control groups") : 0;
}

int cgroup_sets_dump(const struct cgroup_sets *sets, const struct cgroup_options *o, struct image_set *to, struct phaul_error *err)
{
	CgroupEntry *image;
	int code;

	if (sets->count < 2 || o->mode == CGROUPS_IGNORE)
		return 0;
	image = malloc(sizeof(*image));
	if (!image)
		return phaul_fail(err, -ENOMEM, "control groups", "listing control groups");
	cgroup_entry__init(image);
	code = fill(image, sets, o, err);
	if (!code && image_put(to, "cgroup", -1, &image->base))
		code = phaul_fail(err, -ENOMEM, "control groups", "writing control groups");
	cgroup_entry__free_unpacked(image, NULL);
	return code;
}

/* ---- build ---- */

static int read_root_set(struct cgroups *c, const struct image_set *images)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	const InventoryEntry *inventory;
	int err = image_read(images, "inventory", -1, &reader);

	c->root_set = CGROUP_OWN_SET;
	if (err)
		return err == -ENOENT ? 0 : err;
	if (image_next(&reader, &inventory_entry__descriptor, &msg) != 1)
		return -EPROTO;
	inventory = (InventoryEntry *)msg;
	if (inventory->has_root_cg_set)
		c->root_set = inventory->root_cg_set;
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}

static int replace(char **at, const char *root, const char *rest)
{
	char *path;

	if (asprintf(&path, "%s%s", root, rest) < 0)
		return -ENOMEM;
	free(*at);
	*at = path;
	return 0;
}

/* Where a head of the images' groups is now called otherwise, those below it are, too. Without any, all is the one group. */
static int move_root(CgroupEntry *image, CgControllerEntry *controller, const char *hierarchy, const char *root)
{
	int err = 0;

	for (size_t i = 0; i < image->n_sets; i++)
		for (size_t n = 0; n < image->sets[i]->n_ctls && !err; n++) {
			CgMemberEntry *member = image->sets[i]->ctls[n];
			const char *head = NULL;

			if (strcmp(member->name, hierarchy) || *member->path != '/')
				continue;
			for (size_t d = 0; d < controller->n_dirs && !head; d++)
				if (!strncmp(member->path + 1, controller->dirs[d]->dir_name, strlen(controller->dirs[d]->dir_name)))
					head = controller->dirs[d]->dir_name;
			if (!controller->n_dirs)
				err = replace(&member->path, root, "");
			else if (head)
				err = replace(&member->path, root, member->path + 1 + strlen(head));
		}
	for (size_t d = 0; d < controller->n_dirs && !err; d++)
		err = replace(&controller->dirs[d]->dir_name, root, "");
	return err;
}

static int move_roots(struct cgroups *c)
{
	const CgSetEntry *first = c->image->n_sets ? c->image->sets[0] : NULL;
	int err = 0;

	for (size_t i = 0; first && i < first->n_ctls && !err; i++) {
		const char *root = cgroup_options_root(&c->options, first->ctls[i]->name);

		for (size_t n = 0; root && n < c->image->n_controllers && !err; n++)
			if (c->image->controllers[n]->n_cnames && has_controller(first->ctls[i]->name, c->image->controllers[n]->cnames[0]))
				err = move_root(c->image, c->image->controllers[n], first->ctls[i]->name, root);
	}
	return err;
}

int cgroups_read(struct cgroups *c, const struct image_set *images, struct phaul_error *err)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	int code = image_read(images, "cgroup", -1, &reader);

	/* Rounds that have nothing new to tell leave it out. */
	if (c->options.mode == CGROUPS_IGNORE || code == -ENOENT)
		return 0;
	if (c->image)
		cgroup_entry__free_unpacked(c->image, NULL);
	c->image = NULL;
	if (code || image_next(&reader, &cgroup_entry__descriptor, &msg) < 0)
		return image_malformed("cgroup", -1, err);
	c->image = (CgroupEntry *)msg;
	if (!c->image)
		return 0;
	if (!c->own) {
		char *text;

		code = read_text(getpid(), getpid(), &text);
		c->own = code ? NULL : set_from(0, text);
		if (!code)
			free(text);
	}
	code = code ?: c->own ? read_root_set(c, images) : -ENOMEM;
	code = code ?: move_roots(c);
	return code ? phaul_fail(err, code, "control groups", "reading the control groups of the images") : 0;
}

/* -errno if it can't be had. */
static int hierarchy_of(struct cgroups *c, const char *name)
{
	struct cgroup_hierarchy *larger;

	for (size_t i = 0; i < c->hierarchy_count; i++)
		if (!strcmp(c->hierarchies[i].name, name))
			return c->hierarchies[i].fd;
	larger = reallocarray(c->hierarchies, c->hierarchy_count + 1, sizeof(*larger));
	if (!larger)
		return -ENOMEM;
	c->hierarchies = larger;
	larger[c->hierarchy_count].name = strdup(name);
	if (!larger[c->hierarchy_count].name)
		return -ENOMEM;
	/* To open one that isn't there would make it. */
	larger[c->hierarchy_count].fd = c->options.mode == CGROUPS_AUTO && !path_in(c->own, name) ? -ENODEV :
				      cgroup_open(&c->options, name);
	return larger[c->hierarchy_count++].fd;
}

int cgroups_make(struct cgroups *c, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; c->image && c->options.mode != CGROUPS_AUTO && i < c->image->n_controllers && !code; i++) {
		const CgControllerEntry *controller = c->image->controllers[i];
		char name[256] = "";
		int root;

		for (size_t n = 0; n < controller->n_cnames; n++)
			snprintf(name + strlen(name), sizeof(name) - strlen(name), "%s%s", n ? "," : "", controller->cnames[n]);
		root = hierarchy_of(c, name);
		code = root < 0 ? phaul_fail(err, root, "control groups", "opening the hierarchy of control groups \"%s\"", name) :
				  cgroup_dirs_make(&c->options, root, controller, err);
	}
	return code;
}

static const CgSetEntry *set_of(const struct cgroups *c, uint32_t id)
{
	if (!id || id == c->root_set)
		return c->own;
	for (size_t i = 0; c->image && i < c->image->n_sets; i++)
		if (c->image->sets[i]->id == id)
			return c->image->sets[i];
	return NULL;
}

static bool says(int group, const char *file, const char *word)
{
	char text[512] = "";
	int fd = openat(group, file, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) < 0)
		*text = 0;
	if (fd >= 0)
		close(fd);
	return strstr(text, word);
}

/* Who would be put there would make no system call any more. */
static bool is_frozen(int group)
{
	return says(group, "cgroup.events", "frozen 1") || says(group, "freezer.state", "FROZEN") ||
	       says(group, "freezer.state", "FREEZING");
}

static int enter(struct cgroups *c, const CgMemberEntry *to, const char *file, pid_t id)
{
	int root = hierarchy_of(c, to->name), group, fd, err;
	char path[4200], text[16];

	if (root < 0)
		return root;
	/* Of the same name there may be another login. */
	if (c->options.mode == CGROUPS_AUTO && strstr(to->path, "/session-"))
		return -EEXIST;
	if (*to->path != '/' || strstr(to->path, "/../") || (size_t)snprintf(path, sizeof(path), ".%s", to->path) >= sizeof(path))
		return -EPROTO;
	group = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group < 0)
		return -errno;
	fd = is_frozen(group) ? -1 : openat(group, file, O_WRONLY | O_CLOEXEC);
	err = fd < 0 ? -EBUSY : 0;
	snprintf(text, sizeof(text), "%d", id);
	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	close(group);
	return err;
}

static const char *reason(int code, char buffer[128])
{
	if (code == -ENOENT || code == -ENODEV)
		return "is not on this host";
	if (code == -EEXIST)
		return "is of a login on the other host";
	if (code == -EBUSY)
		return "is frozen here, or only groups may be in it";
	snprintf(buffer, 128, "takes no process here (%s)", strerror(-code));
	return buffer;
}

/* Groups of one path are told of together. */
struct refusals {
	size_t count;
	struct { const char *path; int code; char names[160]; } at[REFUSALS_MAX];
};

static void refused(struct refusals *r, const CgMemberEntry *member, int code)
{
	const char *name = *member->name ? member->name : "version 2";
	size_t i = 0;

	while (i < r->count && (strcmp(r->at[i].path, member->path) || r->at[i].code != code))
		i++;
	if (i == REFUSALS_MAX)
		return;
	if (i == r->count) {
		r->at[r->count++].names[0] = 0;
		r->at[i].path = member->path;
		r->at[i].code = code;
	}
	snprintf(r->at[i].names + strlen(r->at[i].names), sizeof(r->at[i].names) - strlen(r->at[i].names), "%s%s",
		 *r->at[i].names ? ", " : "", name);
}

static void say(struct cgroups *c, const struct refusals *r)
{
	for (size_t i = 0; i < r->count; i++) {
		char buffer[128], sentence[4600];
		size_t used = strlen(c->said);

		snprintf(sentence, sizeof(sentence), "the control group %s (%s) %s: what was in it is in that of phaul, whose limits it has\n",
			 r->at[i].path, r->at[i].names, reason(r->at[i].code, buffer));
		if (!strstr(c->said, sentence) && used + strlen(sentence) < sizeof(c->said))
			strcpy(c->said + used, sentence);
	}
}

static const char *file_of(const struct cgroups *c, const char *hierarchy, bool thread)
{
	if (!thread)
		return "cgroup.procs";
	for (size_t i = 0; i < c->image->n_controllers; i++) {
		const CgControllerEntry *controller = c->image->controllers[i];

		if (controller->n_cnames && has_controller(hierarchy, controller->cnames[0]))
			return *hierarchy ? "tasks" : "cgroup.threads";
	}
	return NULL;
}

static int place(struct cgroups *c, pid_t id, uint32_t from, uint32_t set, bool thread, struct phaul_error *err)
{
	const CgSetEntry *is = set_of(c, from), *wanted = set_of(c, set);
	struct refusals refusals = { 0 };

	if (!c->image || !set || is == wanted)
		return 0;
	if (!wanted)
		return phaul_fail(err, -EPROTO, "control groups", "the images don't tell what set %u of control groups is, in which %d was",
				  set, id);
	for (size_t i = 0; i < wanted->n_ctls; i++) {
		const CgMemberEntry *member = wanted->ctls[i];
		const char *now = path_in(is, member->name), *file = file_of(c, member->name, thread);
		int code = !file || (now && !strcmp(now, member->path)) ? 0 : enter(c, member, file, id);

		if (code && c->options.mode == CGROUPS_AUTO)
			refused(&refusals, member, code);
		else if (code)
			return phaul_fail(err, code, "control groups", "putting %d into the control group %s of %s", id, member->path,
					  *member->name ? member->name : "version 2");
	}
	say(c, &refusals);
	return 0;
}

int cgroups_place(struct cgroups *c, pid_t pid, uint32_t from, uint32_t set, struct phaul_error *err)
{
	return place(c, pid, from, set, false, err);
}

int cgroups_place_thread(struct cgroups *c, pid_t tid, uint32_t from, uint32_t set, struct phaul_error *err)
{
	return place(c, tid, from, set, true, err);
}

int cgroups_finish(struct cgroups *c, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; c->image && c->options.mode != CGROUPS_AUTO && i < c->image->n_controllers && !code; i++) {
		const CgControllerEntry *controller = c->image->controllers[i];

		for (size_t n = 0; n < c->hierarchy_count && !code; n++)
			if (controller->n_cnames && has_controller(c->hierarchies[n].name, controller->cnames[0]))
				code = cgroup_dirs_finish(c->hierarchies[n].fd, controller, err);
	}
	return code;
}

void cgroups_said(struct cgroups *c, char *ret, size_t size)
{
	snprintf(ret, size, "%s", c->said + c->told);
	c->told = strlen(c->said);
}

void cgroups_free(struct cgroups *c)
{
	if (c->image)
		cgroup_entry__free_unpacked(c->image, NULL);
	if (c->own)
		cg_set_entry__free_unpacked(c->own, NULL);
	for (size_t i = 0; i < c->hierarchy_count; i++) {
		free(c->hierarchies[i].name);
		if (c->hierarchies[i].fd >= 0)
			close(c->hierarchies[i].fd);
	}
	free(c->hierarchies);
	cgroup_options_free(&c->options);
	memset(c, 0, sizeof(*c));
}
