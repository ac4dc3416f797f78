/** Who holds a sandbox that another process wants something of. */
import { KilnError } from '../../errors.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { connectUnixSocket, NOBODY_LISTENS } from '../../host/sockets/unix-socket.ts';
import { isOver, type ListedSandbox, sandboxFiles } from '../domain/sandbox-record.ts';

const WHY_OVER: Readonly<Record<string, string>> = {
  abandoned: 'its kiln was killed',
  dead: 'a process that it cannot do without was killed',
};

/** A connection to whoever holds a sandbox and takes visitors; undefined where nobody does. */
export function connectHolder(directory: string): number | undefined {
  const path = sandboxFiles.visit(directory);
  return unlessErrno(NOBODY_LISTENS, () => connectUnixSocket(path));
}

/** Why nobody takes visitors for a sandbox. */
export function closedError({ id, state, record }: ListedSandbox): KilnError {
  const [first, name] = record.command ?? [];
  const [why, hint] =
    state === 'parked'
      ? ['it is parked, and has no image yet', '`kiln shell -r IMAGE` opens a new one']
      : state === 'kept'
        ? ['it is kept, and no command is in it', '`kiln exec` enters it']
        : state === 'ending'
          ? ['it was killed, and a process in it does not end', '`kiln ps` says which one']
          : isOver(state)
            ? [
                WHY_OVER[state] ?? 'its time is over',
                '`kiln gc` removes it; `kiln run --keep` keeps one for later',
              ]
            : first === 'service'
              ? [`it is that of the service ${name}`, `kiln service execute ${name} -- COMMAND`]
              : [
                  'it is a build’s, or its command has not begun or has ended',
                  'what a build makes comes of its recipe alone; `kiln build --keep` keeps the sandbox of a failed one',
                ];
  return new KilnError('E_NO_SANDBOX', `sandbox ${id} takes no further command: ${why}`, { hint });
}
