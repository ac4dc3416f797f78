/** A process that the kernel cannot end, since it reads a file of a user's file system that nobody answers for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa, type ResultPromise } from 'execa';
import { statOf } from '../../src/host/process/process.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

interface Context extends UserState {
  readonly place: string;
  readonly server: ChildProcess;
}

const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const state = await userState('  limits: { sandboxes: 2 }\n');
  const place = join(state.beside, 'place');
  mkdirSync(place);
  chmodSync(place, 0o777);
  const program = join(place, 'stuck');
  const source = join(import.meta.dirname, '../support/stuck.c');
  await execa('cc', ['-std=gnu17', '-O1', '-Wall', '-Werror', '-static', '-o', program, source]);
  const server = spawn(program, ['give', join(place, 'sock')], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  await once(server.stdout ?? server, 'data');
  // What is nobody's in the sandbox cannot be connected to there.
  chownSync(join(place, 'sock'), USER.uid, USER.gid);
  t.context = { ...state, place, server };
});

test.after.always(async ({ context: { server, [Symbol.asyncDispose]: end } }) => {
  if (server.exitCode === null) process.kill(-Number(server.pid), 'SIGKILL');
  await end();
});

interface Listed {
  readonly id: string;
  readonly state: string;
  readonly memoryBytes?: number;
  readonly endless?: readonly { readonly pid: number; readonly waitsIn: string }[];
}

async function listed(state: UserState): Promise<Listed[]> {
  return JSON.parse(String((await state.kiln(['ps', '--json'])).stdout));
}

/** Starts a run whose command cannot be ended any more once this resolves. */
async function stuck(
  state: Context,
): Promise<{ readonly run: ResultPromise; readonly id: string }> {
  const before = (await listed(state)).map(({ id }) => id);
  const bind = ['--bind', `${state.place}:/place`];
  const run = state.as(USER, [
    'run',
    '-r',
    'busybox',
    ...bind,
    '--',
    '/place/stuck',
    'take',
    '/place/sock',
  ]);
  await once(run.stdout as NodeJS.ReadableStream, 'data');
  const own = (await listed(state)).find(({ id }) => !before.includes(id));
  return { run, id: own?.id ?? '' };
}

for (const parked of [true, false]) {
  test.serial(`a sandbox that cannot end blocks only itself; parked: ${parked}`, async (t) => {
    const state = t.context;
    await state.kiln(['park', parked ? '--number=1' : '--none']);
    const { run, id } = await stuck(state);
    const killed = state.kiln(['kill', id]);
    let isOver = false;
    const over = Promise.all([killed, run]).finally(() => {
      isOver = true;
    });
    const waits: number[] = [];
    while (!isOver || waits.length < 3) {
      const began = performance.now();
      const other = await state.as(OTHER, ['run', '-r', 'busybox', '--', 'true']);
      t.is(other.exitCode, 0, String(other.stderr));
      waits.push(performance.now() - began);
    }
    // libvirtd waits for nine seconds.
    t.true(Math.max(...waits) < 3000 * PATIENCE, waits.map(Math.round).join(' '));
    const [kill, ended] = await over;
    t.is(kill.exitCode, 125);
    t.regex(String(kill.stderr), /cannot end: process \d+ waits in the kernel \(\w+/);
    t.is(ended.exitCode, 125);
    t.regex(String(ended.stderr), / cannot end: .*\[E_DESTROY\]/);
    const found = (await listed(state)).find((one) => one.id === id);
    t.is(found?.state, 'ending');
    // Its own: neither what other sandboxes have nor the machine.
    t.true(
      Number(found?.memoryBytes) > 0 && Number(found?.memoryBytes) < 32 * 2 ** 20,
      String(found?.memoryBytes),
    );
    t.is(found?.endless?.length, 1);
    const [process] = found?.endless ?? [];
    t.is(statOf(Number(process?.pid))?.[0], 'D');
    const table = await state.as(USER, ['ps']);
    t.regex(String(table.stdout), new RegExp(`${id} +ending`));
    t.regex(String(table.stderr), new RegExp(`sandbox ${id} cannot end: process ${process?.pid} `));
  });
}

test.serial('a sandbox that cannot end counts until it has ended', async (t) => {
  const state = t.context;
  t.is((await listed(state)).filter((one) => one.state === 'ending').length, 2);
  const next = state.as(USER, ['run', '-r', 'busybox', '--', 'true']);
  let said = '';
  next.stderr?.on('data', (text) => {
    said += text;
  });
  t.true(await until(() => said.includes('waiting until one of your 2 sandboxes ends')), said);
  t.is((await state.kiln(['run', '-r', 'busybox', '--', 'true'])).exitCode, 0);
  // What root's gc cannot remove it leaves.
  t.is((await state.kiln(['gc'])).exitCode, 0);
  t.is((await listed(state)).filter((one) => one.state === 'ending').length, 2);
  process.kill(-Number(state.server.pid), 'SIGKILL');
  const ran = await next;
  t.is(ran.exitCode, 0, String(ran.stderr));
  await state.kiln(['gc']);
  t.deepEqual(await listed(state), []);
});
