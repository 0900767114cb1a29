/* filesystem.c - the current directory and the umask. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "descriptors.h"
#include "parts.h"
#include "proc_status.h"

static int put_directory(struct dump *d, const char *link, uint32_t *ret_id)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", d->pid, link);
	*ret_id = d->next_file_id++;
	return file_put_reached(d, path, O_RDONLY | O_DIRECTORY, NULL, *ret_id);
}

static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	FsEntry fs = FS_ENTRY__INIT;
	struct proc_status status;
	const char *umask;
	int err = proc_status_read(d->pid, d->pid, &status);

	(void)b;
	(void)answers;
	(void)core;
	if (!err)
		err = put_directory(d, "cwd", &fs.cwd_id) ?: put_directory(d, "root", &fs.root_id);
	if (err)
		return err;
	umask = proc_status_field(&status, "Umask");
	fs.has_umask = umask != NULL;
	fs.umask = umask ? strtoul(umask, NULL, 8) : 0;
	return image_put(d->images, "fs", d->ns_pid, &fs.base);
}

static int build(struct build *b, struct batch *batch, const CoreEntry *core)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	char cwd[PATH_MAX], root[PATH_MAX];
	const FsEntry *fs;
	int err = 0;

	(void)core;
	if (image_read(b->images, "fs", b->pid, &r) || image_next(&r, &fs_entry__descriptor, &msg) != 1)
		return image_malformed("fs", b->pid, b->err);
	fs = (FsEntry *)msg;
	if (built_files_path(b->files, fs->cwd_id, cwd) || built_files_path(b->files, fs->root_id, root))
		err = image_wrong("fs", b->pid, b->err, "cwd_id %u or root_id %u is no file in files.img", fs->cwd_id, fs->root_id);
	if (!err && access(cwd, F_OK) < 0)
		err = phaul_fail(b->err, -errno, "filesystem", "entering %s, the current directory of the process; "
				 "make it on this host", cwd);
	if (!err)
		batch_call(batch, "change to its current directory", SYS_chdir,
			   batch_bytes(batch, cwd, strlen(cwd) + 1));
	/* Of what is opened by name there is nothing left to do. */
	if (!err && strcmp(root, "/"))
		batch_call(batch, "change its root (chroot)", SYS_chroot, batch_bytes(batch, root, strlen(root) + 1));
	if (fs->has_umask)
		batch_call(batch, "set its umask", SYS_umask, fs->umask);
	protobuf_c_message_free_unpacked(msg, NULL);
	return err ? err : batch->error;
}

const struct process_part filesystem_part = { .name = "directories", .dump = dump, .build = build };
