import { addAbortListener } from 'node:events';
import { runInRoot } from '../../jobs/mock/enter.ts';
import { argumentError } from '../../jobs/mock/outcome.ts';
import { type MockSession, withRoot } from '../../jobs/mock/session.ts';
import { connectCommand } from '../attach.ts';
import { type Caller, hasTerminal } from '../caller/caller.ts';

/** What a mode gets: the job's session, with the caller's terminal for those that need it. */
export interface MockCommand extends MockSession {
  readonly caller: Caller;
}

const SHELL = [
  '/bin/sh',
  '-c',
  'shell=sh; command -v bash >/dev/null 2>&1 && shell=bash; if [ $# -gt 0 ]; then exec $shell -lc "$1"; fi; exec $shell -l',
  'sh',
];

export async function shell(session: MockCommand): Promise<number> {
  const { line, log, caller } = session;
  const commandLine = line.args.length === 0 ? [] : [line.args.join(' ')];
  const tty = hasTerminal(caller);
  return await withRoot(session, (at) =>
    log.state('shell', () =>
      runInRoot(
        at,
        [...SHELL, ...commandLine],
        tty ? caller.windowSize : undefined,
        (it, kill) => connectCommand(it, kill, caller, tty),
        caller.handOver,
      ),
    ),
  );
}

export async function chroot(session: MockCommand): Promise<number> {
  const { line, log, signal, caller } = session;
  const [only] = line.args;
  if (only === undefined) {
    throw argumentError('You must specify a command to run with --chroot');
  }
  const argv = line.args.length === 1 ? [...SHELL, only] : line.args;
  return await withRoot(session, async (at) => {
    log.info(`Running in chroot: ${JSON.stringify(line.args)}`);
    log.start('chroot');
    const status = await runInRoot(at, argv, undefined, (command, kill) => {
      command.stdin.end();
      command.stdout.pipe(caller.stdout.stream, { end: false });
      command.stderr.pipe(caller.stderr.stream, { end: false });
      return addAbortListener(signal, kill);
    });
    signal.throwIfAborted();
    if (status !== 0) log.error(`Command failed: \n # ${line.args.join(' ')}`);
    log.finish('chroot');
    return status;
  });
}
