#include "aio.h"
#include "descriptors.h"
#include "memfd.h"
#include "mm.h"
#include "proc_stat.h"

#include "../layout.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AUXV_MAX 128		/* 64-bit words; Linux has about 50 */
#define CRIU_AUXV_MAX 44	/* it refuses more */

static ssize_t read_proc(pid_t pid, const char *name, void *to, size_t size)
{
	char path[48];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, to, size);
	got = got < 0 ? -errno : got;
	close(fd);
	return got;
}

void mapped_files_free(struct mapped_files *files)
{
	for (size_t i = 0; i < files->count; i++)
		free(files->at[i].path);
	free(files->at);
	*files = (struct mapped_files){0};
}

static int note_mapped(struct mapped_files *files, const struct vma *vma, int flags, uint32_t id)
{
	struct mapped_file *larger = reallocarray(files->at, files->count + 1, sizeof(*larger));
	struct mapped_file file = { vma->dev, vma->inode, strdup(vma->path), flags, id };

	if (larger)
		files->at = larger;
	if (!larger || !file.path) {
		free(file.path);
		return -ENOMEM;
	}
	files->at[files->count++] = file;
	return 0;
}

static const struct mapped_file *find_mapped(const struct mapped_files *files, const struct vma *vma, int flags)
{
	for (size_t i = 0; i < files->count; i++) {
		const struct mapped_file *f = &files->at[i];

		if (f->inode == vma->inode && f->dev == vma->dev && f->flags == flags && !strcmp(f->path, vma->path))
			return f;
	}
	return NULL;
}

static int put_mapped(struct dump *d, const struct vma *vma, uint32_t *ret_id)
{
	int flags = vma->shared && (vma->flags & VMA_MAYWRITE) ? O_RDWR : O_RDONLY, err;
	const struct mapped_file *known = find_mapped(d->mapped, vma, flags);
	char path[80];

	if (known) {
		*ret_id = known->id;
		return 0;
	}
	*ret_id = d->next_file_id++;
	err = note_mapped(d->mapped, vma, flags, *ret_id);
	if (err)
		return err;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", d->pid, (unsigned long)vma->start,
		 (unsigned long)vma->end);
	return memfd_is_name(vma->path) ? memfd_put(d, path, flags, 0, NULL, *ret_id) :
					  file_put_reached(d, path, flags, NULL, *ret_id);
}

/* CRIU takes processes for relatives by its id. */
static int put_exe(struct dump *d, uint32_t *ret_id)
{
	char path[48], name[PATH_MAX];
	ssize_t size;

	snprintf(path, sizeof(path), "/proc/%d/exe", d->pid);
	size = readlink(path, name, sizeof(name) - 1);
	name[size > 0 ? size : 0] = 0;
	for (size_t i = 0; d->map && i < d->map->count; i++)
		if (d->map->at[i].kind == VMA_FILE && !d->map->at[i].shared && !memfd_is_name(name) &&
		    !strcmp(d->map->at[i].path, name))
			return put_mapped(d, &d->map->at[i], ret_id);
	*ret_id = d->next_file_id++;
	return file_put_reached(d, path, O_RDONLY, NULL, *ret_id);
}

static uint32_t socket_id(const struct dump *d, const struct vma *vma)
{
	for (size_t i = 0; i < d->descriptors->count; i++)
		if (S_ISSOCK(d->descriptors->at[i].st.st_mode) && d->descriptors->at[i].st.st_ino == vma->inode)
			return d->descriptors->at[i].id;
	return 0;
}

/* Mappings of one file follow each other nearly always. */
static int put_mappings(struct dump *d, MmEntry *mm)
{
	const struct memory_map *map = d->map;
	VmaEntry *entries = dump_alloc(d, (map->count + 1) * sizeof(*entries));
	const struct vma *last = NULL;
	uint32_t id = 0;
	int err = 0;

	mm->vmas = dump_alloc(d, (map->count + 1) * sizeof(*mm->vmas));
	if (!entries || !mm->vmas)
		return -ENOMEM;
	for (size_t i = 0; i < map->count && !err; i++) {
		const struct vma *vma = &map->at[i];

		if (vma->kind == VMA_FILE && (!last || last->inode != vma->inode || last->dev != vma->dev ||
					      strcmp(last->path, vma->path))) {
			last = vma;
			err = put_mapped(d, vma, &id);
		}
		layout_vma_entry(vma, vma->kind == VMA_FILE ? id : vma->kind == VMA_SOCKET ? socket_id(d, vma) : 0, &entries[i]);
		mm->vmas[mm->n_vmas++] = &entries[i];
	}
	return err;
}

int mm_dump(struct dump *d, uint64_t brk)
{
	uint64_t auxv[AUXV_MAX];
	struct proc_stat stat;
	MmEntry mm = MM_ENTRY__INIT;
	AioRingEntry *rings = NULL;
	ssize_t got = read_proc(d->pid, "auxv", auxv, sizeof(auxv));
	int err = got < 0 ? got : proc_stat_read(d->pid, &stat);

	if (err)
		return phaul_fail(d->err, err, "mm", "reading the memory layout of pid %d", d->pid);
	mm.mm_start_code = stat.field[STAT_START_CODE];
	mm.mm_end_code = stat.field[STAT_END_CODE];
	mm.mm_start_data = stat.field[STAT_START_DATA];
	mm.mm_end_data = stat.field[STAT_END_DATA];
	mm.mm_start_stack = stat.field[STAT_START_STACK];
	mm.mm_start_brk = stat.field[STAT_START_BRK];
	mm.mm_brk = brk;
	mm.mm_arg_start = stat.field[STAT_ARG_START];
	mm.mm_arg_end = stat.field[STAT_ARG_END];
	mm.mm_env_start = stat.field[STAT_ENV_START];
	mm.mm_env_end = stat.field[STAT_ENV_END];
	mm.has_dumpable = true;
	mm.dumpable = d->dumpable;
	mm.has_thp_disabled = d->thp_disabled;
	mm.thp_disabled = d->thp_disabled;
	mm.n_mm_saved_auxv = got / sizeof(*auxv);
	if (mm.n_mm_saved_auxv > CRIU_AUXV_MAX) {
		mm.phaul_auxv_more = auxv + CRIU_AUXV_MAX;
		mm.n_phaul_auxv_more = mm.n_mm_saved_auxv - CRIU_AUXV_MAX;
		mm.n_mm_saved_auxv = CRIU_AUXV_MAX;
	}
	mm.mm_saved_auxv = auxv;
	if (d->map)
		err = put_mappings(d, &mm) ?: aio_put(d->map, &mm, &rings);
	err = err ?: put_exe(d, &mm.exe_file_id) ?: image_put(d->images, "mm", d->ns_pid, &mm.base);
	free(mm.aios);
	free(rings);
	return err ? phaul_fail(d->err, err, "mm", "writing the memory layout of pid %d", d->pid) : 0;
}

static int tell(struct build *b, const MmEntry *mm, const char *exe)
{
	struct prctl_mm_map map = {
		.start_code = mm->mm_start_code, .end_code = mm->mm_end_code,
		.start_data = mm->mm_start_data, .end_data = mm->mm_end_data,
		.start_brk = mm->mm_start_brk, .brk = mm->mm_brk, .start_stack = mm->mm_start_stack,
		.arg_start = mm->mm_arg_start, .arg_end = mm->mm_arg_end,
		.env_start = mm->mm_env_start, .env_end = mm->mm_env_end,
		.auxv_size = (mm->n_mm_saved_auxv + mm->n_phaul_auxv_more) * 8, .exe_fd = 0,
	};
	uint64_t auxv[AUXV_MAX];
	struct batch batch;
	int err;

	remote_area_reset(b->area);
	err = batch_begin(&batch, b->area, b->leader, 4);
	memcpy(auxv, mm->mm_saved_auxv, mm->n_mm_saved_auxv * 8);
	if (mm->n_phaul_auxv_more)
		memcpy(auxv + mm->n_mm_saved_auxv, mm->phaul_auxv_more, mm->n_phaul_auxv_more * 8);
	map.auxv = (void *)batch_bytes(&batch, auxv, map.auxv_size);
	batch_call(&batch, exe, SYS_openat, AT_FDCWD, batch_bytes(&batch, exe, strlen(exe) + 1),
		   O_RDONLY | O_CLOEXEC);
	batch_call(&batch, "set its memory layout (PR_SET_MM_MAP)", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
		   batch_bytes(&batch, &map, sizeof(map)), sizeof(map), 0);
	batch_call(&batch, "close its executable", SYS_close, 0);
	if (!err)
		err = batch_run(&batch, 1, b->err) ?: batch_check(&batch, b->err);
	batch_free(&batch);
	return err;
}

int mm_read_settings(struct build *b)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	const MmEntry *mm;

	if (image_read(b->images, "mm", b->pid, &r) || image_next(&r, &mm_entry__descriptor, &msg) != 1)
		return image_malformed("mm", b->pid, b->err);
	mm = (MmEntry *)msg;
	/* 2 (suid_dumpable) can't be asked for, only be got by a change of credentials. */
	b->dumpable = !mm->has_dumpable || mm->dumpable == 1;
	b->thp_disabled = mm->thp_disabled;
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}

int mm_build(struct build *b)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	char exe[PATH_MAX];
	const MmEntry *mm;
	int err;

	if (image_read(b->images, "mm", b->pid, &r) || image_next(&r, &mm_entry__descriptor, &msg) != 1)
		return image_malformed("mm", b->pid, b->err);
	mm = (MmEntry *)msg;
	if (mm->n_mm_saved_auxv > AUXV_MAX || mm->n_phaul_auxv_more > AUXV_MAX - mm->n_mm_saved_auxv)
		err = image_wrong("mm", b->pid, b->err, "mm_saved_auxv has %zu words, and %u are possible",
				  mm->n_mm_saved_auxv + mm->n_phaul_auxv_more, AUXV_MAX);
	else if (built_files_path(b->files, mm->exe_file_id, exe))
		err = image_wrong("mm", b->pid, b->err, "exe_file_id %u is no file in files.img", mm->exe_file_id);
	else
		err = tell(b, mm, exe);
	protobuf_c_message_free_unpacked(msg, NULL);
	return err;
}
