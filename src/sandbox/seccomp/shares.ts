/**
 * What one sandbox could take of all that the host has, and neither a control group nor a user namespace bounds: huge
 * pages (the host's pool of them), and room for compiled filters (net.core.bpf_jit_limit), without which nobody but root
 * can load a seccomp filter. In front of every profile. Sources: mmap(2), memfd_create(2), shmget(2), ipc(2), socket(7).
 */
import type { Capability } from '../../host/process/process.ts';
import type { SeccompFilter } from './profile.ts';
import {
  AND,
  argumentAt,
  guard,
  IF_ANY_BIT,
  type Instruction,
  ifEqual,
  ifWithin,
  LOAD,
  onCall,
  RET_ERRNO,
  RETURN,
  refusing,
  TO_PROFILE,
  withGuard,
} from './program.ts';

/** errno(3): what a kernel without huge pages, or without such an option or call, says. */
const EINVAL = 22;
const ENOSYS = 38;
const ENOPROTOOPT = 92;

const MAP_HUGETLB = 0x40000;
const MFD_HUGETLB = 4;
const SHM_HUGETLB = 0o4000;

/** linux/ipc.h: the upper half of ipc(2)'s first argument is a version. */
const IPC_SHMGET = 23;

/** asm-generic/socket.h: SO_ATTACH_FILTER, SO_ATTACH_BPF and its two of SO_REUSEPORT. */
const SOL_SOCKET = 1;
const ATTACHING = [
  [26, 26],
  [50, 52],
] as const;

/** @param capabilities of the command: with NET_RAW it may filter what it listens to */
export function withShareGuard(
  filter: SeccompFilter,
  capabilities: readonly Capability[],
): SeccompFilter {
  return withGuard(filter, (asks) => {
    const refuse = refusing(asks);
    const without = (argument: number, bit: number): Instruction[] => [
      [LOAD, argumentAt(argument)],
      [IF_ANY_BIT, bit, 0, 1],
      refuse(EINVAL),
      TO_PROFILE,
    ];
    const options = ifWithin(ATTACHING, refuse(ENOPROTOOPT));
    return guard(({ mmap, mmap2, memfd_create, shmget, ipc, setsockopt }) => [
      ...onCall(mmap2, without(3, MAP_HUGETLB)),
      // Where there is mmap2, the flags of mmap are in memory; the C library uses mmap2.
      ...onCall(
        mmap,
        mmap2 === undefined ? without(3, MAP_HUGETLB) : [[RETURN, RET_ERRNO | ENOSYS]],
      ),
      ...onCall(memfd_create, without(1, MFD_HUGETLB)),
      ...onCall(shmget, without(2, SHM_HUGETLB)),
      ...onCall(ipc, [
        [LOAD, argumentAt(0)],
        [AND, 0xffff],
        ...ifEqual(IPC_SHMGET, without(3, SHM_HUGETLB)),
        TO_PROFILE,
      ]),
      ...(capabilities.includes('NET_RAW')
        ? []
        : onCall(setsockopt, [
            [LOAD, argumentAt(1)],
            ...ifEqual(SOL_SOCKET, [[LOAD, argumentAt(2)], ...options, TO_PROFILE]),
            TO_PROFILE,
          ])),
    ]);
  });
}
