/* xstate_test.c - what is packed comes back, and what is malformed is refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "thread_fit.h"
#include "xstate.h"

static uint8_t state[XSTATE_MAX], back[XSTATE_MAX], packed[XSTATE_PACKED_MAX];

static int round_trip(size_t size, int density)
{
	size_t length, got;

	for (size_t i = 0; i < size; i++)
		state[i] = rand() % 1000 < density ? rand() : 0;
	memset(back, 0xaa, sizeof(back));
	length = xstate_pack(state, size, packed);
	if (xstate_unpack(packed, length, back, &got) || got != size || memcmp(state, back, size)) {
		printf("%zu bytes, %d of 1000 not zero: not the same\n", size, density);
		return 1;
	}
	for (size_t cut = 0; cut < length; cut++) {
		uint8_t *copy = malloc(cut + 1);	/* so that a sanitizer sees a read too many */

		memcpy(copy, packed, cut);
		if (xstate_unpack(copy, cut, back, &got) != -EPROTO) {
			printf("%zu of %zu bytes were taken for whole\n", cut, length);
			return 1;
		}
		free(copy);
	}
	return 0;
}

/* Of the header of such a state, 8 bytes behind the legacy region. */
static int tiles_are_seen(void)
{
	memset(state, 0, sizeof(state));
	state[512] = 0xe7;
	state[514] = 2;	/* their configuration alone */
	if (xstate_has_tiles(state, 11008))
		return 1;
	state[514] |= 4;
	return !xstate_has_tiles(state, 11008) || xstate_has_tiles(state, 519);
}

/* A CPU that has AVX and keys elsewhere, and something that this one hasn't got. */
static int other_cpu(void)
{
	struct xstate_layout there = { .offset = { [2] = 1024, [9] = 640, [40] = 2000 }, .length = { [2] = 256, [9] = 8, [40] = 64 } };
	struct xstate_layout here;
	uint64_t used = 7 | 1ull << 9 | 1ull << 40, told;
	uint32_t closed = 0x55555554;
	unsigned int component = 0;
	size_t size = 0;
	int failed = 0;

	xstate_layout_read(&here);
	if (!here.length[2])
		return 0;
	for (unsigned int i = 0; i < XSTATE_COMPONENTS; i++)
		if (here.length[i] && here.offset[i] + here.length[i] > size)
			size = here.offset[i] + here.length[i];
	memset(state, 0, sizeof(state));
	memcpy(state + 512, &used, sizeof(used));
	memset(state + 24, 0x1f, 4);			/* mxcsr */
	memset(state + 1024, 0xab, 256);
	memcpy(state + 640, &closed, sizeof(closed));
	memset(back, 0, sizeof(back));
	memset(back + 464, 0xff, 8);			/* the kernel has all that the CPU has */
	if (xstate_convert(&there, state, 2064, back, size, &component))
		failed = printf("registers %u that hold nothing are missed\n", component);
	memcpy(&told, back + 512, sizeof(told));
	if (!(told & 4) || told >> 40 || back[here.offset[2]] != 0xab || back[here.offset[2] + 255] != 0xab || back[24] != 0x1f)
		failed = printf("AVX is not where this CPU has it, of %llx\n", (unsigned long long)told);
	state[2000] = 1;
	if (xstate_convert(&there, state, 2064, back, size, &component) != -EXDEV || component != 40)
		failed = printf("registers that this CPU lacks are lost\n");
	there.offset[2] = 2000;
	if (xstate_convert(&there, state, 2064, back, size, &component) != -EPROTO)
		failed = printf("registers behind the end are read\n");
	there.offset[2] = XSTATE_MAX - 255;
	if (xstate_layout_is_valid(&there))
		failed = printf("a layout beyond all bounds is valid\n");
	return failed;
}

/* A program that began on a smaller CPU may have too small a stack for signals, and a newer one too large an rseq area. */
static int threads_fit(void)
{
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	ThreadSasEntry sas = THREAD_SAS_ENTRY__INIT;
	RseqEntry rseq = RSEQ_ENTRY__INIT;
	static struct origin origin;
	struct phaul_error err;
	struct thread_needs needs, same;
	int failed = 0;

	thread_needs_read(NULL, &same);
	thread_needs_read(&origin, &needs);
	if (same.signal_stack_more || needs.signal_stack != same.signal_stack)
		failed = printf("signals take %llu bytes, %llu more than on a CPU with SSE alone\n", (unsigned long long)needs.signal_stack,
				(unsigned long long)needs.signal_stack_more);
	needs = (struct thread_needs){ .signal_stack = 3000, .signal_stack_more = 1000, .rseq_bytes = 40 };
	thread.sas = &sas;
	thread.rseq_entry = &rseq;
	rseq.rseq_abi_size = 32;
	for (sas.ss_size = 1500; sas.ss_size < 4000; sas.ss_size += 500)
		if (thread_fit_check(&needs, 7, &thread, &err) != (sas.ss_size >= 2000 && sas.ss_size < 3000 ? -EXDEV : 0))
			failed = printf("a signal stack of %llu bytes is taken for another\n", (unsigned long long)sas.ss_size);
	sas.ss_size = 2048;
	if (thread_fit_check(&needs, 7, &thread, &err) != -EXDEV || !strstr(err.what, "signals on a stack of 2048 bytes"))
		failed = printf("a small signal stack is refused as \"%s\"\n", err.what);
	sas.ss_flags = 2;	/* SS_DISABLE */
	if (thread_fit_check(&needs, 7, &thread, &err))
		failed = printf("no signal stack is too small\n");
	rseq.rseq_abi_size = 64;
	if (thread_fit_check(&needs, 7, &thread, &err))
		failed = printf("an rseq area that is large enough is refused\n");
	needs.rseq_bytes = 0;
	if (thread_fit_check(&needs, 7, &thread, &err) != -EXDEV || !strstr(err.what, "an rseq area of 64 bytes"))
		failed = printf("an rseq area that the kernel doesn't take is refused as \"%s\"\n", err.what);
	return failed;
}

int main(void)
{
	size_t sizes[] = { 0, 1, 63, 64, 65, 576, 2696, 4095, 4096, 4097, 11008, XSTATE_MAX }, got;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (int density = 0; density <= 1000; density += 50)
			if (round_trip(sizes[i], density * density / 1000))
				return 1;
	for (int i = 0; i < 100000; i++) {
		size_t length = rand() % 64;
		uint8_t *noise = malloc(length + 1);

		for (size_t j = 0; j < length; j++)
			noise[j] = rand() % 3 ? rand() : 0;
		(void)xstate_unpack(noise, length, back, &got);
		free(noise);
	}
	if (other_cpu() || threads_fit())
		return 1;
	return xstate_pack(state, 0, packed) == 4 ? tiles_are_seen() : 1;
}
