#include "xstate.h"

#include <errno.h>
#include <string.h>

#define BLOCK 64
#define BLOCKS_A_WORD 64
#define XSTATE_BV 512		/* where the header is: which components are in use */
#define TILE_DATA 18

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
