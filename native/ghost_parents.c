/* ghost_parents.c - directories that were missing, in which a file is made again. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ghost_file.h"

int ghost_parents_make(struct ghost_parents *p, const char *name)
{
	char path[PATH_MAX];

	for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		char **larger;

		snprintf(path, sizeof(path), "%.*s", (int)(slash - name), name);
		if (!mkdir(path, 0700)) {
			larger = reallocarray(p->made, p->count + 1, sizeof(*larger));
			if (!larger)
				return -ENOMEM;
			p->made = larger;
			p->made[p->count++] = strdup(path);
		} else if (errno != EEXIST) {
			return -errno;
		}
	}
	return 0;
}

bool ghost_parents_has(const struct ghost_parents *p, const char *path)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->made[i] && !strcmp(p->made[i], path))
			return true;
	return false;
}

/* `keep`: what lies in them stays. */
void ghost_parents_remove(struct ghost_parents *p, bool keep)
{
	while (p->count) {
		char *path = p->made[--p->count];

		if (path && !keep)
			(void)rmdir(path);
		free(path);
	}
	free(p->made);
	p->made = NULL;
}
