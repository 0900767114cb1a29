/* cgroup.h - the control groups that processes and threads are in, in each hierarchy: version 1, named ones and version 2.
 *
 * Where nothing else is asked for, a process is put where it was if there is such a group, and stays in phaul's if not.
 */
#ifndef PHAUL_CGROUP_H
#define PHAUL_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "cgroup.pb-c.h"
#include "../image.h"

/* All but the first as criu has them: `none` and `props` want the groups to be there, `strict` wants them not to be; of
 * those that are there `soft` leaves the properties alone. */
enum cgroup_mode { CGROUPS_AUTO, CGROUPS_IGNORE, CGROUPS_NONE, CGROUPS_PROPS, CGROUPS_SOFT, CGROUPS_FULL, CGROUPS_STRICT };

struct cgroup_options {
	enum cgroup_mode mode;
	struct cgroup_root { char *controller, *path; } *roots;	/* "": of all other controllers */
	size_t root_count;
	char *yard;			/* a directory in which hierarchies are mounted, each under its name; NULL */
};

/* Lines: a mode; "root=[CONTROLLER:]/PATH"; "yard=DIRECTORY". NULL or "": the usual. */
int cgroup_options_parse(const char *text, struct cgroup_options *ret, struct phaul_error *err);
void cgroup_options_free(struct cgroup_options *o);
/* That was named for one of these controllers, or for all; NULL: none. */
const char *cgroup_options_root(const struct cgroup_options *o, const char *hierarchy);

/* ---- dump ---- */

#define CGROUP_OWN_SET 1	/* the number of the set that phaul is in itself */

struct cgroup_set {
	uint32_t id;
	char *text;			/* of /proc/PID/cgroup */
};

struct cgroup_sets {
	struct cgroup_set *at;		/* phaul's own first */
	size_t count;
};

/* The number of the set that a thread is in. Those of a set live as long as the sets do. */
int cgroup_set_of(struct cgroup_sets *sets, pid_t pid, pid_t tid, uint32_t *ret_id);
void cgroup_sets_free(struct cgroup_sets *sets);
/* Writes "cgroup", if there is anything to be told; with the groups themselves if the mode makes such. */
int cgroup_sets_dump(const struct cgroup_sets *sets, const struct cgroup_options *o, struct image_set *to, struct phaul_error *err);

/* ---- build ---- */

struct cgroups {
	struct cgroup_options options;
	CgroupEntry *image;
	uint32_t root_set;		/* of the one who dumped */
	CgSetEntry *own;		/* where we are ourselves */
	/* The hierarchies that were used, our descriptors of them. */
	struct cgroup_hierarchy { char *name; int fd; } *hierarchies;
	size_t hierarchy_count;
	char said[4096];		/* sentences for the operator, one a line */
	size_t told;			/* of these */
};

/* What the images tell, if they do, in the place of what those before told. */
int cgroups_read(struct cgroups *c, const struct image_set *images, struct phaul_error *err);
/* Makes the groups that are to be made. */
int cgroups_make(struct cgroups *c, struct phaul_error *err);
/* Puts a process into the groups of a set. It is in those of `from`, 0: in ours. */
int cgroups_place(struct cgroups *c, pid_t pid, uint32_t from, uint32_t set, struct phaul_error *err);
/* The same for one of its threads, where threads may be by themselves; the process is in those of `from`. */
int cgroups_place_thread(struct cgroups *c, pid_t tid, uint32_t from, uint32_t set, struct phaul_error *err);
/* The properties of the groups, when all are in them. */
int cgroups_finish(struct cgroups *c, struct phaul_error *err);
/* What was said since the last call. */
void cgroups_said(struct cgroups *c, char *ret, size_t size);
void cgroups_free(struct cgroups *c);

/* ---- cgroup_dirs.c: groups with their properties ---- */

/* The hierarchy of a name as in /proc/PID/cgroup, a directory descriptor. -errno */
int cgroup_open(const struct cgroup_options *o, const char *hierarchy);
/* Adds the group at `path`, which begins with a slash, with all below it. */
int cgroup_dirs_dump(int root, const char *path, CgControllerEntry *to);
int cgroup_dirs_make(const struct cgroup_options *o, int root, const CgControllerEntry *c, struct phaul_error *err);
int cgroup_dirs_finish(int root, const CgControllerEntry *c, struct phaul_error *err);

#endif
