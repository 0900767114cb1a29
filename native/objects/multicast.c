#include "multicast.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SOURCES_MAX 64		/* net.ipv4.igmp_max_msf is 10 */
#define MEMBERSHIPS_MAX 256
#define FILTER_BYTES GROUP_FILTER_SIZE(SOURCES_MAX)

struct group {
	unsigned int device;
	struct sockaddr_storage at;
};

static int level_of(const struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

static socklen_t size_of(const struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET6 ? 16 : 4;
}

static void *bytes_of(struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)at)->sin6_addr : (void *)&((struct sockaddr_in *)at)->sin_addr;
}

/* ---- dump ---- */

/* "4	eth0 : ..." and below it "				FB0000E0     1 ...", the bytes of the address as a number of this machine. */
static bool next_v4(FILE *f, struct group *g)
{
	char line[160];
	uint32_t address;

	while (fgets(line, sizeof(line), f)) {
		if (*line != '\t') {
			g->device = strtoul(line, NULL, 10);
		} else if (sscanf(line, " %x", &address) == 1) {
			g->at = (struct sockaddr_storage){ .ss_family = AF_INET };
			memcpy(bytes_of(&g->at), &address, sizeof(address));
			return true;
		}
	}
	return false;
}

/* "4    eth0            ff0200000000000000000000000000fb     1 ..." */
static bool next_v6(FILE *f, struct group *g)
{
	char line[160], address[40];

	while (fgets(line, sizeof(line), f)) {
		uint8_t bytes[16];
		bool whole = sscanf(line, "%u %*s %32[0-9a-f]", &g->device, address) == 2 && strlen(address) == 32;

		for (int i = 0; i < 16 && whole; i++)
			whole = sscanf(address + 2 * i, "%2hhx", &bytes[i]) == 1;
		if (!whole)
			continue;
		g->at = (struct sockaddr_storage){ .ss_family = AF_INET6 };
		memcpy(bytes_of(&g->at), bytes, sizeof(bytes));
		return true;
	}
	return false;
}

static int put_membership(struct dump *dump, struct group_filter *filter, InetSkEntry *to)
{
	PhaulMembership **list = to->phaul_memberships ?: dump_alloc(dump, MEMBERSHIPS_MAX * sizeof(*list)), *m = dump_alloc(dump, sizeof(*m));
	char *device = dump_alloc(dump, IF_NAMESIZE);
	uint8_t *address = dump_alloc(dump, 16 * (filter->gf_numsrc + 1));

	if (!list || !m || !device || !address)
		return -ENOMEM;
	phaul_membership__init(m);
	m->device = if_indextoname(filter->gf_interface, device) ?: "";
	m->mode = filter->gf_fmode;
	m->group.len = size_of(&filter->gf_group);
	m->group.data = memcpy(address, bytes_of(&filter->gf_group), m->group.len);
	m->sources = dump_alloc(dump, (filter->gf_numsrc + 1) * sizeof(*m->sources));
	if (!m->sources)
		return -ENOMEM;
	for (uint32_t i = 0; i < filter->gf_numsrc; i++) {
		m->sources[i].len = m->group.len;
		m->sources[i].data = memcpy(address + 16 * (i + 1), bytes_of(&filter->gf_slist[i]), m->group.len);
	}
	m->n_sources = filter->gf_numsrc;
	to->phaul_memberships = list;
	list[to->n_phaul_memberships++] = m;
	return 0;
}

/* Is this socket a member? */
static int ask(struct dump *dump, int fd, const struct group *g, InetSkEntry *to)
{
	union { struct group_filter filter; uint8_t room[FILTER_BYTES]; } answer = { .filter = {
		.gf_interface = g->device, .gf_group = g->at, .gf_numsrc = SOURCES_MAX,
	} };
	socklen_t size = sizeof(answer);

	if (getsockopt(fd, level_of(&g->at), MCAST_MSFILTER, &answer, &size) < 0)
		return 0;
	return answer.filter.gf_numsrc > SOURCES_MAX || to->n_phaul_memberships == MEMBERSHIPS_MAX ? -E2BIG :
	       put_membership(dump, &answer.filter, to);
}

static int ask_all(struct dump *dump, int fd, const char *path, bool (*next)(FILE *, struct group *), InetSkEntry *to)
{
	struct group g = { 0 };
	FILE *f = fopen(path, "re");
	int err = 0;

	while (f && !err && next(f, &g))
		err = ask(dump, fd, &g, to);
	if (f)
		fclose(f);
	return err;
}

int multicast_dump(struct dump *dump, int fd, InetSkEntry *to)
{
	/* Sockets of IPv6 may be members of groups of both kinds. */
	return ask_all(dump, fd, "/proc/net/igmp", next_v4, to) ?:
	       to->family == AF_INET6 ? ask_all(dump, fd, "/proc/net/igmp6", next_v6, to) : 0;
}

/* ---- build ---- */

static int join(int fd, const PhaulMembership *m)
{
	union { struct group_filter filter; uint8_t room[FILTER_BYTES]; } all = { .filter = {
		.gf_interface = if_nametoindex(m->device), .gf_fmode = m->mode, .gf_numsrc = m->n_sources,
		.gf_group.ss_family = m->group.len == 16 ? AF_INET6 : AF_INET,
	} };
	struct group_req group;

	if ((m->group.len != 4 && m->group.len != 16) || m->n_sources > SOURCES_MAX)
		return -EPROTO;
	memcpy(bytes_of(&all.filter.gf_group), m->group.data, m->group.len);
	for (size_t i = 0; i < m->n_sources; i++) {
		if (m->sources[i].len != m->group.len)
			return -EPROTO;
		all.filter.gf_slist[i].ss_family = all.filter.gf_group.ss_family;
		memcpy(bytes_of(&all.filter.gf_slist[i]), m->sources[i].data, m->group.len);
	}
	group = (struct group_req){ all.filter.gf_interface, all.filter.gf_group };
	if (setsockopt(fd, level_of(&group.gr_group), MCAST_JOIN_GROUP, &group, sizeof(group)) < 0)
		return -errno;
	/* All sources but none is what a new member has. */
	if (m->mode == MCAST_EXCLUDE && !m->n_sources)
		return 0;
	return setsockopt(fd, level_of(&group.gr_group), MCAST_MSFILTER, &all, GROUP_FILTER_SIZE(m->n_sources)) < 0 ? -errno : 0;
}

int multicast_build(struct build *b, int fd, const InetSkEntry *image)
{
	for (size_t i = 0; i < image->n_phaul_memberships; i++) {
		const PhaulMembership *m = image->phaul_memberships[i];
		char group[INET6_ADDRSTRLEN] = "?";
		int err = join(fd, m);

		if (!err)
			continue;
		(void)inet_ntop(m->group.len == 16 ? AF_INET6 : AF_INET, m->group.data, group, sizeof(group));
		return phaul_fail(b->err, err, "descriptors", "making a datagram socket a member of the multicast group %s on %s", group, m->device);
	}
	return 0;
}
