#include "xstate.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "phaul.h"

#define LEGACY 512u		/* x87 and SSE: the same everywhere */
#define FEATURES_AT 464u	/* in its last bytes: which components the kernel has, as ptrace tells it */
#define HEADER 64u

#define BLOCK 64
#define BLOCKS_A_WORD 64
#define XSTATE_BV 512		/* where the header is: which components are in use */
#define TILE_DATA 18

int xstate_get(pid_t tid, uint8_t ret[XSTATE_MAX], size_t *ret_size)
{
	struct iovec io = { ret, XSTATE_MAX };
	const uint64_t both = 3;

	if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &io) == 0) {
		*ret_size = io.iov_len;
		return 0;
	}
	io.iov_len = LEGACY;
	if (errno != ENODEV || ptrace(PTRACE_GETREGSET, tid, NT_PRFPREG, &io) < 0)
		return -errno;
	memset(ret + FEATURES_AT, 0, LEGACY + HEADER - FEATURES_AT);
	memcpy(ret + FEATURES_AT, &both, sizeof(both));
	memcpy(ret + LEGACY, &both, sizeof(both));
	*ret_size = LEGACY + HEADER;
	return 0;
}

int xstate_set(pid_t tid, const uint8_t *state, size_t size)
{
	struct iovec io = { (void *)state, size };

	if (ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &io) == 0)
		return 0;
	io.iov_len = LEGACY;
	return errno == ENODEV && ptrace(PTRACE_SETREGSET, tid, NT_PRFPREG, &io) == 0 ? 0 : -errno;
}

static size_t blocks_of(size_t size)
{
	return (size + BLOCK - 1) / BLOCK;
}

static size_t map_size(size_t size)
{
	return (blocks_of(size) + BLOCKS_A_WORD - 1) / BLOCKS_A_WORD * sizeof(uint64_t);
}

static bool is_zero(const uint8_t *block)
{
	uint64_t words[BLOCK / 8], all = 0;

	memcpy(words, block, sizeof(words));
	for (size_t i = 0; i < BLOCK / 8; i++)
		all |= words[i];
	return !all;
}

size_t xstate_pack(uint8_t *state, size_t size, uint8_t to[XSTATE_PACKED_MAX])
{
	uint32_t word = size;
	uint64_t maps[XSTATE_MAX / BLOCK / BLOCKS_A_WORD] = {0};
	uint8_t *at = to + sizeof(word) + map_size(size);

	memset(state + size, 0, blocks_of(size) * BLOCK - size);
	for (size_t i = 0; i < blocks_of(size); i++) {
		if (is_zero(state + i * BLOCK))
			continue;
		maps[i / BLOCKS_A_WORD] |= 1ull << i % BLOCKS_A_WORD;
		memcpy(at, state + i * BLOCK, BLOCK);
		at += BLOCK;
	}
	memcpy(to, &word, sizeof(word));
	memcpy(to + sizeof(word), maps, map_size(size));
	return at - to;
}

bool xstate_has_tiles(const uint8_t *state, size_t size)
{
	uint64_t used;

	if (size < XSTATE_BV + sizeof(used))
		return false;
	memcpy(&used, state + XSTATE_BV, sizeof(used));
	return used >> TILE_DATA & 1;
}

int xstate_unpack(const uint8_t *bytes, size_t length, uint8_t to[XSTATE_MAX], size_t *ret_size)
{
	uint64_t maps[XSTATE_MAX / BLOCK / BLOCKS_A_WORD];
	const uint8_t *at, *end = bytes + length;
	uint32_t size;

	if (length < sizeof(size))
		return -EPROTO;
	memcpy(&size, bytes, sizeof(size));
	if (size > XSTATE_MAX || length - sizeof(size) < map_size(size))
		return -EPROTO;
	memcpy(maps, bytes + sizeof(size), map_size(size));
	at = bytes + sizeof(size) + map_size(size);
	for (size_t i = 0; i < blocks_of(size); i++) {
		if (!(maps[i / BLOCKS_A_WORD] >> i % BLOCKS_A_WORD & 1)) {
			memset(to + i * BLOCK, 0, BLOCK);
			continue;
		}
		if (end - at < BLOCK)
			return -EPROTO;
		memcpy(to + i * BLOCK, at, BLOCK);
		at += BLOCK;
	}
	*ret_size = size;
	return at == end ? 0 : -EPROTO;
}

/* ---- from one CPU to another ---- */

#define FIRST_OTHER 2u
#define PKRU 9u
#define PKRU_DEFAULT 0x55555554u	/* all keys but the first are closed: nobody uses any */
#define XSTATE_LEAF 0xd

void xstate_layout_read(struct xstate_layout *ret)
{
	unsigned int length, offset, c, d;

	memset(ret, 0, sizeof(*ret));
	for (unsigned int i = FIRST_OTHER; i < XSTATE_COMPONENTS; i++) {
		/* The kernel's own sets have no place in the standard format. */
		if (!__get_cpuid_count(XSTATE_LEAF, i, &length, &offset, &c, &d) || !length || c & 1)
			continue;
		ret->offset[i] = offset;
		ret->length[i] = length;
	}
}

size_t xstate_layout_size(const struct xstate_layout *layout, bool tiles)
{
	size_t size = LEGACY + HEADER;

	for (unsigned int i = FIRST_OTHER; i < XSTATE_COMPONENTS; i++)
		if ((tiles || i != TILE_DATA) && layout->offset[i] + layout->length[i] > size)
			size = layout->offset[i] + layout->length[i];
	return size;
}

int phaul_xsave_size(void)
{
	unsigned int a, size, c, d;

	return __get_cpuid(1, &a, &size, &c, &d) && c & bit_OSXSAVE && __get_cpuid_count(XSTATE_LEAF, 0, &a, &size, &c, &d) ? size : 0;
}

bool xstate_layout_is_valid(const struct xstate_layout *layout)
{
	for (unsigned int i = 0; i < XSTATE_COMPONENTS; i++)
		if (layout->length[i] && (layout->offset[i] < LEGACY + HEADER || layout->offset[i] > XSTATE_MAX ||
					  layout->length[i] > XSTATE_MAX - layout->offset[i]))
			return false;
	return true;
}

const char *xstate_component_name(unsigned int component)
{
	static const char *const names[] = {
		[2] = "AVX", [3] = "MPX", [4] = "MPX", [5] = "AVX-512", [6] = "AVX-512", [7] = "AVX-512",
		[9] = "memory protection keys", [17] = "AMX", [18] = "AMX", [19] = "APX",
	};

	return component < sizeof(names) / sizeof(*names) && names[component] ? names[component] : "unknown";
}

/* As all sets of registers begin; some CPUs say of them that they are in use all the same. */
static bool is_idle(unsigned int component, const uint8_t *registers, size_t length)
{
	uint32_t keys;

	memcpy(&keys, registers, sizeof(keys));
	if (component == PKRU && keys == PKRU_DEFAULT)
		return true;
	for (size_t i = 0; i < length; i++)
		if (registers[i])
			return false;
	return true;
}

int xstate_convert(const struct xstate_layout *from, const uint8_t *state, size_t size, uint8_t *here, size_t here_size,
		   unsigned int *ret_component)
{
	struct xstate_layout to;
	uint64_t used, there, known = 3;
	const uint32_t closed = PKRU_DEFAULT;

	if (size < LEGACY + HEADER || here_size < LEGACY + HEADER)
		return -EPROTO;
	xstate_layout_read(&to);
	memcpy(&used, state + LEGACY, sizeof(used));
	memcpy(&there, here + FEATURES_AT, sizeof(there));
	memcpy(here, state, FEATURES_AT);
	memset(here + LEGACY, 0, here_size - LEGACY);
	for (unsigned int i = FIRST_OTHER; i < XSTATE_COMPONENTS; i++) {
		bool has = there >> i & 1 && to.length[i] && to.offset[i] + to.length[i] <= here_size;

		if (i == PKRU && has && !from->length[i]) {
			memcpy(here + to.offset[i], &closed, sizeof(closed));
			known |= 1ull << i;
		}
		if (!(used >> i & 1))
			continue;
		if (!from->length[i] || from->offset[i] + from->length[i] > size)
			return -EPROTO;
		if (has && to.length[i] == from->length[i]) {
			memcpy(here + to.offset[i], state + from->offset[i], to.length[i]);
			known |= 1ull << i;
		} else if (!is_idle(i, state + from->offset[i], from->length[i])) {
			*ret_component = i;
			return -EXDEV;
		}
	}
	used = (used & 3) | (known & ~3ull);
	memcpy(here + LEGACY, &used, sizeof(used));
	return 0;
}
