import type { Attempt } from '../attempt.ts';

/** What a capability would allow. */
export const capabilityAttempts: readonly Attempt[] = [
  { verb: 'raw-socket', tries: 'raw IP', layer: 'capabilities', without: 'rights' },
  {
    verb: 'change-interface',
    tries: 'changing an interface',
    layer: 'capabilities',
    without: 'rights',
  },
  {
    verb: 'low-port',
    tries: 'a port below 1024',
    layer: 'capabilities',
    as: 'user',
    without: 'rights',
  },
  {
    verb: 'chroot',
    tries: 'another root directory',
    layer: 'capabilities',
    as: 'user',
    without: 'rights',
  },
  { verb: 'sethostname', tries: 'the host name', layer: 'capabilities', without: 'rights' },
  { verb: 'mount-tmpfs', tries: 'mounting', layer: 'capabilities', without: 'rights' },
  { verb: 'mount-cgroups', tries: 'mounting cgroups', layer: 'capabilities', without: 'rights' },
  { verb: 'unmask', tries: 'unmounting a mask', layer: 'capabilities', without: 'rights' },
  {
    verb: 'remount-sysctl',
    tries: '/proc/sys writable again',
    layer: 'capabilities',
    without: 'rights',
  },
  {
    verb: 'copy-tree',
    tries: 'a mount of the whole tree, to pass it on',
    layer: 'capabilities',
    without: 'rights',
  },
  { verb: 'new-mount-api', tries: 'the new mount calls', layer: 'capabilities', without: 'rights' },
  { verb: 'pivot-root', tries: 'pivot_root', layer: 'capabilities', without: 'rights' },
  {
    verb: 'reboot',
    tries: 'reboot',
    layer: 'capabilities',
    without: 'rights',
    further: { EINVAL: 'the right was there, the arguments make no sense' },
  },
];
