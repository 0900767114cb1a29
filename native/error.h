/* error.h - failure as a sentence: filled once, where it happens, and wrapped on the way up. */
#ifndef PHAUL_ERROR_H
#define PHAUL_ERROR_H

#include "phaul.h"

/* Stores code (-errno), part and sentence in `err` unless it is NULL, and returns `code`. For codes
 * that the kernel gave, the sentence is followed by ": " and the errno's name and text. */
int phaul_fail(struct phaul_error *err, int code, const char *where, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Puts "outer: " before the sentence that is already there; returns err->code. */
int phaul_wrap(struct phaul_error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
