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
  {
    verb: 'every-protocol',
    tries: 'any but unix, TCP, UDP, ping and netlink’s route',
    layer: 'network',
    without: 'seccomp',
  },
  {
    verb: 'ia32-every-protocol',
    tries: 'the same by the 32-bit door',
    layer: 'network',
    without: 'seccomp',
  },
  {
    verb: 'pair-socket',
    tries: 'the same as a pair (socketpair(2))',
    layer: 'network',
    without: 'seccomp',
  },
  {
    verb: 'bridge-ioctl',
    tries: 'the host’s module for bridges, by ioctl(2)',
    layer: 'seccomp',
    without: 'seccomp',
  },
  {
    verb: 'vlan-ioctl',
    tries: 'its module for VLANs',
    layer: 'seccomp',
    without: 'seccomp',
  },
  {
    verb: 'line-discipline',
    tries: 'its modules for line disciplines of terminals',
    layer: 'seccomp',
    without: 'seccomp',
    further: { EPERM: 'the host does not load them (dev.tty.ldisc_autoload)' },
  },
  { verb: 'audit-socket', tries: 'the audit log', layer: 'network', without: 'seccomp' },
];
