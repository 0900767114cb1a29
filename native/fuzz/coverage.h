/* coverage.h - which code an input reaches, as gcc tells by -fsanitize-coverage=trace-pc. */
#ifndef PHAUL_FUZZ_COVERAGE_H
#define PHAUL_FUZZ_COVERAGE_H

#include <stdbool.h>
#include <stddef.h>

/* Around an input. */
void coverage_begin(void);
void coverage_end(void);
/* Did it reach what none before has, or as often? */
bool coverage_is_new(void);
/* That any has reached. */
size_t coverage_places(void);

#endif
