#include "origin.h"

#include <errno.h>
#include <string.h>

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

int origin_read_image(const struct image_set *set, struct origin *ret)
{
	struct xstate_layout here;
	size_t size;
	int err;

	memset(ret, 0, sizeof(*ret));
	err = read_bytes(set, VDSO, ret->vdso.bytes, sizeof(ret->vdso.bytes), &ret->vdso.size) ?:
	      read_bytes(set, XSTATE, &ret->xstate, sizeof(ret->xstate), &size);
	if (!err && (size != sizeof(ret->xstate) || ret->vdso.size % 4096 || !xstate_layout_is_valid(&ret->xstate)))
		err = -EPROTO;
	if (err)
		return err;
	xstate_layout_read(&here);
	ret->other_vdso = ret->vdso.size && !vdso_is_ours(&ret->vdso);
	ret->other_xstate = memcmp(&here, &ret->xstate, sizeof(here)) != 0;
	return 0;
}
