/* fuzz.h - what a fuzzer, its changes of inputs, and what runs it say to each other: libFuzzer's words. */
#ifndef PHAUL_FUZZ_H
#define PHAUL_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Each fuzzer has one. 0. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* mutate.c: change an input in place, or make one of two. They return its size. */
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t max, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *ret, size_t max,
				 unsigned int seed);

/* The driver's: one change of bytes, whatever they mean. */
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t max);

#endif
