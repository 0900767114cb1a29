/* vdso.h - the kernel's own code in each process, for one that comes from a host with another kernel.
 *
 * Such a process knows addresses in the vdso that it was born with. That one stays where it was, as plain memory, and each
 * of its functions begins with a jump into the vdso of this kernel, which lies elsewhere. Where the old vdso had its data
 * (vvar) are zeros: a thread that was in the middle of a function finds that the data have changed, begins again, finds no
 * clock that can be read without the kernel, and makes the system call.
 */
#ifndef PHAUL_VDSO_H
#define PHAUL_VDSO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory_map.h"

#define VDSO_MAX (16 * 4096ul)

struct vdso {
	uint8_t bytes[VDSO_MAX];
	size_t size;		/* 0: there is none */
};

/* That of a process, by its map. */
int vdso_read(pid_t tid, const struct memory_map *map, struct vdso *ret);
/* Is it of this kernel's build? */
bool vdso_is_ours(const struct vdso *vdso);
/* Makes the functions of `old` lead to those of `new`, which is loaded at `new_at`; to the system call where it has none.
 * -EPROTO: `old` isn't a vdso. */
int vdso_redirect(struct vdso *old, const struct vdso *new, uint64_t new_at);
/* Is `at` in the middle of what that overwrites? Whoever stands there can't go on. */
bool vdso_is_overwritten(const struct vdso *old, uint64_t at);

#endif
