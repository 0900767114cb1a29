#include "network_lock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static struct nft_ctx *open_nft(void)
{
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);

	if (nft && (nft_ctx_buffer_error(nft) || nft_ctx_buffer_output(nft))) {
		nft_ctx_free(nft);
		nft = NULL;
	}
	return nft;
}

static int run_in(struct nft_ctx *nft, const char *commands, pid_t pid, const char *what, struct phaul_error *err)
{
	if (!nft)
		return phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);
	if (!nft_run_cmd_from_buffer(nft, commands))
		return 0;
	return phaul_fail(err, -EPERM, "network lock", "%s the connections of pid %d by nftables: %.*s", what, pid,
			  (int)strcspn(nft_ctx_get_error_buffer(nft), "\n"), nft_ctx_get_error_buffer(nft));
}

static int run(const char *commands, pid_t pid, const char *what, struct phaul_error *err)
{
	struct nft_ctx *nft = open_nft();
	int code = run_in(nft, commands, pid, what, err);

	if (nft)
		nft_ctx_free(nft);
	return code;
}

static bool is_six(const struct connection_pair *pair)
{
	return pair->local.any.sa_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&pair->local.v6.sin6_addr);
}

/* "ADDRESS . PORT"; IPv4 that looks like IPv6 as what it is. */
static void print_end(FILE *to, const union tcp_address *a)
{
	bool six = a->any.sa_family == AF_INET6, mapped = six && IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr);
	const void *address = !six ? (void *)&a->v4.sin_addr : mapped ? &a->v6.sin6_addr.s6_addr[12] : (void *)&a->v6.sin6_addr;
	char text[INET6_ADDRSTRLEN];

	inet_ntop(six && !mapped ? AF_INET6 : AF_INET, address, text, sizeof(text));
	fprintf(to, "%s . %u", text, ntohs(six ? a->v6.sin6_port : a->v4.sin_port));
}

static size_t print_elements(FILE *to, bool six, const struct connection_pair *pairs, size_t count, const char *before)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		if (is_six(&pairs[i]) != six)
			continue;
		fprintf(to, "%s", n++ ? ", " : before);
		print_end(to, &pairs[i].local);
		fprintf(to, " . ");
		print_end(to, &pairs[i].peer);
	}
	return n;
}

static void print_set(FILE *to, bool six, const struct connection_pair *pairs, size_t count)
{
	int version = six ? 6 : 4;

	fprintf(to, " set c%d { type ipv%d_addr . inet_service . ipv%d_addr . inet_service;", version, version, version);
	fprintf(to, print_elements(to, six, pairs, count, " elements = { ") ? " } }\n" : " }\n");
}

static void print_chain(FILE *to, const char *hook, const char *ours, const char *theirs)
{
	fprintf(to, " chain %s { type filter hook %s priority -400;\n", hook, hook);
	for (int version = 4; version <= 6; version += 2)
		fprintf(to, "  meta mark != 0x%x ip%s %saddr . tcp %sport . ip%s %saddr . tcp %sport @c%d drop\n", TCP_RESTORE_MARK,
			version == 6 ? "6" : "", ours, ours, version == 6 ? "6" : "", theirs, theirs, version);
	fprintf(to, " }\n");
}

int network_lock(pid_t pid, const struct connection_pair *pairs, size_t count, struct phaul_error *err)
{
	char *commands = NULL;
	size_t size;
	FILE *to = open_memstream(&commands, &size);
	int code;

	if (!to)
		return phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);
	/* One transaction; deleted first, where adding makes sure that it can be. */
	fprintf(to, "add table inet phaul-%d\ndelete table inet phaul-%d\ntable inet phaul-%d {\n", pid, pid, pid);
	print_set(to, false, pairs, count);
	print_set(to, true, pairs, count);
	print_chain(to, "input", "d", "s");
	print_chain(to, "output", "s", "d");
	fprintf(to, "}\n");
	fclose(to);
	code = run(commands, pid, "locking", err);
	free(commands);
	return code;
}

int network_unlock(pid_t pid, struct phaul_error *err)
{
	char commands[128];

	snprintf(commands, sizeof(commands), "add table inet phaul-%d\ndelete table inet phaul-%d\n", pid, pid);
	return run(commands, pid, "unlocking", err);
}

/* ---- for the time of a switch ---- */

static size_t print_address_elements(FILE *to, const struct moved_addresses *a, int family, const char *before)
{
	char text[INET6_ADDRSTRLEN];
	size_t n = 0;

	for (size_t i = 0; i < a->count; i++)
		if (a->at[i].family == family)
			fprintf(to, "%s%s", n++ ? ", " : before, inet_ntop(family, &a->at[i].at, text, sizeof(text)));
	return n;
}

/* Before the routing decision: one that has been taken off this host is no local address any more. */
static void print_address_chain(FILE *to, const char *hook, const char *side)
{
	fprintf(to, " chain a%s { type filter hook %s priority -400;\n", hook, hook);
	for (int version = 4; version <= 6; version += 2)
		fprintf(to, "  meta mark != 0x%x meta iifname != \"lo\" ip%s %saddr @a%d drop\n", TCP_RESTORE_MARK, version == 6 ? "6" : "", side, version);
	fprintf(to, " }\n");
}

static bool moves(const struct connection_pair *pair, const struct moved_addresses *a)
{
	bool six = pair->local.any.sa_family == AF_INET6, mapped = six && IN6_IS_ADDR_V4MAPPED(&pair->local.v6.sin6_addr);
	const void *address = !six ? (void *)&pair->local.v4.sin_addr :
			      mapped ? &pair->local.v6.sin6_addr.s6_addr[12] : (void *)&pair->local.v6.sin6_addr;

	for (size_t i = 0; i < a->count; i++)
		if (a->at[i].family == (six && !mapped ? AF_INET6 : AF_INET) && !memcmp(&a->at[i].at, address, six && !mapped ? 16 : 4))
			return true;
	return false;
}

static void print_table(FILE *to, pid_t pid)
{
	fprintf(to, "table inet phaul-%d-move { flags owner;\n set a4 { type ipv4_addr; }\n set a6 { type ipv6_addr; }\n"
		" set n4 { type ipv4_addr; }\n set n6 { type ipv6_addr; }\n chain new { type filter hook prerouting priority -400;\n"
		"  ip daddr @n4 tcp flags & (syn | ack) == syn drop\n  ip6 daddr @n6 tcp flags & (syn | ack) == syn drop\n }\n", pid);
	print_set(to, false, NULL, 0);
	print_set(to, true, NULL, 0);
	print_chain(to, "input", "d", "s");
	print_chain(to, "output", "s", "d");
	print_address_chain(to, "prerouting", "d");
	print_address_chain(to, "output", "s");
	fprintf(to, "}\n");
}

static void print_addresses(FILE *to, pid_t pid, char set, const struct moved_addresses *addresses)
{
	char before[64];

	for (int version = 4; version <= 6; version += 2) {
		snprintf(before, sizeof(before), "add element inet phaul-%d-move %c%d { ", pid, set, version);
		if (print_address_elements(to, addresses, version == 6 ? AF_INET6 : AF_INET, before))
			fprintf(to, " }\n");
	}
}

static void print_held(FILE *to, pid_t pid, const struct connection_pair *pairs, size_t count, const struct moved_addresses *addresses)
{
	char before[64];

	print_addresses(to, pid, 'a', addresses);
	for (int version = 4; version <= 6; version += 2) {
		snprintf(before, sizeof(before), "add element inet phaul-%d-move c%d { ", pid, version);
		if (print_elements(to, version == 6, pairs, count, before))
			fprintf(to, " }\n");
	}
}

int network_hold(struct network_hold *h, pid_t pid, const struct connection_pair *pairs, size_t count,
		 const struct moved_addresses *addresses, struct phaul_error *err)
{
	struct connection_pair *others = calloc(count + 1, sizeof(*others));
	const struct moved_addresses none = {0};
	char *commands = NULL;
	size_t size, other_count = 0;
	FILE *to = open_memstream(&commands, &size);
	int code = others && to ? 0 : phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);

	for (size_t i = 0; i < count && !code; i++)
		if (!moves(&pairs[i], addresses))
			others[other_count++] = pairs[i];
	if (to) {
		if (!code && !h->ready)
			print_table(to, pid);
		if (!code)
			print_held(to, pid, others, other_count, h->addressed ? &none : addresses);
		fclose(to);
	}
	if (!code && !h->nft)
		h->nft = open_nft();
	code = code ?: size ? run_in(h->nft, commands, pid, "locking", err) : 0;
	h->ready = !code;
	h->addressed = h->addressed || (!code && addresses->count);
	free(commands);
	free(others);
	if (code)
		network_let_go(h);
	return code;
}

int network_hold_new(struct network_hold *h, pid_t pid, const struct moved_addresses *addresses, struct phaul_error *err)
{
	int code = h->ready ? 0 : network_hold(h, pid, NULL, 0, &(struct moved_addresses){0}, err);
	char *commands = NULL;
	size_t size;
	FILE *to = code ? NULL : open_memstream(&commands, &size);

	if (!to)
		return code ? code : phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);
	print_addresses(to, pid, 'n', addresses);
	fclose(to);
	code = run_in(h->nft, commands, pid, "keeping back", err);
	free(commands);
	return code;
}

void network_prepare(struct network_hold *h, pid_t pid, const struct moved_addresses *addresses)
{
	(void)network_hold(h, pid, NULL, 0, addresses, NULL);
}

void network_open(struct network_hold *h, pid_t pid)
{
	char command[64];

	snprintf(command, sizeof(command), "delete table inet phaul-%d-move", pid);
	if (h->ready && run_in(h->nft, command, pid, "unlocking", NULL))
		network_let_go(h);
	h->ready = h->addressed = false;
}

/* The kernel takes such tables away with the socket that made them. */
void network_let_go(struct network_hold *h)
{
	if (h->nft)
		nft_ctx_free(h->nft);
	h->nft = NULL;
	h->ready = h->addressed = false;
}
