import { chmod, mkdtemp, readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state.kiln(['service', 'stop', 'loud']);
  await state[Symbol.asyncDispose]();
});

const MB = 1e6;
const BOMB = `yes $(head -c 1000 /dev/zero | tr '\\0' x) | head -c ${80 * MB}`;

/** Bytes of all files in a folder. */
async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder);
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

test('a service’s output cannot fill the host’s disk, thanks to its log’s limit', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const folder = await mkdtemp(join(state.beside, 'there-'));
  await chmod(folder, 0o777);
  const bind = `${folder}:/there:rw`;
  const command = ['sh', '-c', `${BOMB}; touch /there/over; exec sleep 3600`];
  const create = ['service', 'create', '-r', IMAGE, '-m', bind, 'loud', '--', ...command];
  const created = await state.kiln(create);
  t.is(created.exitCode, 0, String(created.stderr));
  const started = await state.kiln(['service', 'start', 'loud']);
  t.is(started.exitCode, 0, String(started.stderr));
  while (!(await readdir(folder)).includes('over')) await sleep(200);
  const kept = await bytesIn(dirname(instanceFiles(state.paths, 'loud').log));
  t.true(kept > 20 * MB && kept < 60 * MB, `${kept} bytes`);

  const written = await state.kiln([
    ...['run', '-r', IMAGE, '--bind', bind, '--', 'sh', '-c'],
    `${BOMB} > /there/log`,
  ]);
  t.is(written.exitCode, 0, String(written.stderr));
  t.is((await stat(join(folder, 'log'))).size, 80 * MB);
});
