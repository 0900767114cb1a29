/* stdio.c - stdin, stdout and stderr of processes that are to have others on the target: a file by its name there. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static int dump(struct dump *dump, const struct descriptor *d)
{
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;

	reg.id = d->id;
	reg.flags = d->flags;
	reg.fown = file_owner(d);
	reg.name = d->link;
	file.reg = &reg;
	return file_put(dump, d, &file);
}

/* Never recognised, for stdio_replace() says what it is; built by regular_file.c. */
static const struct descriptor_kind stdio_kind = {
	.name = "stdio",
	.dump = dump,
	.type = FD_TYPES__REG,
};

/* The numbers 0 to 2 of the first process, and whatever shares a description with them. */
struct stdio {
	uint32_t id[3];
	const char *output;
};

static bool is_stdio(const struct stdio *s, const struct descriptor *d)
{
	return d->id && (d->id == s->id[0] || d->id == s->id[1] || d->id == s->id[2]);
}

/* A terminal is one description for all three, and becomes two. */
static bool is_input(const struct stdio *s, const struct descriptor *d)
{
	return d->id == s->id[0] && (d->fd == 0 || (d->id != s->id[1] && d->id != s->id[2]));
}

static int replace(struct descriptor *d, const char *path, uint32_t flags)
{
	char *link = strdup(path);

	if (!link)
		return -ENOMEM;
	free(d->link);
	d->link = link;
	d->fdinfo[0] = 0;
	d->flags = flags;
	d->pos = 0;
	d->st = (struct stat){ .st_mode = S_IFREG };
	d->kind = &stdio_kind;
	return 0;
}

/* Ids go by first appearance, and the first is stdin's. */
static void divide(struct descriptor_table *tables, size_t count, const struct stdio *s)
{
	for (size_t i = 0; i < count; i++)
		for (size_t n = 0; n < tables[i].count; n++)
			tables[i].at[n].id += !is_input(s, &tables[i].at[n]);
}

int stdio_replace(struct descriptor_table *tables, size_t count, const char *output)
{
	struct stdio s = { .output = output };
	int err = 0;

	for (size_t n = 0; count && n < tables[0].count; n++)
		if (tables[0].at[n].fd < 3)
			s.id[tables[0].at[n].fd] = tables[0].at[n].id;
	for (size_t i = 0; i < count; i++)
		for (size_t n = 0; n < tables[i].count && !err; n++) {
			struct descriptor *d = &tables[i].at[n];

			if (is_stdio(&s, d))
				err = is_input(&s, d) ? replace(d, "/dev/null", O_RDWR) : replace(d, output, O_WRONLY | O_APPEND);
		}
	if (s.id[0] && (s.id[0] == s.id[1] || s.id[0] == s.id[2]))
		divide(tables, count, &s);
	return err;
}
