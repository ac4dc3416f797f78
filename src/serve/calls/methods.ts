import { INTERFACE_VERSION } from '../../api/io-kiln.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { forbiddenError } from '../../users/configuration.ts';
import type { Answer, Name } from './context.ts';

const ROOTS_CHECK = 'state-files';

interface Entry<Method extends Name> {
  /**
   * The command whose rules hold for users (src/cli/users/user-rules.ts); no word where the caller owns the sandbox or
   * the command; undefined where the method is root's.
   */
  readonly rules: string | undefined;
  /** The command that does the same, where `rules` does not name it. */
  readonly does?: string | undefined;
  readonly load: () => Promise<Answer<Method>>;
}

type Table = { readonly [Method in Exclude<Name, 'CommandLine'>]: Entry<Method> };

const entry = <Method extends Name>(
  rules: string | undefined,
  load: Entry<Method>['load'],
  does?: string,
) => ({ rules, load, does });

const services = () => import('./service.ts');

const service = <Method extends Name>(word: string, load: Entry<Method>['load']) =>
  entry(undefined, load, `service ${word}`);

export const methods: Table = {
  GetVersion: entry('', async () => async () => ({
    kiln: KILN_VERSION,
    interface: INTERFACE_VERSION,
  })),
  Run: entry('run', async () => (await import('./run.ts')).answerRun),
  OpenSandbox: entry('shell', async () => (await import('./sandbox.ts')).answerOpen, 'open'),
  Execute: entry('', async () => (await import('./sandbox.ts')).answerExecute, 'exec'),
  SendInput: entry('', async () => (await import('./sandbox.ts')).answerInput),
  SendSignal: entry('', async () => (await import('./sandbox.ts')).answerSignal),
  ResizeTerminal: entry('', async () => (await import('./sandbox.ts')).answerResize),
  WriteFile: entry('', async () => (await import('./sandbox.ts')).answerWrite),
  ReadFile: entry('', async () => (await import('./sandbox.ts')).answerRead),
  CloseSandbox: entry('', async () => (await import('./sandbox.ts')).answerClose),
  Build: entry('build', async () => (await import('./build.ts')).answerBuild),
  BuildImage: entry('image build', async () => (await import('./image.ts')).answerBuildImage),
  LockImage: entry('image lock', async () => (await import('./image.ts')).answerLockImage),
  ListImages: entry('image ls', async () => (await import('./image.ts')).answerListImages),
  RemoveImage: entry('image rm', async () => (await import('./image.ts')).answerRemoveImage),
  ListSandboxes: entry('ps', async () => (await import('./sandbox.ts')).answerListSandboxes),
  KillSandbox: entry('kill', async () => (await import('./sandbox.ts')).answerKillSandbox),
  Snapshot: entry('snapshot', async () => (await import('./snapshot.ts')).answerSnapshot),
  Fork: entry('fork', async () => (await import('./snapshot.ts')).answerFork),
  Rollback: entry('rollback', async () => (await import('./snapshot.ts')).answerRollback),
  ListSnapshots: entry(
    'snapshot ls',
    async () => (await import('./snapshot.ts')).answerListSnapshots,
  ),
  RemoveSnapshot: entry(
    'snapshot rm',
    async () => (await import('./snapshot.ts')).answerRemoveSnapshot,
  ),
  CommitImage: entry('image commit', async () => (await import('./snapshot.ts')).answerCommitImage),
  Diff: entry('diff', async () => (await import('./changes.ts')).answerDiff),
  Apply: entry('apply', async () => (await import('./changes.ts')).answerApply),
  Discard: entry('discard', async () => (await import('./changes.ts')).answerDiscard),
  ListServices: entry(undefined, async () => (await import('./service.ts')).answerListServices),
  CreateService: service('create', async () => (await services()).answerCreateService),
  RestartService: service('restart', async () => (await services()).answerRestartService),
  StartService: service('start', async () => (await services()).answerStartService),
  StopService: service('stop', async () => (await services()).answerStopService),
  DeleteService: service('delete', async () => (await services()).answerDeleteService),
  Events: entry('events', async () => (await import('./events.ts')).answerEvents),
  Doctor: entry('doctor', async () => {
    const { checkNames, runChecks } = await import('../../doctor/checks.ts');
    const { readHost } = await import('../../doctor/host.ts');
    return async ({ names = [] }, context) => {
      const { env, user } = context.caller;
      if (user !== undefined && names.includes(ROOTS_CHECK)) {
        throw forbiddenError(ROOTS_CHECK, 'it names files of everybody’s');
      }
      await using engine = context.openEngine();
      const { paths, owner } = engine;
      const host = await readHost(env);
      const open = checkNames().filter((name) => name !== ROOTS_CHECK);
      const wanted = user !== undefined && names.length === 0 ? open : names;
      return { checks: await runChecks({ paths, owner, env, host }, wanted) };
    };
  }),
};
