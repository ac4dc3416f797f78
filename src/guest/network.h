// SPDX-License-Identifier: Apache-2.0
// What a sandbox's interface needs whose address comes from the network: the runner speaks DHCP, through
// a socket that is made here, and has the address set here.
#ifndef KILN_NETWORK_H
#define KILN_NETWORK_H

#include "wire.h"

// A datagram socket on the interface and the port of DHCP clients, or -1.
int network_dhcp_socket(const char *interface);
// Replaces the address of the interface, and sets a default route. 0 or -1.
int network_set_address(const char *interface, const struct wire_address *wanted);

#endif
