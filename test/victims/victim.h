/* victim.h - a program that sets something up, is moved, and then checks itself.
 *
 *	NAME REPORT [arguments]
 *
 * It appends "ready" to the file REPORT when all is set up. SIGTERM makes it check itself: it appends "ok" or
 * "failed: why" and ends, with 0 or 1. SIGUSR1 starts a new measurement of the largest gap, SIGUSR2 appends
 * "gap MS": the longest that the program stood still by its own clock.
 */
#ifndef VICTIM_H
#define VICTIM_H

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *victim_path;
static volatile sig_atomic_t victim_ended, victim_mark, victim_tell;
static uint64_t victim_last_ns, victim_gap_ns;

static inline uint64_t victim_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Opens the file for each line, so that nothing of the report is open while the program is moved. */
__attribute__((format(printf, 1, 2))) static inline void victim_report(const char *format, ...)
{
	char line[512];
	va_list args;
	int fd = open(victim_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	line[n++] = '\n';
	if (fd < 0 || write(fd, line, n) != n)
		abort();
	close(fd);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void victim_fail(const char *format, ...)
{
	char why[400];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	victim_report("failed: %s", why);
	exit(1);
}

#define victim_check(condition) \
	do { if (!(condition)) victim_fail("%s:%d: %s", __FILE__, __LINE__, #condition); } while (0)

static inline void victim_signal(int signal)
{
	if (signal == SIGTERM)
		victim_ended = 1;
	else if (signal == SIGUSR1)
		victim_mark = 1;
	else
		victim_tell = 1;
}

static inline void victim_begin(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = victim_signal, .sa_flags = SA_RESTART };

	if (argc < 2) {
		fprintf(stderr, "usage: %s REPORT [arguments]\n", argv[0]);
		exit(2);
	}
	victim_path = argv[1];
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
}

/* Call often, by the main loop: keeps the largest gap. Returns 0 when it is time to check. */
static inline int victim_tick(void)
{
	uint64_t now = victim_now_ns();

	if (victim_last_ns && now - victim_last_ns > victim_gap_ns)
		victim_gap_ns = now - victim_last_ns;
	victim_last_ns = now;
	if (victim_mark) {
		victim_mark = 0;
		victim_gap_ns = 0;
	}
	if (victim_tell) {
		victim_tell = 0;
		victim_report("gap %.3f", victim_gap_ns / 1e6);
		victim_last_ns = victim_now_ns();
	}
	return !victim_ended;
}

static inline void victim_ready(void)
{
	victim_last_ns = victim_gap_ns = 0;
	victim_report("ready");
}

static inline int victim_ok(void)
{
	victim_report("ok");
	return 0;
}

#endif
