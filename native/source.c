/* source.c - processes that leave: opened, and closed in whatever state they are. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "objects/clocks.h"
#include "source.h"

int phaul_abi_version(void)
{
	return PHAUL_ABI_VERSION;
}

int phaul_clocks(int pid, char *ret_text, size_t size, struct phaul_error *err)
{
	struct clocks seen;
	int code = clocks_seen_by(pid, &seen);

	if (code)
		return phaul_fail(err, code, "source", "reading the clocks of pid %d", pid);
	snprintf(ret_text, size, "%lld %lld%s", (long long)seen.monotonic, (long long)seen.boottime, clocks_are_own(pid) ? " own" : "");
	return 0;
}

int phaul_source_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, struct phaul_source **ret,
		      struct phaul_error *err)
{
	struct phaul_source *src = calloc(1, sizeof(*src));
	struct task task;
	int code;

	if (!src)
		return phaul_fail(err, -ENOMEM, "source", "opening pid %d", pid);
	src->pid = pid;
	src->flags = flags;
	src->births = ROOT_BIRTH;
	src->caught = -ENOENT;
	if (task_read(pid, &task) || task.state == TASK_DEAD) {
		free(src);
		return phaul_fail(err, -ESRCH, "source", "there is no process %d here", pid);
	}
	code = tracker_choose(NULL, &src->tracker, err) ?: addresses_parse(addresses, &src->addresses, err) ?:
	       cgroup_options_parse(cgroups, &src->cgroup_options, err);
	if (code) {
		addresses_free(&src->addresses);
		free(src);
		return code;
	}
	*ret = src;
	return 0;
}

int phaul_source_track_by(struct phaul_source *src, const char *tracker, struct phaul_error *err)
{
	return tracker_choose(tracker, &src->tracker, err);
}

int phaul_source_stdio(struct phaul_source *src, const char *output, struct phaul_error *err)
{
	free(src->stdio);
	src->stdio = strdup(output);
	return src->stdio ? 0 : phaul_fail(err, -ENOMEM, "source", "opening pid %d", src->pid);
}

int phaul_source_arm(struct phaul_source *src, uint64_t *ret_stop_ns, struct phaul_error *err)
{
	int code = source_look(src, err);

	if (src->flags & PHAUL_TCP_ESTABLISHED || src->addresses.count)
		network_prepare(&src->hold, src->pid, &(struct moved_addresses){0});
	*ret_stop_ns = src->longest_stop_ns;
	return code;
}

void phaul_source_close(struct phaul_source *src)
{
	if (!src)
		return;
	if (source_is_frozen(src) && !src->committed)
		(void)phaul_source_thaw(src, NULL);
	tree_state_free(&src->state, false);
	network_let_go(&src->hold);
	if (!src->committed)
		source_deliver_caught(src);
	source_close_caught(src);
	free(src->stdio);
	addresses_free(&src->addresses);
	cgroup_options_free(&src->cgroup_options);
	cgroup_sets_free(&src->cgroups);
	tree_free(&src->tree);
	tree_free(&src->seen);
	source_stop_tracking(src);
	free(src->members);
	free(src->origin);
	shared_track_free(&src->shared);
	shmem_free(&src->dumped, false);
	ghost_set_free(&src->ghosts, true);
	free(src);
}

int phaul_source_checksum(struct phaul_source *src, char *ret_text, size_t size, struct phaul_error *err)
{
	struct shared_view *views;
	size_t used = 0, count = 0;
	int code = source_track_new(src, err);

	for (size_t i = 0; i < src->count && !code; i++) {
		struct memory_map map;
		pid_t pid = src->members[i].task.pid;
		int mem;
		char path[32];

		if (src->members[i].task.state == TASK_DEAD)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/mem", pid);
		mem = open(path, O_RDONLY | O_CLOEXEC);
		code = mem < 0 ? phaul_fail(err, -errno, "source", "opening %s", path) : memory_map_read(pid, false, &map, err);
		if (!code) {
			code = checksum(mem, &map, ret_text + used, size - used, err);
			used += strlen(ret_text + used);
			memory_map_free(&map);
		}
		if (mem >= 0)
			close(mem);
	}
	views = calloc(src->shared.count + 1, sizeof(*views));
	for (size_t i = 0; views && i < src->shared.count; i++)
		if (src->shared.at[i].at)
			views[count++] = (struct shared_view){ src->shared.at[i].id, src->shared.at[i].at, src->shared.at[i].size };
	code = code ?: views ? checksum_shared(views, count, ret_text + used, size - used, err) :
			       phaul_fail(err, -ENOMEM, "source", "comparing shared memory");
	free(views);
	return code;
}
