#include "sysv_shm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>

#include "error.h"
#include "ipc.pb-c.h"

#define NAMESPACE 1		/* in the image's name: there is one */
#define DOOMED 01000		/* SHM_DEST */

int sysv_shm_dump(struct image_set *images, int id)
{
	IpcShmEntry e = IPC_SHM_ENTRY__INIT;
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	struct shmid_ds ds;

	if (shmctl(id, IPC_STAT, &ds) < 0)
		return -errno;
	desc.key = ds.shm_perm.__key;
	desc.uid = ds.shm_perm.uid;
	desc.gid = ds.shm_perm.gid;
	desc.cuid = ds.shm_perm.cuid;
	desc.cgid = ds.shm_perm.cgid;
	desc.mode = ds.shm_perm.mode;
	desc.id = id;
	e.desc = &desc;
	e.size = ds.shm_segsz;
	e.has_in_pagemaps = e.in_pagemaps = true;
	return image_put(images, "ipcns-shm", NAMESPACE, &e.base);
}

static int find(const struct image_set *images, int id, IpcShmEntry **ret)
{
	struct image_reader r;
	ProtobufCMessage *message;
	int err = image_read(images, "ipcns-shm", NAMESPACE, &r);

	while (!err && image_next(&r, &ipc_shm_entry__descriptor, &message) == 1) {
		*ret = (IpcShmEntry *)message;
		if ((int)(*ret)->desc->id == id)
			return 0;
		protobuf_c_message_free_unpacked(message, NULL);
	}
	return err ? err : -ENOENT;
}

static int choose_next_id(int id)
{
	FILE *f = fopen("/proc/sys/kernel/shm_next_id", "we");
	int err = !f || fprintf(f, "%d", id) < 0 ? -errno : 0;

	if (f && fclose(f) && !err)
		err = -errno;
	return err;
}

/* With the key that it had: programs find it by that. */
static int create(const IpcShmEntry *e, struct sysv_shm *s)
{
	struct shmid_ds ds;
	int err = choose_next_id(s->id), id;

	if (err)
		return err;
	id = shmget(s->doomed ? IPC_PRIVATE : (key_t)e->desc->key, e->size, IPC_CREAT | IPC_EXCL | (e->desc->mode & 0777));
	if (id < 0)
		return -errno;
	if (id != s->id || shmctl(id, IPC_STAT, &ds) < 0)
		err = -EBUSY;
	ds.shm_perm.uid = e->desc->uid;
	ds.shm_perm.gid = e->desc->gid;
	ds.shm_perm.mode = e->desc->mode & 0777;
	if (!err && shmctl(id, IPC_SET, &ds) < 0)
		err = -errno;
	if (err)
		(void)shmctl(id, IPC_RMID, NULL);
	s->made = !err;
	return err;
}

static int take(const IpcShmEntry *e, struct sysv_shm *s)
{
	struct shmid_ds ds;

	if (shmctl(s->id, IPC_STAT, &ds) < 0)
		return create(e, s);
	if (ds.shm_nattch)
		return -EBUSY;
	return ds.shm_segsz != e->size || (uint32_t)ds.shm_perm.__key != e->desc->key ? -EEXIST : 0;
}

int sysv_shm_make(const struct image_set *images, int id, struct sysv_shm *ret, struct phaul_error *err)
{
	IpcShmEntry *e = NULL;
	int code = find(images, id, &e);

	*ret = (struct sysv_shm){ .id = id };
	if (code)
		return phaul_fail(err, code, "shared memory", "ipcns-shm-1.img tells of no segment %d", id);
	ret->size = e->size;
	ret->doomed = e->desc->mode & DOOMED;
	code = take(e, ret);
	if (!code) {
		ret->at = shmat(id, NULL, 0);
		code = ret->at == (void *)-1 ? -errno : 0;
	}
	if (code == -EEXIST)
		phaul_fail(err, code, "shared memory", "System V shared memory %d is another segment on this host: another program "
			   "has made it (ipcs -m)", id);
	else if (code == -EBUSY)
		phaul_fail(err, code, "shared memory", "System V shared memory %d is in use on this host: restoring would overwrite what "
			   "another program sees in it (ipcs -m -p tells which); end that program first", id);
	else if (code)
		phaul_fail(err, code, "shared memory", "making the System V shared memory %d (key %#x, %llu bytes)", id,
			   e->desc->key, (unsigned long long)e->size);
	else
		memset(ret->at, 0, ret->size);
	if (code && ret->made)
		(void)shmctl(id, IPC_RMID, NULL);
	if (code)
		ret->at = NULL;
	ipc_shm_entry__free_unpacked(e, NULL);
	return code;
}

void sysv_shm_end(struct sysv_shm *s, bool done)
{
	if (!s->at)
		return;
	if ((done && s->doomed) || (!done && s->made))
		(void)shmctl(s->id, IPC_RMID, NULL);
	(void)shmdt(s->at);
	s->at = NULL;
}
