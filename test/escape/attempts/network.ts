import type { Attempt } from '../attempt.ts';

/** Sockets and interfaces. */
export const networkAttempts: readonly Attempt[] = [
  {
    verb: 'host-loopback',
    tries: 'a server on the host’s loopback',
    layer: 'network',
    without: 'network',
  },
  {
    verb: 'abstract-socket',
    tries: 'an abstract socket of the host',
    layer: 'network',
    without: 'network',
  },
  {
    verb: 'other-interfaces',
    tries: 'the host’s interfaces',
    layer: 'network',
    without: 'network',
  },
  { verb: 'route-out', tries: 'a way out', layer: 'network', without: 'network' },
  {
    verb: 'vsock',
    tries: 'the machine’s own host (AF_VSOCK)',
    layer: 'network',
    without: 'seccomp',
  },
  { verb: 'packet-socket', tries: 'all packets', layer: 'network', without: 'rights' },
  { verb: 'crypto-socket', tries: 'AF_ALG', layer: 'network', without: 'seccomp' },
  {
    verb: 'bluetooth-socket',
    tries: 'protocols nobody needs',
    layer: 'network',
    without: 'seccomp',
  },
  { verb: 'audit-socket', tries: 'the audit log', layer: 'network', without: 'seccomp' },
];
