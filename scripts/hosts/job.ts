/**
 * Runs on a host of scripts/test-hosts: the end-to-end tests and what only a real systemd host can
 * show, with each engine. Writes TAP to results/tap.txt and, for whoever watches, to the second
 * serial line. It may ask for a reboot (see payload.ts), and goes on after it with `--booted`.
 */
import {
  appendFileSync,
  chmodSync,
  createWriteStream,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { type BusyboxState, busyboxState } from '../../test/support/busybox-state.ts';
import { Leftovers } from '../testing/leftovers.ts';
import { TapReader } from '../testing/tap.ts';
import { checkDaemon } from './check-daemon.ts';
import { checkImage } from './check-image.ts';
import { checkLabels } from './check-labels.ts';
import { checkLimits } from './check-limits.ts';
import { checkMachined } from './check-machined.ts';
import { checkMachines } from './check-machines.ts';
import { checkModules } from './check-modules.ts';
import { checkPackage } from './check-package.ts';
import { checkHonesty, checkPolicy, withBarePolicy } from './check-policy.ts';
import { checkBoot, checkServices, leaveServices } from './check-services.ts';
import { checkSession } from './check-session.ts';
import { walkThrough } from './check-walkthrough.ts';

const RESULTS = '/srv/results';

/** Whoever finds it reboots the host when the job has ended. */
const REBOOT = '/srv/reboot';
const LIVE = '/dev/ttyS1';

/** Where everything temporary is. */
const TEMPORARY = '/tmp/kiln-hosts';

const engines: Readonly<Record<string, string>> = { embedded: '', system: 'lxc:///system' };

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: 'a' },
    engine: { type: 'string' },
    only: { type: 'string' },
    match: { type: 'string', multiple: true, default: [] },
    booted: { type: 'boolean', default: false },
  },
});
const live = createWriteStream(LIVE);
live.on('error', () => undefined);
let count = 0;

function print(text: string): void {
  appendFileSync(join(RESULTS, 'tap.txt'), `${text}\n`);
  live.write(`${text}\n`);
}

function result(passed: boolean, name: string): void {
  count++;
  print(`${passed ? 'ok' : 'not ok'} ${count} - ${name}`);
}

/** One test: passed if it does not throw. */
async function check(name: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
    result(true, name);
  } catch (error) {
    result(false, name);
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    print(text.replace(/^/gm, '    '));
  }
}

/** Runs test files with ava and takes over their results. */
async function runTests(engine: string, files: readonly string[]): Promise<void> {
  const reader = new TapReader();
  const match = values.match.map((pattern) => `--match=${pattern}`);
  const ava = execa(
    process.execPath,
    ['node_modules/ava/entrypoints/cli.js', '--tap', '--timeout=60m', ...match, ...files],
    {
      ...({ stdin: 'ignore', stderr: 'inherit', buffer: false, reject: false } as const),
      // As scripts/testing/run.ts: a test with another init wants no sandbox that was parked before.
      env: { KILN_PARKED: '0', KILN_IDLE: '20s' },
    },
  );
  for await (const line of ava) {
    const test = reader.line(line);
    if (test !== undefined) result(test.outcome === 'passed', `${engine}: ${test.name}`);
    else print(`    ${line}`);
  }
  await ava;
  if (reader.planned === undefined) result(false, `${engine}: ava came to its end`);
}

/** A check is wanted unless `--only` names others. */
function wanted(name: string): boolean {
  return values.only === undefined || values.only.split(',').includes(name);
}

async function onEngine(engine: string, uri: string): Promise<void> {
  process.env.KILN_URI = uri;
  if (wanted('doctor')) {
    await check(`${engine}: kiln doctor finds nothing to mend`, async () => {
      const { stdout, exitCode } = await execa('bin/kiln', ['doctor'], { reject: false });
      print(stdout.replace(/^/gm, '    '));
      if (exitCode !== 0) throw new Error(`kiln doctor ended with status ${exitCode}`);
    });
  }
  const state = `/var/lib/kiln-${engine}`;
  using left = new Leftovers([TEMPORARY, state]);
  if (wanted('limits')) {
    await check(`${engine}: limits are in force in the cgroups of the sandbox`, () =>
      onState(checkLimits),
    );
  }
  if (wanted('modules')) {
    await check(`${engine}: a sandbox loads no module of the host’s`, () => onState(checkModules));
  }
  // Only where it is named: it takes qemu and a kernel, which main.ts puts on the disk then.
  if (values.only?.split(',').includes('machines')) {
    await check(`${engine}: the qemu of a machine has a label of its own`, () =>
      onState(checkMachines),
    );
  }
  if (wanted('session')) {
    await check(`${engine}: a kept sandbox outlives the unit that started it`, () =>
      onState(checkSession),
    );
  }
  if (wanted('daemon')) {
    await check(`${engine}: kilnd runs in units of the host’s systemd`, () => onState(checkDaemon));
  }
  if (wanted('labels')) {
    await check(`${engine}: a sandbox has the host’s labels, and keeps others out`, () =>
      onState(checkLabels),
    );
    await runTests(engine, ['test/sandbox/layers.test.ts', 'test/sandbox/parked.test.ts']);
  }
  if (wanted('e2e')) {
    await runTests(engine, ['test/e2e/run.test.ts', 'test/e2e/state-mount.test.ts']);
  }
  if (wanted('escape')) {
    await withBarePolicy(() => runTests(engine, ['test/escape/escape.test.ts']));
  }
  if (wanted('users')) {
    await runTests(engine, ['test/users/run.test.ts', 'test/users/attempts.test.ts']);
  }
  if (wanted('image')) {
    await check(`${engine}: an image from the fixture repository compiles a program`, () =>
      checkImage(state),
    );
  }
  if (wanted('services') && values.host === 'a') {
    await check(`${engine}: services run under the host’s systemd`, checkServices);
  }
  // The system's libvirtd registers its containers itself, by names of its own.
  if (wanted('machined') && engine === 'embedded') {
    await check('systemd-machined knows services', checkMachined);
  }
  await check(`${engine}: nothing is left behind`, async () => {
    const found = await left.find();
    if (found.length > 0) throw new Error(found.join('\n'));
  });
}

async function onState(work: (state: BusyboxState) => Promise<void>): Promise<void> {
  await using state = await busyboxState();
  await work(state);
}

/** The results of before the host was booted again count, too. */
function resultsSoFar(): number {
  const reader = new TapReader();
  for (const line of readFileSync(join(RESULTS, 'tap.txt'), 'utf8').split('\n')) reader.line(line);
  return reader.results.length;
}

// A wait that nothing can end any more is to show as hanging, not as the end of the job.
const alive = setInterval(() => undefined, 1 << 30);
process.env.KILN_FROM_SOURCE = '';
process.env.TMPDIR = TEMPORARY;
mkdirSync(TEMPORARY, { recursive: true });
// Sandboxes reach their images through it with ids of their own.
chmodSync(TEMPORARY, 0o711);
let over = true;
if (values.booted) {
  count = resultsSoFar();
  await check('the services come up with the host', checkBoot);
} else {
  if (values.host === 'b') await check('kiln’s policy module is loaded', checkPolicy);
  if (values.host === 'b' && wanted('labels')) {
    await check('kiln says so where labels hold nothing, and refuses', () => onState(checkHonesty));
  }
  if (wanted('package') && values.host === 'a') {
    await check('the .deb is installed, upgraded and removed', () =>
      onState((state) => checkPackage('/srv/kiln.deb', state)),
    );
  }
  if (values.only?.split(',').includes('walkthrough') && values.host === 'a') {
    await walkThrough({ check, report: join(RESULTS, 'walkthrough.txt'), only: values.match });
  }
  for (const [engine, uri] of Object.entries(engines)) {
    if (values.engine === undefined || values.engine === engine) await onEngine(engine, uri);
  }
  if (wanted('services') && values.host === 'a') {
    over = false;
    await check('services are left for the host to start', leaveServices);
    writeFileSync(REBOOT, '');
  }
}
clearInterval(alive);
if (over) print(`1..${count}`);
live.end();
