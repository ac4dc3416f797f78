/**
 * Calls that the init makes in a command's place (src/guest/lend.c): the filter asks it. In front of every profile,
 * whose verdict on the call counts first.
 */
import type { SeccompFilter } from './profile.ts';
import {
  argumentAt,
  guard,
  type Instruction,
  ifEqual,
  LOAD,
  onCall,
  RET_ASK,
  RETURN,
  TO_PROFILE,
  withGuard,
} from './program.ts';

/** linux/socket.h */
const AF_NETLINK = 16;

const ASK: Instruction = [RETURN, RET_ASK];

export function withLentCalls(filter: SeccompFilter): SeccompFilter {
  const instructions = guard(({ inotify_init, inotify_init1, socket }) => [
    ...onCall(inotify_init, [ASK]),
    ...onCall(inotify_init1, [ASK]),
    ...onCall(socket, [[LOAD, argumentAt(0)], ...ifEqual(AF_NETLINK, [ASK]), TO_PROFILE]),
  ]);
  return withGuard(filter, (asks) => (asks ? instructions : []));
}
