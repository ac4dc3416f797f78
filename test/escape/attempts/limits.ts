import type { OpenOptions } from '../../support/kiln.ts';
import type { Attempt } from '../attempt.ts';

/** Of a kernel that has them. */
const HUGE_PAGES = ['/proc/sys/vm/nr_hugepages'];

/** What limits stop, of what every command tries. */
export const limitAttempts: readonly Attempt[] = [
  {
    verb: 'core-dump',
    tries: 'a core dump, which the host’s root may read',
    layer: 'limits',
    without: 'limits',
  },
  {
    verb: 'many-signals',
    tries: 'more than 1024 pending signals, which count as root’s',
    layer: 'limits',
    without: 'limits',
  },
  {
    verb: 'many-queues',
    tries: 'more than an eighth of root’s POSIX message queues',
    layer: 'limits',
    without: 'limits',
  },
  {
    verb: 'many-terminals',
    tries: 'more than 64 terminals, of which the host has a few thousand',
    layer: 'limits',
    without: 'terminals',
  },
  {
    verb: 'many-inotify',
    tries: 'more than an eighth of the host’s inotify instances',
    layer: 'limits',
    without: 'bare',
  },
  {
    verb: 'many-inotify-ids',
    tries: 'the same by many ids',
    layer: 'limits',
    as: 'root',
    without: 'seccomp',
  },
  {
    verb: 'many-netlink',
    tries: 'more than 32 netlink sockets, whose memory counts as nobody’s',
    layer: 'limits',
    without: 'seccomp',
  },
  {
    verb: 'huge-pages',
    tries: 'the host’s huge pages, which no limit counts',
    layer: 'limits',
    without: 'seccomp',
    attacks: HUGE_PAGES,
  },
  {
    verb: 'huge-file',
    tries: 'a file of them',
    layer: 'limits',
    without: 'seccomp',
    attacks: HUGE_PAGES,
  },
  {
    verb: 'ia32-huge-pages',
    tries: 'some by the 32-bit door, with flags in memory',
    layer: 'limits',
    without: 'seccomp',
    attacks: HUGE_PAGES,
  },
  {
    verb: 'socket-filter',
    tries: 'the host’s room for compiled filters, which seccomp needs',
    layer: 'limits',
    without: 'seccomp',
  },
  {
    verb: 'many-watches',
    tries: 'more than an eighth of its inotify watches',
    layer: 'limits',
    without: 'bare',
  },
];

/** What uses up the host, in a sandbox with a limit; without the limit it must get through. */
export const bombs: readonly { readonly verb: string; readonly limit: Partial<OpenOptions> }[] = [
  { verb: 'fork-bomb', limit: { limits: { pids: 40 } } },
  { verb: 'memory-bomb', limit: { limits: { memory: 64 << 20 } } },
  { verb: 'disk-bomb', limit: { disk: 16 << 20 } },
  { verb: 'inode-bomb', limit: { limits: { memory: 24 << 20 } } },
  { verb: 'descriptor-bomb', limit: { limits: { memory: 24 << 20 } } },
  { verb: 'stream-bomb', limit: { limits: { memory: 48 << 20 } } },
  { verb: 'datagram-bomb', limit: { limits: { memory: 48 << 20 } } },
];
