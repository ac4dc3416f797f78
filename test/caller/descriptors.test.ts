/** What the caller has open is kiln's own at most: nothing that kiln starts has it. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { ownSeconds } from '../support/processes.ts';

let state: BusyboxState;
let secret: string;

test.before(async () => {
  state = await busyboxState();
  secret = join(state.paths.root, 'secret');
  await writeFile(secret, 'secret\n', { mode: 0o600 });
});
test.after.always(async () => {
  await state.kiln(['service', 'stop', 'holder']);
  await state[Symbol.asyncDispose]();
});

interface Process {
  readonly pid: number;
  readonly command: string;
  readonly holds: boolean;
}

/** Of the commands: others may sleep on this machine. */
const SECONDS = ownSeconds();

const sleeping = (seconds: string) => new RegExp(`^(?:/bin/)?sleep ${seconds} $`);

/** Every process of the host, and whether it has the secret open. */
function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ');
        const open = readdirSync(`/proc/${name}/fd`).map((fd) => {
          try {
            return readlinkSync(`/proc/${name}/fd/${fd}`);
          } catch {
            return '';
          }
        });
        return [{ pid: Number(name), command, holds: open.includes(secret) }];
      } catch {
        return [];
      }
    });
}

/** kiln, called by somebody who has the secret open as 3 and as 76. */
function call(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const script = 'exec 3<"$1" 76<"$1"; shift; exec "$@"';
  return spawn('bash', ['-c', script, 'bash', secret, KILN, ...args], {
    env: { ...state.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** Waits until a process is there for each pattern, and gives those. */
async function appear(...patterns: RegExp[]): Promise<Process[]> {
  for (const end = Date.now() + 60_000 * PATIENCE; ; await sleep(50)) {
    const all = processes();
    const found = patterns.map((pattern) => all.find(({ command }) => pattern.test(command)));
    if (found.every((it) => it !== undefined)) return found;
    if (Date.now() > end) throw new Error(`no process for ${patterns.join(', ')}`);
  }
}

/**
 * Those that hold the secret, but the one that was called. What it starts has all of its descriptors for a moment,
 * until it becomes another program.
 */
async function others(called: ChildProcess): Promise<Process[]> {
  const found = () => processes().filter(({ pid, holds }) => holds && pid !== called.pid);
  await until(() => found().length === 0);
  return found();
}

test.serial('a command, libvirtd and its helpers get no descriptor of the caller', async (t) => {
  const kiln = call(['run', '-r', IMAGE, '--egress', 'a.example', '--', 'sleep', SECONDS]);
  await appear(
    new RegExp(`libvirtd.*${state.paths.run}/`),
    new RegExp(`libvirt_lxc .*${domainPrefix(state.paths)}`),
    /egress-proxy/,
    sleeping(SECONDS),
  );
  t.deepEqual(await others(kiln), []);
  // The test sees such things: kiln itself was given them.
  t.true(processes().some(({ pid, holds }) => pid === kiln.pid && holds));
  kiln.kill('SIGTERM');
  await once(kiln, 'exit');
});

test.serial('the daemon and its children get no descriptor of the caller', async (t) => {
  // The client leaves it to a process of its own where that is set.
  const kiln = call(['run', '-r', IMAGE, '--', 'sleep', SECONDS], { KILN_FROM_SOURCE: '' });
  await appear(sleeping(SECONDS));
  t.truthy(daemonPid(state.paths.root));
  t.deepEqual(await others(kiln), []);
  t.true(processes().some(({ pid, holds }) => pid === kiln.pid && holds));
  kiln.kill('SIGTERM');
  await once(kiln, 'exit');
});

test.serial(
  'a recipe program and its commands, on either side, get no descriptor of the caller',
  async (t) => {
    const onHost = ownSeconds();
    const folder = join(state.paths.root, 'recipe');
    await mkdir(folder);
    await writeFile(
      join(folder, 'it.ts'),
      `import { defineRecipe, $host } from 'kiln';
import { $ } from 'zx';
export default defineRecipe({ image: '${IMAGE.slice(0, 12)}', sandbox: { workdir: '/tmp' },
  steps: [async function work() { await Promise.all([$\`sleep ${SECONDS}\`, $host\`exec sleep ${onHost}\`]); }] });`,
    );
    const args = [
      'build',
      join(folder, 'it.ts'),
      '--allow-host',
      '--resultdir',
      join(folder, 'out'),
    ];
    const kiln = call(args);
    // A recipe's command on the host is waited for when kiln is asked to end.
    t.teardown(() => kiln.kill('SIGKILL'));
    await appear(/:recipe-script $/, new RegExp(`sleep ${SECONDS} $`), sleeping(onHost));
    t.deepEqual(await others(kiln), []);
    kiln.kill('SIGKILL');
    await once(kiln, 'exit');
    // kilnd's worker ends the job by itself, and writes what came of it meanwhile.
    await rm(folder, { recursive: true, maxRetries: 50, retryDelay: 100 });
  },
);

test.serial('a supervisor, guardian and service get no descriptor of the caller', async (t) => {
  const command = ['holder', '--', '/bin/sleep', SECONDS];
  const made = await state.kiln(['service', 'create', '-r', IMAGE, ...command]);
  t.is(made.exitCode, 0, String(made.stderr));
  const kiln = call(['service', 'start', 'holder']);
  await appear(sleeping(SECONDS), /:supervise .*:holder $/, /kiln-holder /);
  t.deepEqual(await others(kiln), []);
  if (kiln.exitCode === null) await once(kiln, 'exit');
  t.deepEqual(await others(kiln), []);
});
