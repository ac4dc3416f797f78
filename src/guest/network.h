// SPDX-License-Identifier: Apache-2.0
// What a box's interface needs whose address comes from the network: the runner speaks DHCP, through
// a socket that is made here, and has the address set here.
#ifndef KILN_NETWORK_H
#define KILN_NETWORK_H

#include <stdint.h>

// IPv4, in network order; a gateway of 0 is none.
struct network_address {
  uint32_t address, mask, gateway;
};

// A datagram socket of that interface on the port of DHCP clients, or -1.
int network_dhcp_socket(const char *interface);
// Gives the interface that address instead of any it has, and a default route. 0 or -1.
int network_set_address(const char *interface, const struct network_address *wanted);

#endif
