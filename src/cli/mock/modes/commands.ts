import { DiskWatch } from '../../../host/state/disk-watch.ts';
import type { Chroot } from '../../../jobs/mock/chroot.ts';
import type { MockRoot } from '../../../jobs/mock/root/root.ts';
import { RootSandbox } from '../../../jobs/mock/root/root-sandbox.ts';
import type { SandboxProcess } from '../../../sandbox/command/process.ts';
import type { HandOver } from '../../../sandbox/command/streams.ts';
import { type Attachment, connectCommand } from '../../attach.ts';
import { hasTerminal } from '../../caller/caller.ts';
import { argumentError, commandStatus } from '../exit-status.ts';
import { type MockSession, withRoot } from '../session.ts';

/** Runs a command line in the image's best shell, or an interactive shell without one. */
const SHELL = [
  '/bin/sh',
  '-c',
  'shell=sh; command -v bash >/dev/null 2>&1 && shell=bash; if [ $# -gt 0 ]; then exec $shell -lc "$1"; fi; exec $shell -l',
  'sh',
];

/** `--shell`: a shell, or a command line for one; the arguments are joined. */
export async function shell(session: MockSession): Promise<number> {
  const { line, log } = session;
  const commandLine = line.args.length === 0 ? [] : [line.args.join(' ')];
  const tty = hasTerminal(session.caller);
  return await withRoot(session, async (root, chroot) => {
    log.start('shell');
    const status = await inSandbox(
      session,
      root,
      chroot,
      [...SHELL, ...commandLine],
      tty,
      (it, kill) => connectCommand(it, kill, session.caller, tty),
      session.caller.handOver,
    );
    log.finish('shell');
    return status;
  });
}

/** `--chroot`: a single argument goes through a shell, several are one command. No stdin. */
export async function chroot(session: MockSession): Promise<number> {
  const { line, log, signal, caller } = session;
  const [only] = line.args;
  if (only === undefined) {
    throw argumentError('You must specify a command to run with --chroot');
  }
  const argv = line.args.length === 1 ? [...SHELL, only] : line.args;
  return await withRoot(session, async (root, config) => {
    log.info(`Running in chroot: ${JSON.stringify(line.args)}`);
    log.start('chroot');
    const status = await inSandbox(session, root, config, argv, false, (command, kill) => {
      command.stdin.end();
      command.stdout.pipe(caller.stdout.stream, { end: false });
      command.stderr.pipe(caller.stderr.stream, { end: false });
      signal.addEventListener('abort', kill, { once: true });
      return { detach: () => signal.removeEventListener('abort', kill) };
    });
    signal.throwIfAborted();
    if (status !== 0) log.error(`Command failed: \n # ${line.args.join(' ')}`);
    log.finish('chroot');
    return status;
  });
}

/** Runs a command to its end and returns its status; `connect` attaches the caller to it. */
async function inSandbox(
  { line, caller }: MockSession,
  root: MockRoot,
  chroot: Chroot,
  argv: readonly string[],
  tty: boolean,
  connect: (command: SandboxProcess, kill: () => void) => Attachment,
  handOver?: HandOver,
): Promise<number> {
  const { TERM } = caller.env;
  await root.note({ pristine: false });
  await using sandbox = await RootSandbox.open(root, {
    network: chroot.network || line.has('enable-network'),
    hostname: chroot.hostname,
    binds: chroot.binds,
    command: [...argv.slice(-3)],
  });
  const command = await sandbox.start(
    argv,
    {
      user: line.has('unpriv') ? chroot.user : undefined,
      workdir: line.value('cwd'),
      env: { PS1: '<mock-chroot> \\s-\\v\\$ ', ...(tty && TERM ? { TERM } : {}) },
    },
    {
      ...(tty ? { terminal: caller.windowSize } : {}),
      handOver,
    },
  );
  using disk = new DiskWatch(root.directory);
  disk.kills(sandbox.sandbox.initPid);
  const attachment = connect(command.process, () => void command.kill().catch(() => undefined));
  try {
    return commandStatus(await command.ended());
  } finally {
    attachment.detach();
    // The watch kills the whole sandbox, so the disk is the reason, not the command's end.
    disk.signal.throwIfAborted();
  }
}
