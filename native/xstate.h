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

#define XSTATE_MAX 16384u	/* AMX tiles included; the kernel tells how much there is */
#define XSTATE_PACKED_MAX (4 + XSTATE_MAX / 64 / 8 + XSTATE_MAX)

/* `state` has room for XSTATE_MAX bytes, of which those beyond `size` are overwritten. Returns the length. */
size_t xstate_pack(uint8_t *state, size_t size, uint8_t to[XSTATE_PACKED_MAX]);
/* Does it hold AMX tiles? The kernel gives them only to a thread that has used them before. */
bool xstate_has_tiles(const uint8_t *state, size_t size);
/* -EPROTO: malformed. */
int xstate_unpack(const uint8_t *bytes, size_t length, uint8_t to[XSTATE_MAX], size_t *ret_size);

#endif
