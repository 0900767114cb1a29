#ifndef PHAUL_PORT_HOLDER_H
#define PHAUL_PORT_HOLDER_H

#include <stddef.h>

/* For error messages: "pid 812 (nginx)" or "another process", which has the port bound here. */
void port_holder(int type, int port, char *ret, size_t size);

#endif
