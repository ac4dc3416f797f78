import type { LandlockWall } from '../../../src/sandbox/wire/codec.ts';
import type { Attempt } from '../attempt.ts';
import { NO_DEVICES } from './ids.ts';

/** What Landlock is the first to stop in any sandbox. */
export const landlockAttempts: readonly Attempt[] = [
  {
    verb: 'make-disk',
    tries: 'a device node of a disk',
    layer: 'landlock',
    without: 'walls',
    further: NO_DEVICES,
  },
  {
    verb: 'make-memory-device',
    tries: 'a device node of memory',
    layer: 'landlock',
    without: 'walls',
    further: NO_DEVICES,
  },
];

/** What nothing but one of Landlock's walls stops, in a sandbox that has nothing else. */
export interface WallAttempt {
  readonly verb: string;
  readonly tries: string;
  readonly wall: LandlockWall;
  readonly network: 'private' | 'host';
}

export const wallAttempts: readonly WallAttempt[] = [
  {
    verb: 'leaked-folder',
    tries: 'a file in a folder of the host’s',
    wall: 'files',
    network: 'private',
  },
  { verb: 'leaked-folder-parent', tries: 'the folder above it', wall: 'files', network: 'private' },
  { verb: 'leaked-folder-write', tries: 'a new file in it', wall: 'files', network: 'private' },
  {
    verb: 'trace-init',
    tries: 'tracing the init, with the right to',
    wall: 'files',
    network: 'private',
  },
  {
    verb: 'read-init-memory',
    tries: 'its memory, with the right to',
    wall: 'files',
    network: 'private',
  },
  { verb: 'mount-tmpfs', tries: 'mounting, with the right to', wall: 'files', network: 'private' },
  { verb: 'own-loopback', tries: 'TCP', wall: 'no-tcp', network: 'private' },
  { verb: 'listen', tries: 'to be called by TCP', wall: 'no-tcp', network: 'private' },
  {
    verb: 'abstract-socket',
    tries: 'an abstract socket of the host',
    wall: 'abstract-sockets',
    network: 'host',
  },
];
