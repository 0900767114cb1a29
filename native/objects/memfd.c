/* memfd.c - memory that has the form of a file: descriptors and mappings of it, seals and content. */
#include "memfd.h"

#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "../shmem.h"
#include "memfd.pb-c.h"

#define HUGETLBFS_MAGIC 0x958458f6
#define OPEN_ONCE (O_CREAT | O_EXCL | O_TRUNC | O_ASYNC | O_CLOEXEC)

static bool is(const struct descriptor *d)
{
	return memfd_is_name(d->link) && !(d->flags & O_PATH);
}

/* ---- dump ---- */

int memfd_put_inode(struct image_set *to, int fd, const char *link, uint64_t id)
{
	MemfdInodeEntry inode = MEMFD_INODE_ENTRY__INIT;
	char name[NAME_MAX + 1];
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	snprintf(name, sizeof(name), "%s", link + strlen("/memfd:"));
	if (strlen(name) > 10 && !strcmp(name + strlen(name) - 10, " (deleted)"))
		name[strlen(name) - 10] = 0;
	inode.name = name;
	inode.uid = st.st_uid;
	inode.gid = st.st_gid;
	inode.size = st.st_size;
	inode.shmid = id;
	inode.inode_id = id;
	inode.has_mode = true;
	inode.mode = st.st_mode;
	inode.seals = fcntl(fd, F_GET_SEALS);
	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC) {
		inode.has_hugetlb_flag = true;
		inode.hugetlb_flag = MFD_HUGETLB | __builtin_ctzl(fs.f_bsize) << MFD_HUGE_SHIFT;
	}
	return image_put(to, "memfd", -1, &inode.base);
}

static int put_once(struct dump *d, const char *reached_by, const char *link, uint64_t id)
{
	int fd = open(reached_by, O_RDONLY | O_CLOEXEC), err = fd < 0 ? -errno : 0;

	err = err ?: memfd_put_inode(d->images, fd, link, id) ?: shmem_dump_object(d->shmem, id, fd, d->pages);
	if (fd >= 0)
		close(fd);
	return err;
}

int memfd_put(struct dump *d, const char *reached_by, uint32_t flags, uint64_t pos, FownEntry *owner, uint32_t id)
{
	MemfdFileEntry memfd = MEMFD_FILE_ENTRY__INIT;
	FownEntry nobody = FOWN_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	char link[PATH_MAX];
	struct stat st;
	ssize_t n = readlink(reached_by, link, sizeof(link) - 1);
	uint64_t inode;
	int err = 0;

	if (n < 0 || stat(reached_by, &st) < 0)
		return -errno;
	if (!d->shmem)
		return -EOPNOTSUPP;
	link[n] = 0;
	inode = shmem_id(&st);
	if (!shmem_known(d->shmem, inode))
		err = put_once(d, reached_by, link, inode);
	memfd.id = file.id = id;
	memfd.flags = flags;
	memfd.pos = pos;
	memfd.fown = owner ? owner : &nobody;
	memfd.inode_id = inode;
	file.type = FD_TYPES__MEMFD;
	file.memfd = &memfd;
	return err ? err : image_put(d->images, "files", -1, &file.base);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", dump->pid, d->fd);
	return memfd_put(dump, path, d->flags, d->pos, file_owner(d), d->id);
}

/* ---- build ---- */

struct filling {
	uint8_t *at;
	uint64_t size;
};

static int place(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	const struct filling *f = ctx;

	if (at > f->size || pages * 4096 > f->size - at)
		return phaul_fail(err, -EPROTO, "memfd", "there are pages behind the end of a memfd, at %llx",
				  (unsigned long long)at);
	memcpy(f->at + at, bytes, pages * 4096);
	return 0;
}

static int fill(int fd, const MemfdInodeEntry *e, const struct chain *chain, struct phaul_error *err)
{
	uint64_t unit = e->has_hugetlb_flag ? 1ul << (e->hugetlb_flag >> MFD_HUGE_SHIFT & 63) : 4096;
	struct filling f = { .size = (e->size + unit - 1) & ~(unit - 1) };
	int code;

	if (!e->size)
		return 0;
	f.at = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (f.at == MAP_FAILED)
		return -errno;
	code = page_file_read(chain, "pagemap-shmem", e->shmid, place, &f, err);
	munmap(f.at, f.size);
	return code;
}

static int make_empty(const MemfdInodeEntry *e, struct phaul_error *err)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (e->has_hugetlb_flag ? e->hugetlb_flag : 0);
	int fd = memfd_create(e->name, flags), code = fd < 0 ? -errno : 0;

	if (!code && (ftruncate(fd, e->size) < 0 || fchown(fd, e->uid, e->gid) < 0 ||
		      (e->has_mode && fchmod(fd, e->mode & 07777) < 0)))
		code = -errno;
	if (!code)
		return fd;
	if (fd >= 0)
		close(fd);
	return phaul_fail(err, code, "memfd", "making the memfd %s of %llu bytes", e->name, (unsigned long long)e->size);
}

int memfd_make_empty(const struct image_set *images, uint64_t id, struct phaul_error *err)
{
	ProtobufCMessage **entries;
	size_t count;
	int fd = image_read_all(images, "memfd", -1, &memfd_inode_entry__descriptor, &entries, &count) ?: -ENOENT;

	for (size_t i = 0; i < count && fd == -ENOENT; i++)
		if (((MemfdInodeEntry *)entries[i])->inode_id == id)
			fd = make_empty((MemfdInodeEntry *)entries[i], err);
	image_free_all(entries, count);
	return fd;
}

static int make(const MemfdInodeEntry *e, const struct chain *chain, struct shmem_set *made, struct phaul_error *err)
{
	int fd = made ? shmem_take_memfd(made, e->inode_id) : make_empty(e, err), code = fd < 0 ? fd : 0;

	if (fd < 0 || made)
		return code ? phaul_fail(err, code, "memfd", "finding the memory of the memfd %s", e->name) : fd;
	code = fill(fd, e, chain, err);
	if (!code)
		return fd;
	close(fd);
	return err->code == code ? code : phaul_fail(err, code, "memfd", "filling the memfd %s of %llu bytes", e->name,
						     (unsigned long long)e->size);
}

/* All that mean it lead to it; the last of them is what is sealed. */
static int lead_to(struct built_files *f, const MemfdInodeEntry *e, int fd)
{
	int err = 0;

	for (size_t id = 0; id < f->count && !err; id++) {
		const FileEntry *file = f->at[id];

		if (!file || !file->memfd || file->memfd->inode_id != e->inode_id)
			continue;
		if (f->ghosts[id] >= 0)
			return -EPROTO;
		f->ghosts[id] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		err = f->ghosts[id] < 0 ? -errno : 0;
	}
	return err;
}

int memfds_make(struct built_files *f, const struct image_set *images, const struct chain *chain, struct shmem_set *made,
		struct phaul_error *err)
{
	ProtobufCMessage **entries;
	size_t count;
	int code = image_read_all(images, "memfd", -1, &memfd_inode_entry__descriptor, &entries, &count);

	if (code)
		phaul_fail(err, code, "memfd", "reading memfd.img");
	for (size_t i = 0; i < count && !code; i++) {
		const MemfdInodeEntry *e = (MemfdInodeEntry *)entries[i];
		struct sealed *larger = reallocarray(f->sealed, f->sealed_count + 1, sizeof(*larger));
		int fd = larger ? make(e, chain, made, err) : -ENOMEM;

		f->sealed = larger ? larger : f->sealed;
		code = fd < 0 ? fd : lead_to(f, e, fd);
		if (fd >= 0)
			f->sealed[f->sealed_count++] = (struct sealed){ fd, e->seals, e->inode_id, false };
	}
	image_free_all(entries, count);
	return code;
}

int memfds_seal(struct built_files *f, struct phaul_error *err)
{
	for (size_t i = 0; i < f->sealed_count; i++)
		if (f->sealed[i].seals && fcntl(f->sealed[i].fd, F_ADD_SEALS, f->sealed[i].seals) < 0)
			return phaul_fail(err, -errno, "memfd", "sealing a memfd (%x)", f->sealed[i].seals);
	return 0;
}

/* The description that came with the memfd doesn't count as open for writing, so that the memfd can be executed. */
static int take_original(struct built_files *f, const MemfdFileEntry *memfd)
{
	for (size_t i = 0; i < f->sealed_count; i++) {
		struct sealed *s = &f->sealed[i];

		if (s->inode != memfd->inode_id || s->given || (memfd->flags & O_ACCMODE) != O_RDWR)
			continue;
		s->given = true;
		return fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	}
	return -1;
}

static int build(struct build *b, const FileEntry *file)
{
	const MemfdFileEntry *memfd = file->memfd;
	char path[PATH_MAX];
	int fd, err = built_files_path(b->files, memfd->id, path);

	if (err)
		return err;
	fd = take_original(b->files, memfd);
	if (fd < 0)
		fd = open(path, (memfd->flags & ~OPEN_ONCE) | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (memfd->pos && lseek(fd, memfd->pos, SEEK_SET) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return file_set_flags(b, fd, memfd->flags);
}

const struct descriptor_kind memfd_kind = {
	.name = "a memfd",
	.is = is,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__MEMFD,
};
