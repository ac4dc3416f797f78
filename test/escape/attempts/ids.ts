import type { Attempt } from '../attempt.ts';

/** Without Landlock, the kernel's own rule is left, which nobody can take away. */
export const NO_DEVICES = { EPERM: 'root of a user namespace makes no device nodes' };

/** What an id may do. */
export const idAttempts: readonly Attempt[] = [
  {
    verb: 'roots-file',
    tries: 'a file that only root reads',
    layer: 'ids',
    as: 'user',
    without: 'user',
  },
  { verb: 'take-file', tries: 'another’s file', layer: 'ids', as: 'user', without: 'user' },
  {
    verb: 'give-file-away',
    tries: 'giving a file to another',
    layer: 'ids',
    as: 'user',
    without: 'user',
  },
  { verb: 'become-another', tries: 'becoming root', layer: 'ids', as: 'user', without: 'user' },
  {
    verb: 'overlay-attribute',
    tries: 'the attributes overlayfs keeps for itself',
    layer: 'ids',
    without: 'sandbox',
  },
  {
    verb: 'mount-disk',
    tries: 'a device node of a disk, to read it',
    layer: 'ids',
    without: 'rights',
    further: NO_DEVICES,
  },
];
