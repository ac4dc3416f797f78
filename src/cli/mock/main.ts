import { KILN_VERSION } from '../../host/state/paths.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import { type CommandLine, parseCommandLine } from './command-line.ts';
import { mockStatus } from './exit-status.ts';
import { helpText } from './help.ts';
import { MockLog, type Verbosity } from './log.ts';
import { type Mode, OPTIONS } from './option-table.ts';
import type { MockSession } from './session.ts';
import { userLine } from './user-line.ts';

type Run = (session: MockSession) => Promise<number>;

/** The module of each mode, loaded when it is called. */
const RUNS: Readonly<Record<Mode, () => Promise<Run>>> = {
  rebuild: async () => (await import('./modes/build.ts')).rebuild,
  buildsrpm: async () => (await import('./modes/build.ts')).buildsrpm,
  chain: async () => (await import('./modes/chain.ts')).chain,
  'calculate-build-dependencies': async () =>
    (await import('./modes/build.ts')).calculateDependencies,
  init: async () => (await import('./modes/roots.ts')).init,
  clean: async () => (await import('./modes/roots.ts')).clean,
  orphanskill: async () => (await import('./modes/roots.ts')).orphanskill,
  'scrub-all-chroots': async () => (await import('./modes/roots.ts')).scrubAll,
  'pm-cmd': async () => (await import('./modes/packages.ts')).packageManager,
  shell: async () => (await import('./modes/commands.ts')).shell,
  chroot: async () => (await import('./modes/commands.ts')).chroot,
  install: async () => (await import('./modes/packages.ts')).install,
  installdeps: async () => (await import('./modes/install-deps.ts')).installdeps,
  remove: async () => (await import('./modes/packages.ts')).remove,
  update: async () => (await import('./modes/packages.ts')).update,
  copyin: async () => (await import('./modes/copy.ts')).copyin,
  copyout: async () => (await import('./modes/copy.ts')).copyout,
  'list-chroots': async () => (await import('./modes/information.ts')).listChroots,
  'debug-config': async () => {
    const { debugConfig } = await import('./modes/information.ts');
    return (session) => debugConfig(session, false);
  },
  'debug-config-expanded': async () => {
    const { debugConfig } = await import('./modes/information.ts');
    return (session) => debugConfig(session, true);
  },
};

/** Modes whose output is for programs: nothing else is printed. */
const SILENT: ReadonlySet<Mode> = new Set([
  'list-chroots',
  'debug-config',
  'debug-config-expanded',
]);

/** Modes that change a root. */
const CHANGING: ReadonlySet<Mode> = new Set([
  'init',
  'shell',
  'chroot',
  'install',
  'installdeps',
  'remove',
  'update',
  'pm-cmd',
  'copyin',
  'rebuild',
]);

/** `kiln-mock`: runs one command line of mock's and sets mock's exit status. */
export async function main(argv: readonly string[], caller: Caller): Promise<void> {
  let log = new MockLog('normal', caller.stderr);
  try {
    const asked = parseCommandLine(argv);
    const line = caller.user === undefined ? asked : await userLine(asked, caller.user);
    if (line.has('help')) {
      caller.stdout.say(helpText());
      return;
    }
    if (line.has('version')) {
      caller.stdout.say(`kiln-mock ${KILN_VERSION}\n`);
      return;
    }
    log = new MockLog(verbosity(line), caller.stderr);
    caller.exitStatus = await run(line, log, caller);
  } catch (error) {
    log.failure(error);
    caller.exitStatus = mockStatus(error);
  }
}

async function run(line: CommandLine, log: MockLog, caller: Caller): Promise<number> {
  const act = await RUNS[line.mode]();
  await using engine = caller.openEngine({ anybody: SILENT.has(line.mode) });
  using interruption = listenForInterruption(caller);
  const session: MockSession = { caller, engine, line, log, signal: interruption.signal };
  if (SILENT.has(line.mode)) return await act(session);
  log.info(`kiln-mock version ${KILN_VERSION} starting...`);
  for (const { name } of line.given) {
    const why = OPTIONS.get(name)?.noEffect;
    if (why !== undefined) log.info(`--${name} changes nothing: ${why}`);
  }
  const status = await log.state('run', () => act(session));
  for (const name of unheeded(line)) log.info(`--${name} changes nothing with --${line.mode}`);
  if (CHANGING.has(line.mode)) caller.storeChanged();
  return status;
}

/** Options that were given and not used, except those that have a message of their own. */
function unheeded({ given, heeded }: CommandLine): Set<string> {
  const names = given.map(({ name }) => name).filter((name) => !heeded.has(name));
  return new Set(
    names.filter((name) => {
      const { mode, noEffect } = OPTIONS.get(name) ?? {};
      return mode === undefined && noEffect === undefined;
    }),
  );
}

function verbosity(line: CommandLine): Verbosity {
  const said = line.of('verbose', 'quiet').at(-1);
  if (said === undefined) return 'normal';
  return said.name === 'verbose' ? 'verbose' : 'quiet';
}
