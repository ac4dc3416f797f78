import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { virtualMac } from '../sandbox/network/mac.ts';
import type { ServiceNetwork } from './definition-network.ts';
import type { InstanceFiles } from './instance-files.ts';

/**
 * The Ethernet address of a service's interface: the same at each start, since that is what a network
 * knows it by, and another one on another host.
 */
export function networkMac({ mac }: ServiceNetwork, { directory }: InstanceFiles): string {
  if (mac !== undefined) return mac;
  const identity = [hostMachineId(), hostname(), directory].join('\n');
  return virtualMac(createHash('sha256').update(identity).digest().subarray(0, 3));
}

function hostMachineId(): string {
  try {
    return readFileSync('/etc/machine-id', 'utf8');
  } catch {
    return '';
  }
}
