import { KILN_VERSION } from '../../host/state/paths.ts';
import { buildsBesideRoot } from '../../jobs/mock/build-request.ts';
import { mockStatus, usageError } from '../../jobs/mock/outcome.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { type CommandLine, parseCommandLine } from './command-line.ts';
import type { MockCommand } from './commands.ts';
import { MockLog, type Verbosity } from './log.ts';
import { MODES, type Mode, type ModeRow } from './modes.ts';
import { helpText, OPTIONS, type OptionEntry } from './option-table.ts';
import { rootLine } from './root-line.ts';
import { userLine } from './user-line.ts';

type Run = (session: MockCommand) => Promise<number>;

const RUNS: Readonly<Record<Mode, () => Promise<Run>>> = {
  rebuild: async () => (await import('../../jobs/mock/build.ts')).rebuild,
  buildsrpm: async () => (await import('../../jobs/mock/build.ts')).buildsrpm,
  chain: async () => (await import('../../jobs/mock/chain.ts')).chain,
  'calculate-build-dependencies': async () =>
    (await import('../../jobs/mock/build.ts')).calculateDependencies,
  'hermetic-build': async () => (await import('../../jobs/mock/hermetic.ts')).hermeticBuild,
  init: async () => (await import('../../jobs/mock/roots.ts')).init,
  clean: async () => (await import('../../jobs/mock/roots.ts')).clean,
  orphanskill: async () => (await import('../../jobs/mock/roots.ts')).orphanskill,
  'scrub-all-chroots': async () => (await import('../../jobs/mock/roots.ts')).scrubAll,
  'pm-cmd': async () => (await import('../../jobs/mock/packages.ts')).packageManager,
  shell: async () => (await import('./commands.ts')).shell,
  chroot: async () => (await import('./commands.ts')).chroot,
  install: async () => (await import('../../jobs/mock/packages.ts')).install,
  installdeps: async () => (await import('../../jobs/mock/packages.ts')).installdeps,
  remove: async () => (await import('../../jobs/mock/packages.ts')).remove,
  update: async () => (await import('../../jobs/mock/packages.ts')).update,
  snapshot: async () => (await import('../../jobs/mock/roots.ts')).snapshot,
  'rollback-to': async () => (await import('../../jobs/mock/roots.ts')).rollbackTo,
  'remove-snapshot': async () => (await import('../../jobs/mock/roots.ts')).dropSnapshot,
  'list-snapshots': async () => (await import('../../jobs/mock/roots.ts')).listSnapshots,
  copyin: async () => (await import('../../jobs/mock/enter.ts')).copyin,
  copyout: async () => (await import('../../jobs/mock/enter.ts')).copyout,
  'list-chroots': async () => (await import('../../jobs/mock/roots.ts')).listChroots,
  'debug-config': async () => (await import('../../jobs/mock/roots.ts')).debugConfig,
  'debug-config-expanded': async () => (await import('../../jobs/mock/roots.ts')).debugConfig,
};

export async function main(argv: readonly string[], caller: Caller): Promise<void> {
  let log = new MockLog('normal', caller.stderr);
  try {
    const asked = parseCommandLine(argv);
    if (asked.has('help')) {
      caller.stdout.say(helpText());
      return;
    }
    if (asked.has('version')) {
      caller.stdout.say(`kiln-mock ${KILN_VERSION}\n`);
      return;
    }
    refuseRootInMachine(asked, MODES[asked.mode]);
    const line = await (caller.user === undefined
      ? rootLine(asked, caller.paths)
      : userLine(asked, caller.user));
    log = new MockLog(verbosity(line), caller.stderr);
    caller.exitStatus = await run(line, log, caller);
  } catch (error) {
    caller.exitStatus = mockStatus(error);
    log.failure(error, caller.exitStatus);
  } finally {
    log[Symbol.dispose]();
  }
}

async function run(line: CommandLine, log: MockLog, caller: Caller): Promise<number> {
  const act = await RUNS[line.mode]();
  const { silent = false, changes } = MODES[line.mode];
  await using engine = caller.openEngine({ anybody: silent, allowHost: line.has('allow-host') });
  using interruption = listenForInterruption(caller);
  const { signal } = interruption;
  const print = (text: string) => caller.stdout.say(text);
  const session = { caller, engine, line, log, signal, print };
  if (silent) return await act(session);
  log.info(`kiln-mock version ${KILN_VERSION} starting...`);
  for (const { name, value } of line.given) {
    const { noEffect, only } = OPTIONS.get(name) ?? {};
    const why = only === undefined || only.value === value ? noEffect : only.otherwise;
    if (why !== undefined) log.info(`--${name} changes nothing: ${why}`);
  }
  const status = await log.state('run', () => act(session));
  for (const name of unheeded(line)) {
    // The folder of configurations is root's word, not the user's.
    if (caller.user !== undefined && name === 'configdir') continue;
    log.info(`--${name} changes nothing with --${line.mode}`);
  }
  if (changes) caller.storeChanged();
  return status;
}

/** Options that say how a root stays, or goes on. */
const OF_KEPT_ROOTS = ['no-clean', 'short-circuit', 'postinstall'] as const;

/** virtiofsd makes no set-id files on the host, which packages have. @throws KilnError E_MOCK_USAGE */
function refuseRootInMachine(line: CommandLine, { results }: ModeRow): void {
  if (!buildsBesideRoot(line)) return;
  const named = results === undefined ? line.mode : OF_KEPT_ROOTS.find((name) => line.has(name));
  if (named === undefined) return;
  throw usageError(
    `--isolation=vm with --${named}: a machine cannot have a root that stays`,
    'builds in machines have fresh roots; leave out --isolation=vm',
  );
}

function unheeded({ given, heeded }: CommandLine): Set<string> {
  const hasMessage = ({ mode, noEffect, only }: Partial<OptionEntry>) =>
    (mode ?? noEffect ?? only) !== undefined;
  const names = given.map(({ name }) => name).filter((name) => !heeded.has(name));
  return new Set(names.filter((name) => !hasMessage(OPTIONS.get(name) ?? {})));
}

function verbosity(line: CommandLine): Verbosity {
  const said = line.of('verbose', 'quiet').at(-1)?.name;
  return said === undefined ? 'normal' : said === 'verbose' ? 'verbose' : 'quiet';
}
