#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
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
	cpu_set_t all;

	/* The caller may be bound to one CPU for a while, the main thread never is. */
	if (!sched_getaffinity(getpid(), sizeof(all), &all))
		(void)sched_setaffinity(0, sizeof(all), &all);
	run(ctx);
	return NULL;
}

int parallel(size_t count, int (*each)(void *ctx, size_t index, struct phaul_error *err), void *ctx, struct phaul_error *err)
{
	struct work w = { .each = each, .ctx = ctx, .count = count, .lock = PTHREAD_MUTEX_INITIALIZER };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	size_t started = 0, wanted = count / WORTH_A_THREAD;

	if (wanted > (size_t)cpus)
		wanted = cpus;
	if (wanted > THREADS_MAX)
		wanted = THREADS_MAX;
	while (started + 1 < wanted && !pthread_create(&threads[started], NULL, help, &w))
		started++;
	run(&w);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	if (w.code && err)
		*err = w.error;
	return w.code;
}
