/* credentials.c - REPORT: another user with some capabilities left, limits, and what prctl() and /proc keep.
 */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "victim.h"

#define SIZE 8192

static char before[SIZE], after[SIZE];

static void read_line(const char *path, const char *name, char *to)
{
	FILE *f = fopen(path, "r");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			strncat(to, line, SIZE - 1 - strlen(to));
	if (f)
		fclose(f);
}

static void describe(char *to)
{
	const char *const names[] = { "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs" };
	struct rlimit limit;
	char line[128];
	int value;

	*to = 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		read_line("/proc/self/status", names[i], to);
	read_line("/proc/self/oom_score_adj", "", to);
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		victim_check(getrlimit(i, &limit) == 0);
		snprintf(line, sizeof(line), "limit %d: %lu %lu\n", i, limit.rlim_cur, limit.rlim_max);
		strncat(to, line, SIZE - 1 - strlen(to));
	}
	victim_check(prctl(PR_GET_PDEATHSIG, &value) == 0);
	snprintf(line, sizeof(line), "nice %d, scheduler %d, securebits %x, dumpable %d, personality %x\n",
		 getpriority(PRIO_PROCESS, 0), sched_getscheduler(0), prctl(PR_GET_SECUREBITS), prctl(PR_GET_DUMPABLE),
		 personality(0xffffffff));
	strncat(to, line, SIZE - 1 - strlen(to));
	victim_check(prctl(PR_GET_CHILD_SUBREAPER, &value) == 0);
	snprintf(line, sizeof(line), "subreaper %d, no huge pages %d\n", value, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	strncat(to, line, SIZE - 1 - strlen(to));
}

static void set_caps(uint32_t effective, uint32_t permitted, uint32_t inheritable)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { effective, permitted, inheritable }, { 0, 0, 0 } };

	victim_check(syscall(SYS_capset, &head, data) == 0);
}

int main(int argc, char **argv)
{
	gid_t groups[] = { 7, 1000, 65000 };
	uint32_t bind = 1u << CAP_NET_BIND_SERVICE, kill = 1u << CAP_KILL, admin = 1u << CAP_NET_ADMIN;
	int fd;

	victim_begin(argc, argv);
	fd = open(victim_path, O_WRONLY | O_CREAT | O_APPEND, 0666);
	victim_check(fd >= 0 && fchmod(fd, 0666) == 0);
	close(fd);
	victim_check(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 300, 400 }) == 0);
	victim_check(setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 }) == 0);
	victim_check(setrlimit(RLIMIT_AS, &(struct rlimit){ 1ul << 40, RLIM_INFINITY }) == 0);
	victim_check(setpriority(PRIO_PROCESS, 0, 5) == 0);
	victim_check(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}) == 0);
	fd = open("/proc/self/oom_score_adj", O_WRONLY);
	victim_check(fd >= 0 && write(fd, "123", 3) == 3);
	close(fd);
	personality(ADDR_NO_RANDOMIZE);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	victim_check(setgroups(3, groups) == 0);
	victim_check(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME) == 0 && prctl(PR_CAPBSET_DROP, CAP_SYS_RAWIO) == 0);
	victim_check(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP) == 0);
	victim_check(setresgid(1000, 1001, 1002) == 0 && setresuid(1000, 1001, 1002) == 0);
	set_caps(bind | kill, bind | kill | admin, bind);
	prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS);	/* without CAP_SETPCAP it stays what it was */
	victim_check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	describe(before);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	describe(after);
	if (strcmp(before, after)) {
		char *a = before, *b = after;

		while (*a && *a == *b)
			a++, b++;
		while (a > before && a[-1] != '\n')
			a--, b--;
		victim_fail("%.100s instead of %.100s", strtok(b, "\n"), strtok(a, "\n"));
	}
	return victim_ok();
}
