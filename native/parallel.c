#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 16
#define WORTH_A_THREAD 16	/* to start one takes as long as some ten system calls */

struct work {
	int (*each)(void *ctx, size_t index, struct phaul_error *err);
	void *ctx;
	size_t count;
	atomic_size_t next;
	pthread_mutex_t lock;
	int code;
	struct phaul_error error;
};

static void run(struct work *w)
{
	size_t i;

	while ((i = atomic_fetch_add(&w->next, 1)) < w->count) {
		struct phaul_error error = {0};
		int code = w->each(w->ctx, i, &error);

		if (!code)
			continue;
		pthread_mutex_lock(&w->lock);
		if (!w->code) {
			w->code = code;
			w->error = error;
		}
		pthread_mutex_unlock(&w->lock);
		atomic_store(&w->next, w->count);
	}
}

static void *help(void *ctx)
{
	run(ctx);
	return NULL;
}

/* The caller may be bound to one CPU for a while, the main thread never is. A helper that began bound like that would wait
 * behind a real-time caller until that is done, and only then be moved elsewhere. */
static size_t start_helpers(struct work *w, pthread_t *threads, size_t wanted)
{
	cpu_set_t own, all;
	bool bound = wanted && !sched_getaffinity(0, sizeof(own), &own) && !sched_getaffinity(getpid(), sizeof(all), &all) &&
		     !CPU_EQUAL(&own, &all);
	size_t started = 0;

	if (bound)
		(void)sched_setaffinity(0, sizeof(all), &all);
	while (started < wanted && !pthread_create(&threads[started], NULL, help, w))
		started++;
	if (bound)
		(void)sched_setaffinity(0, sizeof(own), &own);
	return started;
}

int parallel(size_t count, int (*each)(void *ctx, size_t index, struct phaul_error *err), void *ctx, struct phaul_error *err)
{
	struct work w = { .each = each, .ctx = ctx, .count = count, .lock = PTHREAD_MUTEX_INITIALIZER };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	size_t started, wanted = count / WORTH_A_THREAD;

	if (wanted > (size_t)cpus)
		wanted = cpus;
	if (wanted > THREADS_MAX)
		wanted = THREADS_MAX;
	started = start_helpers(&w, threads, wanted ? wanted - 1 : 0);
	run(&w);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	if (w.code && err)
		*err = w.error;
	return w.code;
}
