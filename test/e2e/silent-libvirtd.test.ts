import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import test from 'ava';
import { execa } from 'execa';
import { isWatchedNow } from '../../src/host/libvirt/controllers.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { stopped } from '../support/stopped.ts';

/**
 * What kiln does while its libvirtd is stopped (SIGSTOP): the kernel accepts connections for it, and
 * nobody ever answers.
 */
let state: BusyboxState;
let libvirtd: number;
let sleeper: ReturnType<BusyboxState['kiln']>;

/** So many seconds kiln waits here. */
const WAIT = 2 * PATIENCE;

/** A command has so long to start and to end besides, ms. */
const MORE = 8000 * PATIENCE;

test.before(async () => {
  state = await busyboxState();
  await startSleeper();
  libvirtd = Number(await readFile(embeddedFiles(state.paths).pid, 'utf8'));
});

/** Of which libvirtd will see the end; Domain.isWatched() says why it may not. */
async function startSleeper(): Promise<void> {
  sleeper = state.kiln(['run', '-r', IMAGE, '--', 'sleep', '1000'], {
    timeout: 300_000 * PATIENCE,
  });
  await eventually(async () => (await domainOfSleeper()) !== undefined);
  const domain = await domainOfSleeper();
  if (domain !== undefined && isWatchedNow(domain)) return;
  sleeper.kill('SIGTERM');
  await sleeper;
  await startSleeper();
}

async function domainOfSleeper(): Promise<string | undefined> {
  const { stdout } = await state.kiln(['ps']);
  return /(kiln-\S+) +sleep 1000$/m.exec(String(stdout))?.[1];
}

test.after.always(async () => {
  process.kill(libvirtd, 'SIGCONT');
  sleeper.kill('SIGKILL');
  await sleeper;
  await state[Symbol.asyncDispose]();
});

async function silent(args: readonly string[]) {
  using _ = await stopped(libvirtd);
  const began = Date.now();
  const { exitCode, stdout, stderr } = await state.kiln(args, {
    env: { ...state.env, KILN_PATIENCE: String(WAIT) },
  });
  const text = { stdout: String(stdout), stderr: String(stderr) };
  return { exitCode, ...text, took: Date.now() - began };
}

const waiting = () =>
  `kiln: waiting for libvirtd (pid ${libvirtd}, embedded), which is stopped: \`kill -CONT ${libvirtd}\` lets it go on`;

for (const args of [['run', '-r', IMAGE, '--', 'true'], ['gc']]) {
  test.serial(`kiln ${args[0]} names the process it waits for, and ends`, async (t) => {
    const { exitCode, stderr, took } = await silent(args);
    t.is(exitCode, 125, stderr);
    t.true(took < WAIT * 1000 + MORE, `${took} ms`);
    t.is(stderr.split('\n').filter((line) => line === waiting()).length, 1, stderr);
    t.regex(stderr, /gave up waiting for libvirtd \(pid \d+, embedded\), which is stopped, after/);
    t.true(stderr.includes(`hint: \`kill -CONT ${libvirtd}\``), stderr);
    // The daemon that has a sandbox was not replaced.
    t.is(Number(await readFile(embeddedFiles(state.paths).pid, 'utf8')), libvirtd);
  });
}

test.serial('a run waits for libvirtd no longer than its command may take', async (t) => {
  using _ = await stopped(libvirtd);
  const began = Date.now();
  const { exitCode, stderr } = await state.kiln(
    ['run', '--timeout', '6s', '-r', IMAGE, '--', 'true'],
    // Without a patience of its own: a minute.
    { timeout: 55_000, env: { ...state.env, KILN_PATIENCE: '60' } },
  );
  t.is(exitCode, 125, String(stderr));
  const [, after] = /gave up waiting for libvirtd .*, after (\d+\.\d) s/.exec(String(stderr)) ?? [];
  t.true(Number(after) >= 6 && Number(after) < 6 + MORE / 1000, String(stderr));
  t.true(Date.now() - began < 6000 + MORE);
});

test.serial('kiln ps does not ask libvirtd', async (t) => {
  const { exitCode, stdout, stderr } = await silent(['ps']);
  t.is(exitCode, 0, stderr);
  t.regex(stdout, /running/);
});

test.serial('kiln doctor says that libvirtd is stopped', async (t) => {
  const { exitCode, stdout, took } = await silent(['doctor', 'libvirt', 'sandbox']);
  t.is(exitCode, 1);
  t.true(took < WAIT * 1000 + MORE, `${took} ms`);
  t.regex(stdout, /^fail {2}libvirt {2}gave up waiting for libvirtd \(pid \d+, embedded\)/m);
  t.is(stdout.split(`mend:  \`kill -CONT ${libvirtd}\` lets it go on`).length - 1, 2, stdout);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  test.serial(`the first ${signal} ends a run that waits`, async (t) => {
    using _ = await stopped(libvirtd);
    const command = execa(KILN, ['run', '-r', IMAGE, '--', 'true'], {
      env: { ...state.env, KILN_PATIENCE: '6' },
      reject: false,
      stdin: 'ignore',
      timeout: 60_000 * PATIENCE,
      killSignal: 'SIGKILL',
    });
    const [said] = await once(command.stderr, 'data');
    t.is(String(said).trim(), waiting());
    const began = Date.now();
    command.kill(signal);
    const { exitCode, stderr } = await command;
    t.is(exitCode, 130, stderr);
    t.true(Date.now() - began < 1000 * PATIENCE, `${Date.now() - began} ms`);
  });
}

test.serial('a libvirtd that goes on serves the runs that waited', async (t) => {
  const held = await stopped(libvirtd);
  const run = state.kiln(['run', '-r', IMAGE, '--', 'echo', 'done'], {
    env: { ...state.env, KILN_PATIENCE: String(30 * PATIENCE) },
  });
  const [said] = await once(run.stderr as NodeJS.ReadableStream, 'data');
  t.is(String(said).trim(), waiting());
  held[Symbol.dispose]();
  const { exitCode, stdout, stderr } = await run;
  t.is(exitCode, 0, String(stderr));
  t.is(stdout, 'done');
});

test.serial('kiln kill ends a command although libvirtd does not answer', async (t) => {
  const { stdout } = await state.kiln(['ps']);
  const [, id = ''] = /^(\S+) .*sleep 1000/m.exec(String(stdout)) ?? [];
  const { exitCode, stderr, took } = await silent(['kill', id]);
  t.is(exitCode, 0, stderr);
  t.true(took < MORE, `${took} ms`);
  t.is((await sleeper).exitCode, 125);
});
