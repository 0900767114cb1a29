/* conversation.h - what a source says to the host that it moves a process to. Parts in their order: "layout", "frames", "threads",
 * "state", "packets"; and, wherever they are, "pid", i32, and "addresses".
 */
#ifndef PHAUL_FUZZ_CONVERSATION_H
#define PHAUL_FUZZ_CONVERSATION_H

#include "parts.h"
#include "phaul.h"

/* Until the first that is refused; nothing is left afterwards. Returns how that ended. */
int converse(const struct parts *parts, struct phaul_error *err);

#endif
