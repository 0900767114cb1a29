/* socket_options.h - what was set on a socket, as far as it differs from a new one. */
#ifndef PHAUL_SOCKET_OPTIONS_H
#define PHAUL_SOCKET_OPTIONS_H

#include <linux/filter.h>

#include "object.h"

#define SOCKET_OPTIONS_OTHERS 64
#define FILTER_MAX 4096		/* BPF_MAXINSNS */

/* Memory for the parts of an image, which it points into. */
struct socket_options {
	SkOptsEntry sk;
	IpOptsEntry ip;
	TcpOptsEntry tcp;
	SkOptionEntry others[SOCKET_OPTIONS_OTHERS];
	SkOptionEntry *list[SOCKET_OPTIONS_OTHERS];
	int values[SOCKET_OPTIONS_OTHERS];
	char device[16];
	uint8_t icmp6[32];		/* ICMP6_FILTER */
	char congestion[16];		/* TCP_CONGESTION */
	uint64_t filter[FILTER_MAX];
	struct sock_filter program[FILTER_MAX];
};

/* Of whole numbers; -1 also if there is no such option. */
int socket_option(int fd, int level, int name);
int socket_options_dump(int fd, struct socket_options *store, struct socket_defaults **known,
			InetSkEntry *image);
/* As if nothing had been set. */
void socket_options_none(struct socket_options *store, InetSkEntry *image);
/* Those that were added since the list was `before`. */
void socket_defaults_free(struct socket_defaults **known, const struct socket_defaults *before);
/* Asks for those of TCP, so that several threads find them. */
void socket_defaults_prepare(struct socket_defaults **known);
/* Before bind(). The error names the option. */
int socket_options_build(int fd, const InetSkEntry *image, struct phaul_error *err);

#endif
