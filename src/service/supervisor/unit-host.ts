import { isKilnCode, KilnError } from '../../errors.ts';
import type { Capability } from '../../host/process/process.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { SandboxControl } from '../../sandbox/command/control.ts';
import { endOf, type ProcessEnd } from '../../sandbox/command/process.ts';
import { DEFAULT_PATH } from '../../sandbox/command/start-command.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { PolicyRequest } from '../../sandbox/policy/policy.ts';
import { ROOT_CAPABILITIES } from '../../sandbox/policy/specification.ts';
import type { Tree } from '../lifecycle/tree.ts';
import { LineSplitter, type LogFile } from '../log-file.ts';
import type { UnitState, UnitStatus } from '../status.ts';
import type { ServiceUnit } from '../unit/read-unit.ts';
import { commandArguments, type ExecCommand, parseEnvironmentFile } from '../unit/values.ts';

export interface UnitHost {
  readonly sandbox: PlannedSandbox;
  readonly control: SandboxControl;
  readonly tree: Tree;
  readonly log: LogFile;
  readonly environment: Readonly<Record<string, string>>;
  readonly capabilities: readonly Capability[];
  readonly seccomp: string;
}

export const ROOT_POLICY: PolicyRequest = {
  user: '0:0',
  capabilities: ROOT_CAPABILITIES,
  seccomp: 'default',
};

export const ENDED_WELL: ProcessEnd = { exitCode: 0, signal: null };

/** Never more than the service's. */
function unitPolicy(host: UnitHost, unit: ServiceUnit, privileged: boolean): PolicyRequest {
  const { seccomp } = host;
  if (privileged) return { user: '0:0', capabilities: rootCapabilities(host), seccomp };
  const { user: name = '0', group, boundingSet, ambient } = unit;
  const user = group === undefined ? name : `${name}:${group}`;
  const root = isRoot(user);
  const capabilities = rootCapabilities(host).filter(
    (one) =>
      (boundingSet === undefined || boundingSet.names.includes(one) !== boundingSet.inverted) &&
      (root || ambient.includes(one)),
  );
  return { user, capabilities, seccomp };
}

export function isRoot(spec: string): boolean {
  return /^(?:root|0)(?::|$)/.test(spec);
}

export function rootCapabilities(host: UnitHost): Capability[] {
  return [...new Set([...ROOT_CAPABILITIES, ...host.capabilities])];
}

export interface RunningUnit {
  readonly name: string;
  readonly state: UnitState;
  status(): UnitStatus;
  start(): Promise<void>;
  stop(): Promise<void>;
  reload(): Promise<void>;
}

export interface UnitManager {
  readonly units: readonly RunningUnit[];
  /** True if nothing runs and nothing will start by itself. */
  readonly idle: boolean;
  readonly failure: string | undefined;
  /** Resolves when the sandbox must be made anew, because its content has ended. */
  readonly lost: Promise<void>;
  start(): Promise<void>;
  stop(): Promise<void>;
  restart(): Promise<void>;
  refresh(): Promise<void>;
  notified(pid: number, text: string): void;
}

export async function within<Result>(work: Promise<Result>, milliseconds: number): Promise<Result> {
  if (milliseconds === Number.POSITIVE_INFINITY) return await work;
  const over = deferred<never>();
  using _timer = setTimeout(() => over.reject(timeoutError(milliseconds)), milliseconds);
  return await Promise.race([work, over.promise]);
}

export function timeoutError(milliseconds: number): KilnError {
  return new KilnError('E_UNIT_TIMEOUT', `out of time after ${milliseconds / 1000} s`, {
    hint: 'TimeoutStartSec= and TimeoutStopSec= of the unit allow more',
  });
}

export const NOTIFY_SOCKET = '/run/kiln/notify';

const DEFAULTS = { PATH: DEFAULT_PATH, LANG: 'C.UTF-8' };

export type RunningCommand = Readonly<Awaited<ReturnType<typeof startCommand>>>;

export async function startCommand(
  host: UnitHost,
  unit: ServiceUnit,
  command: ExecCommand,
  variables: Readonly<Record<string, string>>,
) {
  const env = await unitEnvironment(host, unit, variables);
  const { process: started } = await host.sandbox.start({
    argv: commandArguments(command, env),
    policy: unitPolicy(host, unit, command.privileged),
    env,
    workdir: workdir(host, unit),
    limits: unit.limits,
    umask: unit.umask,
    // The unit has its own time limits, and owns the processes that the command leaves running.
    time: {},
    leftovers: 'left',
  });
  const end: Promise<ProcessEnd> = awaitedLater(endOf(started));
  started.stdin.end();
  const source = `${unit.name.replace(/\.service$/, '')}[${started.pid}]`;
  for (const stream of [started.stdout, started.stderr]) {
    const lines = new LineSplitter((line) => {
      if (!unit.discardOutput) host.log.write(source, line);
    });
    stream.on('data', (chunk: Buffer) => lines.push(chunk));
    stream.once('close', () => lines.end());
  }
  return { pid: started.pid, end, process: started };
}

/** With a `-` before it, no failure counts, not even a missing program. */
export async function runCommand(
  host: UnitHost,
  unit: ServiceUnit,
  command: ExecCommand,
  variables: Readonly<Record<string, string>>,
  started: (running: RunningCommand) => void,
): Promise<ProcessEnd> {
  try {
    const running = await startCommand(host, unit, command, variables);
    started(running);
    const end = await running.end;
    return command.ignoreFailure ? ENDED_WELL : end;
  } catch (error) {
    if (!command.ignoreFailure || !isKilnCode(error, 'E_COMMAND_NOT_FOUND')) throw error;
    return ENDED_WELL;
  }
}

async function unitEnvironment(
  host: UnitHost,
  unit: ServiceUnit,
  variables: Readonly<Record<string, string>>,
): Promise<Record<string, string>> {
  const environment: Record<string, string> = { ...host.environment, ...DEFAULTS };
  for (const [name, value] of unit.environment) environment[name] = value;
  for (const { path, optional } of unit.environmentFiles) {
    const text = await readInside(host, path);
    if (text === undefined && !optional) {
      throw new KilnError('E_UNIT', `${unit.name}: there is no environment file ${path}`, {
        hint: 'make it, or allow it to be missing: EnvironmentFile=-PATH',
      });
    }
    for (const [name, value] of parseEnvironmentFile(text ?? '')) environment[name] = value;
  }
  for (const { variable, path } of unit.directories) {
    const before = environment[variable];
    environment[variable] = before === undefined ? path : `${before}:${path}`;
  }
  if (unit.notifyAccess !== 'none') environment.NOTIFY_SOCKET = NOTIFY_SOCKET;
  if (unit.pidFile !== undefined) environment.PIDFILE = unit.pidFile;
  Object.assign(environment, variables);
  for (const name of unit.unsetEnvironment) delete environment[name.split('=')[0] ?? ''];
  return environment;
}

/** More is no file of variables, nor one of a pid. Bytes. */
const TEXT_MAX = 256 * 1024;

/** A file, which the machine reads where the tree lacks it; undefined for none. @throws KilnError E_UNIT, E_MACHINE */
export async function readInside(
  { sandbox, tree }: UnitHost,
  path: string,
): Promise<string | undefined> {
  if (!tree.lacks(path)) return tree.readText(path);
  const read = await sandbox.tree.read({ path, offset: 0 }).catch((error: unknown) => {
    if (isKilnCode(error, 'E_PATH')) return undefined;
    throw error;
  });
  if (read !== undefined && read.size > TEXT_MAX) {
    throw new KilnError('E_UNIT', `${path} is longer than 256 KiB`, {
      hint: 'name a file of variables, a line each',
    });
  }
  return read && Buffer.from(read.data, 'base64').toString('utf8');
}

export function unseenError(path: string): KilnError {
  const what = `its condition on ${path} cannot be looked at: it is in the machine alone`;
  return new KilnError('E_MACHINE', what, {
    hint: 'name a file below /etc, /usr or /var that nothing is mounted above, or leave out --isolation vm',
  });
}

function workdir(host: UnitHost, unit: ServiceUnit): string {
  if (unit.workingDirectory === undefined) return '/';
  const { path, optional } = unit.workingDirectory;
  // What is mounted there is taken to be a folder.
  const isThere = host.tree.lacks(path) || host.tree.stat(path)?.isDirectory() === true;
  return optional && !isThere ? '/' : path;
}
