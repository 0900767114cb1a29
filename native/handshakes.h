/* handshakes.h - connections that are being made when their server is about to be stopped. One whose handshake isn't complete
 * can't be moved, and neither can one that waits to be accepted: they are waited for, while new ones are kept back.
 */
#ifndef PHAUL_HANDSHAKES_H
#define PHAUL_HANDSHAKES_H

#include "address.h"

/* How many there are at these addresses, or at a listener of all addresses; -errno. */
int handshakes_count(const struct moved_addresses *a);

#endif
