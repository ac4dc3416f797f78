import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test, { type ExecutionContext } from 'ava';
import type { Result } from '../../src/result/schema.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

const schema = readFileSync(join(import.meta.dirname, '../../docs/result.schema.json'), 'utf8');
const validate = new Ajv2020({ strict: false, validateFormats: false }).compile(JSON.parse(schema));

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Runs a shell script in a sandbox; gives what kiln said and the result.json it wrote. */
async function run(t: ExecutionContext, script: string, options: readonly string[] = []) {
  const directory = join(state.paths.root, t.title.replace(/\W+/g, '-'));
  const name = IMAGE.slice(0, 12);
  const more = ['--resultdir', directory, ...options, '--', 'sh', '-c', script];
  const { exitCode, stderr, stdout } = await state.kiln(['run', '-r', name, ...more]);
  const result = JSON.parse(readFileSync(join(directory, 'result.json'), 'utf8')) as Result;
  t.true(validate(result), JSON.stringify(validate.errors));
  t.is(exitCode, result.exitStatus, String(stderr));
  return { directory, exitCode, stdout: String(stdout), stderr: String(stderr), result };
}

test.serial('files are copied in and out, and result.json says what happened', async (t) => {
  const input = join(state.paths.root, 'input');
  writeFileSync(input, 'from the host\n');
  const script = `set -e; id -u; stat -c %u /tmp/in/input; mkdir -p o/d; cp /tmp/in/input o/copy
    ln -s copy o/link; ln -s /etc/passwd o/out; ln o/copy o/d/twin; echo x > o/d/x; chmod 750 o/d
    i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done`;
  const { directory, stdout, result } = await run(t, script, [
    '--copy-in',
    `${input}:/tmp/in/`,
    '--workdir',
    '/tmp',
    '--artifact',
    'o',
    '--env',
    'SECRET=hush',
  ]);
  t.is(stdout, '1000\n1000');
  t.deepEqual(result.exit, { code: 0 });
  t.is(result.failure, null);
  t.deepEqual(result.image, { id: IMAGE, name: 'busybox', arch: 'x86_64' });
  t.like(result.policy, {
    uid: 1000,
    noNewPrivileges: true,
    seccomp: 'filter',
    interfaces: ['lo'],
  });
  t.deepEqual(result.request.env, ['SECRET']);
  t.deepEqual(
    result.artifacts.map((a) => a.path),
    ['o', 'o/copy', 'o/d', 'o/d/twin', 'o/d/x', 'o/link'],
  );
  const sums = result.artifacts.filter((a) => a.sha256).map((a) => `${a.sha256}  ${a.path}\n`);
  execFileSync('sha256sum', ['-c', '--strict', '--quiet'], {
    cwd: directory,
    input: sums.join(''),
  });
  t.deepEqual(
    result.warnings.map((w) => w.code),
    ['link-outside'],
  );
  const names = result.phases.map((phase) => phase.name);
  t.deepEqual(names, ['image', 'sandbox', 'copy-in', 'start', 'command', 'artifacts', 'destroy']);
  t.true((result.resources.cpuMs ?? 0) > 5);
  t.true((result.resources.peakMemoryBytes ?? 0) > 100_000);
});

test.serial('artifacts cannot take the place of result.json and the report', async (t) => {
  const script = 'mkdir result.json; echo evil >report.html; echo x >x';
  const options = ['--json', '--workdir', '/tmp', '--artifact', '.'];
  const { result, stderr, directory } = await run(t, script, options);
  t.is(result.exitStatus, 0, stderr);
  t.deepEqual(
    result.artifacts.map(({ path }) => path),
    ['x'],
  );
  t.deepEqual(
    result.warnings.map(({ code }) => code),
    ['reserved-name', 'reserved-name'],
  );
  t.regex(readFileSync(join(directory, 'report.html'), 'utf8'), /^<!doctype html>/i);
  t.deepEqual(JSON.parse(stderr.split('\n').at(-1) ?? ''), result);
});

test.serial('a failure of the command is not a failure of kiln', async (t) => {
  const { result } = await run(t, 'exit 7');
  t.like(result, { exit: { code: 7 }, exitStatus: 7, failure: null, limitHit: null });
});

test.serial('a missing artifact is a failure, beside the command’s own', async (t) => {
  const well = await run(t, 'true', ['--artifact', '/tmp/*.rpm']);
  t.like(well.result, { exit: { code: 0 }, exitStatus: 125 });
  t.like(well.result.failure, { code: 'E_ARTIFACT_MISSING', phase: 'artifacts' });
  const badly = await run(t, 'exit 3', ['--artifact', '/tmp/*.rpm']);
  t.like(badly.result, { exit: { code: 3 }, exitStatus: 3 });
  t.is(badly.result.failure?.code, 'E_ARTIFACT_MISSING');
});

test.serial('the limit that was hit is named', async (t) => {
  const { result } = await run(t, 'tail /dev/zero', ['--memory', '48M']);
  t.is(result.limitHit, 'memory');
  t.true((result.resources.oomKills ?? 0) > 0);
  t.true((result.resources.peakMemoryBytes ?? 0) > 40 * 2 ** 20);
  t.true((result.resources.peakMemoryBytes ?? 0) <= 48 * 2 ** 20);
  // The kernel counts what it refused, however the command ended.
  const forks = await run(t, '(sleep 1 & sleep 1 & sleep 1 & sleep 1 &) || true', ['--pids', '4']);
  t.like(forks.result, { exitStatus: 0, limitHit: 'pids' });
  // That a file system is full is looked at when the command failed.
  const full = 'cat /dev/zero > /tmp/x; exit';
  t.is((await run(t, `${full} 1`, ['--disk', '1M'])).result.limitHit, 'disk');
  t.is((await run(t, `${full} 0`, ['--disk', '1M'])).result.limitHit, null);
});

test.serial('a failure of kiln is reported with its phase', async (t) => {
  const missing = await run(t, 'true', ['--copy-in', '/no/such/file:/tmp/']);
  t.is(missing.exitCode, 125);
  t.like(missing.result, { exit: null, policy: null, image: { id: IMAGE } });
  t.regex(missing.result.id ?? '', /^[0-9a-f]{10}$/);
  t.like(missing.result.failure, { code: 'E_COPY_IN', phase: 'copy-in' });
  t.truthy(missing.result.failure?.hint);
  // No room for the init's second process; no room for the command.
  for (const pids of ['1', '2']) {
    const cramped = await run(t, 'true', ['--pids', pids]);
    t.is(cramped.exitCode, 125);
    t.regex(cramped.result.failure?.hint ?? '', /--pids/, cramped.result.failure?.message);
  }
});

test.serial('a result has samples of the usage over time', async (t) => {
  const script = `dd if=/dev/zero of=/tmp/x bs=1M count=20 2>/dev/null; i=0
    end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do i=$((i+1)); done`;
  const { result, directory } = await run(t, script);
  const { samples = [], resources } = result;
  const { durationMs = 0 } = result.phases.find(({ name }) => name === 'command') ?? {};
  const most = durationMs / 190 + 2;
  t.true(samples.length >= 5 && samples.length <= most, `${samples.length} in ${durationMs} ms`);
  const last = samples.at(-1)!;
  t.true(last.cpuMs <= (resources.cpuMs ?? 0), 'no more than in the end');
  t.true(last.cpuMs > (resources.cpuMs ?? 0) / 4, `${last.cpuMs} of ${resources.cpuMs}`);
  t.true(last.memory > 20 << 20, 'with the file in /tmp');
  t.true(samples.every(({ ms }, at) => at === 0 || ms - samples[at - 1]!.ms >= 190));
  t.regex(readFileSync(join(directory, 'report.html'), 'utf8'), /id="plots"/);
});

test.serial('--no-samples leaves the samples out', async (t) => {
  const { result } = await run(t, 'sleep 1', ['--no-samples']);
  t.is(result.samples, undefined);
});
