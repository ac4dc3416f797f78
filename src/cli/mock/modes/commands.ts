import type { Chroot } from '../../../mock/chroot.ts';
import { RootBox } from '../../../mock/root/box.ts';
import type { MockRoot } from '../../../mock/root/root.ts';
import type { SandboxProcess } from '../../../sandbox/process.ts';
import { DiskWatch } from '../../../state/disk-watch.ts';
import { attach, attachTerminal } from '../../attach.ts';
import { argumentError, commandStatus } from '../exit-status.ts';
import { type MockSession, withRoot } from '../session.ts';

/** Runs a command line in the image's best shell; without one, an interactive shell. */
const SHELL = [
  '/bin/sh',
  '-c',
  'shell=sh; command -v bash >/dev/null 2>&1 && shell=bash; if [ $# -gt 0 ]; then exec $shell -lc "$1"; fi; exec $shell -l',
  'sh',
];

/** `--shell`: a shell, or a command line for one; its arguments are joined. */
export async function shell(session: MockSession): Promise<number> {
  const { line, log } = session;
  const commandLine = line.args.length === 0 ? [] : [line.args.join(' ')];
  const tty = process.stdin.isTTY === true && process.stdout.isTTY === true;
  return await withRoot(session, async (root, chroot) => {
    log.start('shell');
    const status = await inBox(
      session,
      root,
      chroot,
      [...SHELL, ...commandLine],
      tty,
      (it, kill) => (tty ? attachTerminal : attach)(it, kill).detach,
    );
    log.finish('shell');
    return status;
  });
}

/** `--chroot`: one argument goes through a shell, several are a command as it is. No stdin. */
export async function chroot(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  const [only] = line.args;
  if (only === undefined) {
    throw argumentError('You must specify a command to run with --chroot');
  }
  const argv = line.args.length === 1 ? [...SHELL, only] : line.args;
  return await withRoot(session, async (root, config) => {
    log.info(`Running in chroot: ${JSON.stringify(line.args)}`);
    log.start('chroot');
    const status = await inBox(session, root, config, argv, false, (command, kill) => {
      command.stdin.end();
      command.stdout.pipe(process.stdout, { end: false });
      command.stderr.pipe(process.stderr, { end: false });
      signal.addEventListener('abort', kill, { once: true });
      return () => signal.removeEventListener('abort', kill);
    });
    signal.throwIfAborted();
    if (status !== 0) log.error(`Command failed: \n # ${line.args.join(' ')}`);
    log.finish('chroot');
    return status;
  });
}

/** Runs a command to its end and gives its status; `connect` returns what ends the connection. */
async function inBox(
  { line }: MockSession,
  root: MockRoot,
  chroot: Chroot,
  argv: readonly string[],
  tty: boolean,
  connect: (command: SandboxProcess, kill: () => void) => () => void,
): Promise<number> {
  const { TERM } = process.env;
  await root.note({ pristine: false });
  await using box = await RootBox.open(root, {
    network: chroot.network || line.has('enable-network'),
    hostname: chroot.hostname,
    command: ['kiln-mock', ...argv.slice(-3)],
  });
  const { rows = 24, columns = 80 } = process.stdout;
  const command = await box.start(
    argv,
    {
      user: line.has('unpriv') ? chroot.user : undefined,
      workdir: line.value('cwd'),
      env: { PS1: '<mock-chroot> \\s-\\v\\$ ', ...(tty && TERM ? { TERM } : {}) },
    },
    tty ? { terminal: { rows, columns } } : {},
  );
  using disk = new DiskWatch(root.directory);
  box.killedBy(disk);
  const disconnect = connect(command.process, () => void command.kill().catch(() => undefined));
  try {
    return commandStatus(await command.ended());
  } finally {
    disconnect();
    // The watch kills the whole box: what that did to the command is not the reason.
    disk.signal.throwIfAborted();
  }
}
