/* xstate.h - a thread's FPU and vector registers, which are mostly zeros, in the bytes that are worth sending.
 *
 *	u32 size of the whole state as ptrace gives it (NT_X86_XSTATE)
 *	u64 for each 64 blocks of 64 bytes: which of them follow; the others are zeros
 *	the blocks, each of 64 bytes; beyond the size, zeros
 */
#ifndef PHAUL_XSTATE_H
#define PHAUL_XSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define XSTATE_MAX 16384u	/* AMX tiles included; the kernel tells how much there is */
#define XSTATE_PACKED_MAX (4 + XSTATE_MAX / 64 / 8 + XSTATE_MAX)

/* Of a stopped thread. A CPU without XSAVE has the first two sets of registers. */
int xstate_get(pid_t tid, uint8_t ret[XSTATE_MAX], size_t *ret_size);
int xstate_set(pid_t tid, const uint8_t *state, size_t size);

/* `state` has room for XSTATE_MAX bytes, of which those beyond `size` are overwritten. Returns the length. */
size_t xstate_pack(uint8_t *state, size_t size, uint8_t to[XSTATE_PACKED_MAX]);
/* Does it hold AMX tiles? The kernel gives them only to a thread that has used them before. */
bool xstate_has_tiles(const uint8_t *state, size_t size);
/* -EPROTO: malformed. */
int xstate_unpack(const uint8_t *bytes, size_t length, uint8_t to[XSTATE_MAX], size_t *ret_size);

#define XSTATE_COMPONENTS 63u	/* the last bit says something else */

/* Where a CPU has each set of registers, bytes; those of no length it hasn't got. The first two are in the same place on all. */
struct xstate_layout {
	uint32_t offset[XSTATE_COMPONENTS], length[XSTATE_COMPONENTS];
};

void xstate_layout_read(struct xstate_layout *ret);
/* In bytes, of all of them; without AMX tiles, which only those have who ask for them. */
size_t xstate_layout_size(const struct xstate_layout *layout, bool tiles);
/* Of another host: all within XSTATE_MAX. */
bool xstate_layout_is_valid(const struct xstate_layout *layout);
/* `state` as this host's kernel takes it; `here` is one that it has given, of any thread. -EPROTO: malformed; -EXDEV: registers are
 * in use that this host hasn't got, and *ret_component says which. */
int xstate_convert(const struct xstate_layout *from, const uint8_t *state, size_t size, uint8_t *here, size_t here_size,
		   unsigned int *ret_component);
/* "AVX-512" */
const char *xstate_component_name(unsigned int component);

#endif
