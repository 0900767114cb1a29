#include "inventory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "objects/cgroup.h"
#include "tree_state.h"

#define GHOST "ghost-file-"

/* ---- sums ---- */

struct sum {
	uint64_t size;
	uint8_t digest[SHA256_DIGEST_LENGTH];
};

static int sum_file(int directory, const char *name, struct sum *ret)
{
	char file[NAME_MAX + 1];
	struct stat st;
	void *bytes;
	int fd, err;

	snprintf(file, sizeof(file), "%s.img", name);
	fd = openat(directory, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	err = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	ret->size = err ? 0 : st.st_size;
	bytes = ret->size ? mmap(NULL, ret->size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
	err = bytes == MAP_FAILED ? -errno : err;
	close(fd);
	if (err)
		return err;
	SHA256(bytes, ret->size, ret->digest);
	if (bytes)
		munmap(bytes, ret->size);
	return 0;
}

/* Ghosts are too large to be in a set. */
static int sum_of(const struct image_set *images, int directory, const char *name, struct sum *ret)
{
	const void *bytes;
	size_t size;
	int err;

	if (!strncmp(name, GHOST, strlen(GHOST)))
		return strchr(name, '/') ? -EINVAL : sum_file(directory, name, ret);
	err = image_set_bytes(images, name, &bytes, &size);
	if (err)
		return err;
	ret->size = size;
	SHA256(bytes, size, ret->digest);
	return 0;
}

/* ---- writing ---- */

static int add_sum(InventoryEntry *to, const struct image_set *images, int directory, const char *name)
{
	PhaulImageSum **larger = reallocarray(to->phaul_images, to->n_phaul_images + 1, sizeof(*larger));
	struct { PhaulImageSum message; struct sum sum; char name[NAME_MAX + 1]; } *one = calloc(1, sizeof(*one));
	int err;

	to->phaul_images = larger ? larger : to->phaul_images;
	if (!larger || !one) {
		free(one);
		return -ENOMEM;
	}
	phaul_image_sum__init(&one->message);
	to->phaul_images[to->n_phaul_images++] = &one->message;
	snprintf(one->name, sizeof(one->name), "%s", name);
	err = sum_of(images, directory, name, &one->sum);
	one->message.name = one->name;
	one->message.size = one->sum.size;
	one->message.sha256 = (ProtobufCBinaryData){ sizeof(one->sum.digest), one->sum.digest };
	return err;
}

static int add_ghosts(InventoryEntry *to, int directory)
{
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *d;

	if (!dir) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	while (!err && (d = readdir(dir))) {
		size_t n = strlen(d->d_name);

		if (n < 4 || strcmp(d->d_name + n - 4, ".img") || strncmp(d->d_name, GHOST, strlen(GHOST)))
			continue;
		d->d_name[n - 4] = 0;
		err = add_sum(to, NULL, directory, d->d_name);
	}
	closedir(dir);
	return err;
}

static int sum_itself(const InventoryEntry *inventory, uint8_t digest[SHA256_DIGEST_LENGTH])
{
	InventoryEntry without = *inventory;
	size_t size;
	uint8_t *bytes;

	without.has_phaul_sha256 = false;
	size = protobuf_c_message_get_packed_size(&without.base);
	bytes = malloc(size);
	if (!bytes)
		return -ENOMEM;
	protobuf_c_message_pack(&without.base, bytes);
	SHA256(bytes, size, digest);
	free(bytes);
	return 0;
}

static int put(InventoryEntry *inventory, struct image_set *to, int directory)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	const char *name;
	int code = 0;

	for (size_t i = 0; !code && (name = image_set_name(to, i)); i++)
		code = add_sum(inventory, to, directory, name);
	code = code ?: add_ghosts(inventory, directory) ?: sum_itself(inventory, digest);
	inventory->has_phaul_sha256 = true;
	inventory->phaul_sha256 = (ProtobufCBinaryData){ sizeof(digest), digest };
	return code ?: image_put(to, "inventory", -1, &inventory->base);
}

int inventory_put(struct image_set *to, int directory, const struct tree *tree, struct phaul_error *err)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	struct timespec now;
	int code;

	tree_ids_of(tree, &tree->tasks[0], &ids);
	/* CRIU compares these with the tree's: they are those of the one who dumps. */
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = INT32_MAX;
	inventory.img_version = IMAGES_VERSION;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.has_ns_per_id = inventory.ns_per_id = true;
	inventory.root_ids = &ids;
	inventory.has_root_cg_set = true;
	inventory.root_cg_set = CGROUP_OWN_SET;
	/* By it CRIU knows a process that began later from one of the same pid that was dumped before. */
	clock_gettime(CLOCK_BOOTTIME, &now);
	inventory.has_dump_uptime = true;
	inventory.dump_uptime = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
	code = put(&inventory, to, directory);
	for (size_t i = 0; i < inventory.n_phaul_images; i++)
		free(inventory.phaul_images[i]);
	free(inventory.phaul_images);
	return code ? phaul_fail(err, code, "images", "writing the inventory") : 0;
}

/* ---- reading ---- */

static int check_sum(const struct image_set *images, int directory, const PhaulImageSum *told, struct phaul_error *err)
{
	struct sum sum;
	int code = sum_of(images, directory, told->name, &sum);

	if (code == -ENOENT)
		return phaul_fail(err, -EPROTO, "images", "%s.img is missing, of which inventory.img tells", told->name);
	if (code)
		return phaul_fail(err, code, "images", "reading %s.img", told->name);
	if (sum.size != told->size)
		return phaul_fail(err, -EPROTO, "images", "%s.img has %" PRIu64 " bytes, and had %" PRIu64 " when it was written", told->name,
				  sum.size, told->size);
	if (told->sha256.len == sizeof(sum.digest) && !memcmp(told->sha256.data, sum.digest, sizeof(sum.digest)))
		return 0;
	return phaul_fail(err, -EPROTO, "images", "%s.img is not what was written: its SHA-256 is another than inventory.img has "
			  "(phaul_images)", told->name);
}

static int check_itself(const InventoryEntry *inventory, struct phaul_error *err)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	int code;

	if (inventory->img_version != IMAGES_VERSION)
		return phaul_fail(err, -EPROTO, "images", "inventory.img says version %u (img_version), and this phaul reads version %d: the "
				  "images are of another age", inventory->img_version, IMAGES_VERSION);
	if (!inventory->n_phaul_images && !inventory->has_phaul_sha256)
		return 0;	/* CRIU's */
	code = sum_itself(inventory, digest);
	if (code)
		return phaul_fail(err, code, "images", "reading inventory.img");
	if (inventory->has_phaul_sha256 && inventory->phaul_sha256.len == sizeof(digest) &&
	    !memcmp(inventory->phaul_sha256.data, digest, sizeof(digest)))
		return 0;
	return phaul_fail(err, -EPROTO, "images", "inventory.img is not what was written: its SHA-256 is another than it says itself "
			  "(phaul_sha256)");
}

int inventory_check(const struct image_set *images, int directory, struct phaul_error *err)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	const InventoryEntry *inventory;
	int code = image_read(images, "inventory", -1, &reader);

	if (code == -ENOENT)
		return phaul_fail(err, -EPROTO, "images", "inventory.img is missing, which is written last: the dump was not completed");
	if (code || image_next(&reader, &inventory_entry__descriptor, &msg) != 1)
		return image_malformed("inventory", -1, err);
	inventory = (InventoryEntry *)msg;
	code = check_itself(inventory, err);
	for (size_t i = 0; i < inventory->n_phaul_images && !code; i++)
		code = check_sum(images, directory, inventory->phaul_images[i], err);
	protobuf_c_message_free_unpacked(msg, NULL);
	return code;
}
