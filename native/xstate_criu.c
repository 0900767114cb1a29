#include "xstate_criu.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#define LEGACY 512		/* fxsave */
#define HEADER 64
#define ST_AT 32
#define XMM_AT 160
#define XSTATE_LEAF 0xd

enum { YMMH = 2, OPMASK = 5, ZMM_UPPER = 6, HI16_ZMM = 7, PKRU = 9, COMPONENTS };

/* Where this CPU has a component in the standard format; 0: nowhere. Asked once, as in a virtual machine each answer takes
 * some 4 us. */
static size_t offset_of(unsigned int component, size_t *ret_size)
{
	static struct { unsigned int size, offset; } known[COMPONENTS];
	unsigned int c, d;

	if (!known[component].size)
		(void)__get_cpuid_count(XSTATE_LEAF, component, &known[component].size, &known[component].offset, &c, &d);
	*ret_size = known[component].size;
	return known[component].offset;
}

/* The number of elements that were copied, 0 if there is no such component. */
static size_t take(const uint8_t *state, size_t size, unsigned int component, void *to, size_t bytes, size_t unit)
{
	size_t length = 0, at = offset_of(component, &length);

	if (!at || length != bytes || at + length > size)
		return 0;
	memcpy(to, state + at, bytes);
	return bytes / unit;
}

void xstate_to_criu(const uint8_t *state, size_t size, struct xstate_criu *store, UserX86FpregsEntry *to)
{
	UserX86XsaveEntry *x = &store->xsave;

	if (size < LEGACY)
		return;
	memcpy(store->st, state + ST_AT, sizeof(store->st));
	memcpy(store->xmm, state + XMM_AT, sizeof(store->xmm));
	to->st_space = store->st;
	to->n_st_space = 32;
	to->xmm_space = store->xmm;
	to->n_xmm_space = 64;
	if (size < LEGACY + HEADER)
		return;
	user_x86_xsave_entry__init(x);
	memcpy(&x->xstate_bv, state + LEGACY, sizeof(x->xstate_bv));
	x->ymmh_space = store->ymmh;
	x->n_ymmh_space = take(state, size, YMMH, store->ymmh, sizeof(store->ymmh), 4);
	x->opmask_reg = store->opmask;
	x->n_opmask_reg = take(state, size, OPMASK, store->opmask, sizeof(store->opmask), 8);
	x->zmm_upper = store->zmm_upper;
	x->n_zmm_upper = take(state, size, ZMM_UPPER, store->zmm_upper, sizeof(store->zmm_upper), 8);
	x->hi16_zmm = store->hi16_zmm;
	x->n_hi16_zmm = take(state, size, HI16_ZMM, store->hi16_zmm, sizeof(store->hi16_zmm), 8);
	x->pkru = store->pkru;
	x->n_pkru = take(state, size, PKRU, store->pkru, sizeof(store->pkru), 4);
	to->xsave = x;
}

/* Components that are in their initial state may be left out. */
static int put(uint8_t *state, size_t size, unsigned int component, const void *from, size_t bytes)
{
	size_t length = 0, at = bytes ? offset_of(component, &length) : 0;

	if (!bytes)
		return 0;
	if (!at || length != bytes || at + length > size)
		return -EPROTO;
	memcpy(state + at, from, bytes);
	return 0;
}

int xstate_from_criu(const UserX86FpregsEntry *from, uint8_t to[XSTATE_MAX], size_t *ret_size)
{
	const UserX86XsaveEntry *x = from->xsave;
	uint16_t words[4] = { from->cwd, from->swd, from->twd, from->fop };
	uint64_t pointers[2] = { from->rip, from->rdp }, all = 3 /* x87, SSE */;
	unsigned int size, most, c, d;

	if (!__get_cpuid_count(XSTATE_LEAF, 0, &c, &size, &most, &d) || most > XSTATE_MAX || from->n_st_space != 32 ||
	    from->n_xmm_space != 64)
		return -EPROTO;
	size = most ? most : LEGACY + HEADER;
	memset(to, 0, size);
	memcpy(to, words, sizeof(words));
	memcpy(to + 8, pointers, sizeof(pointers));
	memcpy(to + 24, &from->mxcsr, 4);
	memcpy(to + 28, &from->mxcsr_mask, 4);
	memcpy(to + ST_AT, from->st_space, 32 * 4);
	memcpy(to + XMM_AT, from->xmm_space, 64 * 4);
	memcpy(to + LEGACY, x ? &x->xstate_bv : &all, sizeof(all));
	*ret_size = size;
	if (!x)
		return 0;
	return put(to, size, YMMH, x->ymmh_space, x->n_ymmh_space * 4) ?:
	       put(to, size, OPMASK, x->opmask_reg, x->n_opmask_reg * 8) ?:
	       put(to, size, ZMM_UPPER, x->zmm_upper, x->n_zmm_upper * 8) ?:
	       put(to, size, HI16_ZMM, x->hi16_zmm, x->n_hi16_zmm * 8) ?: put(to, size, PKRU, x->pkru, x->n_pkru * 4);
}
