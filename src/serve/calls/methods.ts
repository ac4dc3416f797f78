import { INTERFACE_VERSION } from '../../api/interface.ts';
import type { Methods } from '../../api/io-kiln.ts';
import type { Caller } from '../../cli/caller/caller.ts';
import type { Call } from '../../daemon/call.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { describeProgress, type OnImageProgress, progressCounts } from '../../image/progress.ts';
import { forbidden } from '../../users/configuration.ts';
import type { ANSWERED } from '../short.ts';
import type { OpenSandboxes } from './open-sandboxes.ts';

const ROOTS_CHECK = 'state-files';

export interface DaemonState {
  readonly sandboxes: OpenSandboxes;
  readonly calls: Map<string, Call>;
  makeImage(call: Call, image: string): Promise<void>;
  /** Has a worker answer a call that is not short. */
  work(call: Call): Promise<typeof ANSWERED>;
  /** When nothing else starts. */
  removeLater(remove: () => Promise<void>): void;
  /** Resolves when that is done, or takes long. */
  removed(): Promise<void>;
}

export interface CallContext {
  readonly call: Call;
  /** The caller, without a command line: paths are absolute. */
  readonly caller: OptionCaller;
  readonly daemon: DaemonState | undefined;
  /** The caller's share is used until then, after the call if need be. */
  hold(until: Promise<void>): void;
  openEngine(options?: Pick<EngineOptions, 'allowHost'>): OwnEngine;
  readonly storeChanged: () => void;
  readonly warn: (text: string) => void;
  readonly onProgress: OnImageProgress;
}

export type OptionCaller = Pick<
  Caller,
  'env' | 'cwd' | 'variable' | 'ids' | 'environment' | 'user' | 'paths' | 'takeRoom'
>;

export type Name = keyof Methods;

export type Answer<Method extends Name> = (
  parameters: Methods[Method]['parameters'],
  context: CallContext,
) => Promise<Methods[Method]['reply'] | typeof ANSWERED>;

export function progressTo(call: Call): OnImageProgress {
  let last = '';
  return (progress) => {
    const what = describeProgress(progress);
    const counts = progressCounts(progress);
    // A download reports every piece.
    const news = `${what} ${counts.done === undefined || !counts.total ? '' : Math.floor((100 * counts.done) / counts.total)}`;
    if (news === last) return;
    last = news;
    call.reply({ progress: { what, ...counts } });
  };
}

interface Entry<Method extends Name> {
  /**
   * The command whose rules hold for users (src/cli/users/user-rules.ts); no word where the caller owns the sandbox or
   * the command; undefined where the method is root's.
   */
  readonly rules: string | undefined;
  readonly load: () => Promise<Answer<Method>>;
}

type Table = { readonly [Method in Exclude<Name, 'CommandLine'>]: Entry<Method> };

const entry = <Method extends Name>(rules: string | undefined, load: Entry<Method>['load']) => ({
  ...{ rules, load },
});

export const methods: Table = {
  GetVersion: entry('', async () => async () => ({
    kiln: KILN_VERSION,
    interface: INTERFACE_VERSION,
  })),
  Run: entry('run', async () => (await import('./run.ts')).answerRun),
  OpenSandbox: entry('shell', async () => (await import('./sandbox.ts')).answerOpen),
  Execute: entry('', async () => (await import('./sandbox.ts')).answerExecute),
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
  ListServices: entry(undefined, async () => (await import('./service.ts')).answerListServices),
  CreateService: entry(undefined, async () => (await import('./service.ts')).answerCreateService),
  RestartService: entry(undefined, async () => (await import('./service.ts')).answerRestartService),
  StartService: entry(undefined, async () => (await import('./service.ts')).answerStartService),
  StopService: entry(undefined, async () => (await import('./service.ts')).answerStopService),
  DeleteService: entry(undefined, async () => (await import('./service.ts')).answerDeleteService),
  Doctor: entry('doctor', async () => {
    const { checkNames, runChecks } = await import('../../doctor/checks.ts');
    const { readHost } = await import('../../doctor/host.ts');
    return async ({ names = [] }, context) => {
      const { env, user } = context.caller;
      if (user !== undefined && names.includes(ROOTS_CHECK)) {
        throw forbidden(ROOTS_CHECK, 'it names files of everybody’s');
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
