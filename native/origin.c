#include "origin.h"

#include <errno.h>
#include <string.h>

#include "page_file.h"

#define PAGE 4096ul
#define VDSO "phaul-vdso"
#define XSTATE "phaul-xstate"

int origin_read(pid_t tid, const struct memory_map *map, struct origin *ret)
{
	memset(ret, 0, sizeof(*ret));
	xstate_layout_read(&ret->xstate);
	return vdso_read(tid, map, &ret->vdso);
}

int origin_put(struct image_set *set, const struct origin *origin)
{
	return image_put_raw(set, VDSO, -1, origin->vdso.bytes, origin->vdso.size) ?:
	       image_put_raw(set, XSTATE, -1, &origin->xstate, sizeof(origin->xstate));
}

static int read_bytes(const struct image_set *set, const char *name, void *to, size_t most, size_t *ret_size)
{
	struct image_reader r;
	const void *bytes;
	int err = image_read(set, name, -1, &r);

	*ret_size = err ? 0 : image_left(&r);
	if (!err && *ret_size > most)
		err = -EPROTO;
	err = err ? err : image_next_raw(&r, *ret_size, &bytes);
	if (!err)
		memcpy(to, bytes, *ret_size);
	return err;
}

static int read_xstate(const struct image_set *set, struct xstate_layout *ret)
{
	size_t size;
	int err = read_bytes(set, XSTATE, ret, sizeof(*ret), &size);

	return err ? err : size == sizeof(*ret) && xstate_layout_is_valid(ret) ? 0 : -EPROTO;
}

static void compare_with_here(struct origin *o)
{
	struct xstate_layout here;

	xstate_layout_read(&here);
	o->other_vdso = o->vdso.size && !vdso_is_ours(&o->vdso);
	o->other_xstate = memcmp(&here, &o->xstate, sizeof(here)) != 0;
}

int origin_read_image(const struct image_set *set, struct origin *ret)
{
	int err;

	memset(ret, 0, sizeof(*ret));
	err = read_bytes(set, VDSO, ret->vdso.bytes, sizeof(ret->vdso.bytes), &ret->vdso.size) ?: read_xstate(set, &ret->xstate);
	if (!err && ret->vdso.size % PAGE)
		err = -EPROTO;
	if (!err)
		compare_with_here(ret);
	return err;
}

/* ---- of checkpoints ---- */

int origin_put_checkpoint(struct image_set *set)
{
	struct xstate_layout here;

	xstate_layout_read(&here);
	return image_put_raw(set, XSTATE, -1, &here, sizeof(here));
}

int origin_read_checkpoint(const struct image_set *set, const struct chain *chain, pid_t pid, const struct memory_map *map,
			   struct origin *ret, struct phaul_error *err)
{
	const struct vma *vdso = memory_map_named(map, "[vdso]");
	int code;

	memset(ret, 0, sizeof(*ret));
	code = read_xstate(set, &ret->xstate);
	if (code == -ENOENT)
		xstate_layout_read(&ret->xstate);
	else if (code)
		return image_malformed(XSTATE, -1, err);
	if (vdso && vdso->end - vdso->start > sizeof(ret->vdso.bytes))
		return image_wrong("mm", pid, err, "the vdso is larger than any");
	ret->vdso.size = vdso ? vdso->end - vdso->start : 0;
	code = vdso ? page_file_read_some(chain, "pagemap", pid, vdso->start, ret->vdso.size / PAGE, ret->vdso.bytes, err) : 0;
	if (code == -ENOENT) {
		ret->vdso.size = 0;
		code = 0;
	}
	if (!code)
		compare_with_here(ret);
	return code;
}

void origin_mark_foreign(const struct origin *origin, struct memory_map *map)
{
	for (size_t i = 0; i < map->count && origin->other_vdso; i++)
		if (map->at[i].kind == VMA_VDSO || map->at[i].kind == VMA_VVAR)
			map->at[i].flags = VMA_KNOWN | VMA_FOREIGN;
}
