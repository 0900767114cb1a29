/* kernel.h - a kernel that agrees to everything and does nothing: the fuzzers are linked with it in place of the calls of libc of
 * the same names (kernel_open() for open()), so that they run the code that builds processes, files and sockets, whatever images
 * say, as often as they like, on any machine. It has the files of an input.
 *
 * Parts with a meaning of their own:
 *	fail		u16 number of the call that is refused, u16 errno
 *	stat		lines "MODE SIZE RDEV NAME", octal, decimal, hexadecimal: what files are; others are empty
 *	maps, status, ...	what is below /proc/PID under that name, of every process
	fd/3, fdinfo/3, task/12	what is in its directories: a link's text, a file's text, nothing
 *	wire		what comes through a TLS connection
 * All others are files of the directory; "parent/..." are those of the one before.
 */
#ifndef PHAUL_FUZZ_KERNEL_H
#define PHAUL_FUZZ_KERNEL_H

#include "parts.h"
#include "phaul.h"

#define KERNEL_DIRECTORY 3

void kernel_begin(const struct parts *files);
/* Aborts if a descriptor or a mapping was left. */
void kernel_end(void);
/* That it was asked since the beginning. */
uint32_t kernel_calls(void);
/* With FUZZ_TELL in the environment, how a call of the library ended. Returns `code`. */
int tell(int code, const struct phaul_error *err);

#endif
