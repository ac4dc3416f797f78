import { KilnError } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import { isKilnCode } from '../failure.ts';
import { LineSplitter } from '../log-file.ts';
import { commandArguments, type ExecCommand, parseEnvironmentFile } from '../unit/exec-line.ts';
import type { ServiceUnit } from '../unit/service-unit.ts';
import { clampedLimits, endOf, type ProcessEnd, type UnitHost, unitPolicy } from './unit-host.ts';

/** The path of the socket of sd_notify(3) in the sandbox. */
export const NOTIFY_SOCKET = '/run/kiln/notify';

/** systemd's own search path (systemd.exec(5), ExecSearchPath=). */
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A command of a unit that runs. */
export interface RunningCommand {
  /** The pid in the sandbox; the command leads the session of this number. */
  readonly pid: number;
  readonly end: Promise<ProcessEnd>;
  readonly process: SandboxProcess;
}

/**
 * Starts a command of a unit with its output going to the log. Throws what starting a command throws, and
 * E_UNIT if an environment file is missing.
 */
export async function startCommand(
  host: UnitHost,
  unit: ServiceUnit,
  command: ExecCommand,
  variables: Readonly<Record<string, string>>,
): Promise<RunningCommand> {
  const env = unitEnvironment(host, unit, variables);
  const { process: started } = await host.sandbox.start({
    argv: commandArguments(command, env),
    policy: unitPolicy(host, unit, command.privileged),
    env,
    workdir: workdir(host, unit),
    limits: clampedLimits(host, unit),
    umask: unit.umask,
    // The unit has its own time limits, and owns the processes that the command leaves running.
    time: {},
    leftovers: 'left',
  });
  const end = awaitedLater(endOf(started));
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

/** Runs a command to its end. With a `-` before it, no failure counts, not even a missing program. */
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
    return command.ignoreFailure ? { exitCode: 0, signal: null } : end;
  } catch (error) {
    if (!command.ignoreFailure || !isKilnCode(error, 'E_COMMAND_NOT_FOUND')) throw error;
    return { exitCode: 0, signal: null };
  }
}

/** The environment of a unit's commands (systemd.exec(5), "Environment variables in spawned processes"). */
function unitEnvironment(
  host: UnitHost,
  unit: ServiceUnit,
  variables: Readonly<Record<string, string>>,
): Record<string, string> {
  const environment: Record<string, string> = { ...host.environment, PATH, LANG: 'C.UTF-8' };
  for (const [name, value] of unit.environment) environment[name] = value;
  for (const { path, optional } of unit.environmentFiles) {
    const text = host.tree.readText(path);
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

function workdir(host: UnitHost, unit: ServiceUnit): string {
  if (unit.workingDirectory === undefined) return '/';
  const { path, optional } = unit.workingDirectory;
  return optional && host.tree.stat(path)?.isDirectory() !== true ? '/' : path;
}
