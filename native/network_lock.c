#include "network_lock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static int run(const char *commands, pid_t pid, const char *what, struct phaul_error *err)
{
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
	int code = 0;

	if (!nft || nft_ctx_buffer_error(nft) || nft_ctx_buffer_output(nft))
		code = phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);
	else if (nft_run_cmd_from_buffer(nft, commands))
		code = phaul_fail(err, -EPERM, "network lock", "%s the connections of pid %d by nftables: %.*s", what, pid,
				  (int)strcspn(nft_ctx_get_error_buffer(nft), "\n"), nft_ctx_get_error_buffer(nft));
	if (nft)
		nft_ctx_free(nft);
	return code;
}

static bool is_locked(pid_t pid)
{
	char command[64];

	snprintf(command, sizeof(command), "list table inet phaul-%d", pid);
	return !run(command, pid, "looking for", NULL);
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

static void print_set(FILE *to, bool six, const struct connection_pair *pairs, size_t count)
{
	int version = six ? 6 : 4;
	size_t n = 0;

	fprintf(to, " set c%d { type ipv%d_addr . inet_service . ipv%d_addr . inet_service;", version, version, version);
	for (size_t i = 0; i < count; i++) {
		if (is_six(&pairs[i]) != six)
			continue;
		fprintf(to, n++ ? ", " : " elements = { ");
		print_end(to, &pairs[i].local);
		fprintf(to, " . ");
		print_end(to, &pairs[i].peer);
	}
	fprintf(to, n ? " } }\n" : " }\n");
}

static void print_chain(FILE *to, const char *hook, const char *ours, const char *theirs)
{
	fprintf(to, " chain %s { type filter hook %s priority -400;\n", hook, hook);
	for (int version = 4; version <= 6; version += 2)
		fprintf(to, "  meta mark != 0x%x ip%s %saddr . tcp %sport . ip%s %saddr . tcp %sport @c%d drop\n", TCP_RESTORE_MARK,
			version == 6 ? "6" : "", ours, ours, version == 6 ? "6" : "", theirs, theirs, version);
	fprintf(to, " }\n");
}

int network_lock(pid_t pid, const struct connection_pair *pairs, size_t count, bool *ret_was_locked, struct phaul_error *err)
{
	char *commands = NULL;
	size_t size;
	FILE *to = open_memstream(&commands, &size);
	int code;

	if (!to)
		return phaul_fail(err, -ENOMEM, "network lock", "preparing nftables for pid %d", pid);
	if (ret_was_locked)
		*ret_was_locked = is_locked(pid);
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
