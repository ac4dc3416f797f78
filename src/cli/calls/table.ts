/** The method table: which module answers, and where. Modules are loaded when they are needed. */
import { INTERFACE_VERSION } from '../../api/io-kiln.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import type { Answer, Name } from './context.ts';

interface Entry<Method extends Name> {
  /** True if it is short enough for the daemon's own thread; it may still ask for a worker (RunElsewhere). */
  readonly isShort: boolean;
  readonly load: () => Promise<Answer<Method>>;
}

type Table = { readonly [Method in Exclude<Name, 'CommandLine'>]: Entry<Method> };

const short = <Method extends Name>(load: () => Promise<Answer<Method>>) => ({
  isShort: true,
  load,
});
const long = <Method extends Name>(load: () => Promise<Answer<Method>>) => ({
  isShort: false,
  load,
});

export const methods: Table = {
  GetVersion: short(async () => async () => ({ kiln: KILN_VERSION, interface: INTERFACE_VERSION })),
  Run: short(async () => (await import('./run.ts')).answerRun),
  OpenSandbox: short(async () => (await import('./sandbox.ts')).answerOpen),
  Execute: short(async () => (await import('./sandbox.ts')).answerExecute),
  SendInput: short(async () => (await import('./sandbox.ts')).answerInput),
  SendSignal: short(async () => (await import('./sandbox.ts')).answerSignal),
  ResizeTerminal: short(async () => (await import('./sandbox.ts')).answerResize),
  WriteFile: short(async () => (await import('./sandbox.ts')).answerWrite),
  ReadFile: short(async () => (await import('./sandbox.ts')).answerRead),
  CloseSandbox: short(async () => (await import('./sandbox.ts')).answerClose),
  Build: long(async () => (await import('./build.ts')).answerBuild),
  BuildImage: long(async () => (await import('./image.ts')).answerBuildImage),
  LockImage: long(async () => (await import('./image.ts')).answerLockImage),
  ListImages: long(async () => (await import('./image.ts')).answerListImages),
  RemoveImage: long(async () => (await import('./image.ts')).answerRemoveImage),
  ListSandboxes: short(async () => (await import('./sandboxes.ts')).answerListSandboxes),
  KillSandbox: short(async () => (await import('./sandboxes.ts')).answerKillSandbox),
  ListServices: long(async () => (await import('./service.ts')).answerListServices),
  CreateService: long(async () => (await import('./service.ts')).answerCreateService),
  RestartService: long(async () => (await import('./service.ts')).answerRestartService),
  StartService: long(async () => (await import('./service.ts')).answerStartService),
  StopService: long(async () => (await import('./service.ts')).answerStopService),
  DeleteService: long(async () => (await import('./service.ts')).answerDeleteService),
  Doctor: long(async () => (await import('./doctor.ts')).answerDoctor),
};
