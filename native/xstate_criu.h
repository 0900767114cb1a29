/* xstate_criu.h - a thread's FPU and vector registers as CRIU's images have them, component by component. */
#ifndef PHAUL_XSTATE_CRIU_H
#define PHAUL_XSTATE_CRIU_H

#include "process.pb-c.h"
#include "xstate.h"

/* What an entry points to. */
struct xstate_criu {
	UserX86XsaveEntry xsave;
	uint32_t st[32], xmm[64], ymmh[64], pkru[2];
	uint64_t opmask[8], zmm_upper[64], hi16_zmm[128];
};

/* `state` is as ptrace gives it (NT_X86_XSTATE). */
void xstate_to_criu(const uint8_t *state, size_t size, struct xstate_criu *store, UserX86FpregsEntry *to);
/* -EPROTO: a component has another size than this CPU's. */
int xstate_from_criu(const UserX86FpregsEntry *from, uint8_t to[XSTATE_MAX], size_t *ret_size);

#endif
