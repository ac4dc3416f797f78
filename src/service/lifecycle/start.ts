import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { patience, stoppedSince } from '../../host/process/wait-for.ts';
import { isKilnCode } from '../failure.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { readLog } from '../log-file.ts';
import { readOutcome, type ServiceStatus } from '../status.ts';
import { askSupervisor, supervisorOf } from '../supervisor/supervisor-client.ts';
import { isSupervised } from './stop.ts';

/** After a run of this length, seconds, the restart delay begins anew: this failure has another cause. */
const STEADY = 60;

/**
 * The guardian of a supervisor on a host without systemd: a shell that restarts it after a delay, which grows
 * by a second each time up to 30 s. It stops if the supervisor is done (0), or if a restart would not help (78,
 * EX_CONFIG of sysexits.h). After a run of `steady` seconds the delay begins at one second again. It is a shell
 * because it lives as long as the service and takes 1 MB. Its clock is /proc/uptime, which nobody can set.
 */
export function guardianScript(steady = STEADY): string {
  return `n=0
wanted=$1
shift
now() { read -r up rest </proc/uptime; echo "\${up%.*}"; }
while [ -e "$wanted" ]; do
  began=$(now)
  "$@" && exit 0
  status=$?
  [ "$status" = 78 ] && exit 78
  [ $(($(now) - began)) -lt ${steady} ] || n=0
  n=$((n < 30 ? n + 1 : n)); sleep "$n"
done`;
}

/** The pause between two attempts to reach a supervisor, ms. */
const PAUSE = 30;

/** The command that runs a service in the foreground. */
export type SupervisorCommand = readonly [string, ...string[]];

/**
 * Starts a service's supervisor in the background and waits until its units have been started.
 * Throws E_SERVICE_FAILED with the last lines of its log.
 */
export async function startInBackground(
  name: string,
  files: InstanceFiles,
  command: SupervisorCommand,
): Promise<ServiceStatus> {
  const since = Date.now();
  mkdirSync(files.logs, { recursive: true, mode: 0o700 });
  mkdirSync(files.run, { recursive: true, mode: 0o700 });
  writeFileSync(files.wanted, '');
  const output = openSync(join(files.logs, 'supervisor.log'), 'w', 0o600);
  const guardian = startProgram(
    '/bin/sh',
    ['-c', guardianScript(), `kiln-${name}`, files.wanted, ...command],
    {
      detached: true,
      cwd: '/',
      stdio: ['ignore', output, output],
    },
  );
  closeSync(output);
  let ended = false;
  const end = () => {
    ended = true;
  };
  once(guardian, 'exit').then(end, end);
  guardian.unref();
  try {
    return await waitUntilStarted(
      name,
      files,
      since,
      () => ended,
      () => existsSync(files.wanted),
    );
  } catch (error) {
    // The guardian may retry failed units. A supervisor that could not start is not retried.
    if (!(await isSupervised(files))) rmSync(files.wanted, { force: true });
    throw error;
  }
}

/**
 * Waits for a supervisor that another process starts. `givenUp` tells that nobody starts it any more; `wanted`
 * that nobody stopped the service. Throws E_SERVICE_FAILED, and E_SERVICE_STOPPED.
 */
export async function waitUntilStarted(
  name: string,
  files: InstanceFiles,
  since: number,
  givenUp: () => boolean,
  wanted: () => boolean = () => true,
): Promise<ServiceStatus> {
  // A lock holder that is not stopped is working. If nobody holds the lock, whoever should start the supervisor
  // hangs.
  const silent = stoppedSince(() => supervisorOf(files).pid);
  for (;;) {
    // Read before asking: if an ended supervisor answers, it is another one.
    const over = givenUp();
    const dropped = !wanted();
    const status = await askSupervisor<ServiceStatus>(
      files,
      { do: 'started' },
      Number.POSITIVE_INFINITY,
    ).catch((error: unknown) => {
      if (isKilnCode(error, 'E_SERVICE_STOPPED')) throw stopped(name);
      const hint = error instanceof KilnError ? error.hint : undefined;
      throw failed(name, files, error instanceof Error ? error.message : String(error), hint);
    });
    if (status !== undefined) return status;
    const outcome = await readOutcome(files);
    if (outcome !== undefined && outcome.time >= since) {
      if (outcome.state === 'stopped') throw stopped(name);
      if (outcome.state === 'failed') throw failed(name, files, outcome.reason, outcome.hint);
      throw failed(name, files, 'its units are done already');
    }
    // The supervisor may live on if only its guardian was killed.
    if ((over || dropped) && !(await isSupervised(files))) {
      throw dropped ? stopped(name) : failed(name, files, 'its supervisor has ended');
    }
    if (performance.now() - silent() > patience()) {
      throw failed(name, files, `${supervisorOf(files).name} does not come up`);
    }
    await sleep(PAUSE);
  }
}

function stopped(name: string): KilnError {
  return new KilnError('E_SERVICE_STOPPED', `${name} was stopped while it started`, {
    hint: `\`kiln service start ${name}\` starts it again`,
  });
}

function failed(name: string, files: InstanceFiles, reason: string, hint?: string): KilnError {
  // Lines of this start, not of the run before.
  const lines = readLog(files, 8);
  const began = lines.findLastIndex((line) => line.endsWith(`kiln: starting ${name}`));
  const tail = lines.slice(Math.max(0, began));
  const said = tail.length === 0 ? '' : `\n${tail.map((line) => `  | ${line}`).join('\n')}`;
  return new KilnError('E_SERVICE_FAILED', `${name} did not start: ${reason}${said}`, {
    hint: hint ?? `\`kiln service logs ${name}\` shows more`,
  });
}
