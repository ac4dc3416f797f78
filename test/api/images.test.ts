/** Images by the API: made from the packages of the fixtures, by a worker, for whoever wants one. */
import { symlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { connect, type Kiln, type Progress } from '../../src/index.ts';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';

const name = 'debian-minimal';
let state: BusyboxState;
let kiln: Kiln;

test.before(async () => {
  state = await busyboxState();
  const { fixtures } = state.paths;
  // A call has no environment: the place is the one in the state.
  const place = join(state.paths.root, 'fixtures');
  if (fixtures !== place) symlinkSync(fixtures, place);
  kiln = await connect({ state: state.paths.root });
});
test.after.always(async () => {
  kiln?.close();
  await state[Symbol.asyncDispose]();
});

test.serial(
  'opening a sandbox makes a missing image first, and reports the progress',
  async (t) => {
    const told: Progress[] = [];
    {
      await using sandbox = await kiln.open({
        image: name,
        onProgress: (progress) => told.push(progress),
      });
      t.is(sandbox.image.name, name);
      t.regex((await sandbox.exec('rpm -q bash')).stdout, /^bash-\d/);
      await t.throwsAsync(kiln.removeImage(sandbox.image.id), { code: 'E_IMAGE_IN_USE' });
    }
    t.true(
      told.some(({ what, total = 0 }) => /packages/.test(what) && total > 10),
      JSON.stringify(told.slice(0, 5)),
    );
    const found = (await kiln.images()).find((image) => image.name === name);
    t.true((found?.packages ?? 0) > 10);
    t.deepEqual(await kiln.buildImage(name).then(({ id }) => id), found?.id);
  },
);

test.serial('a recipe can be locked, and the lock gives the same image', async (t) => {
  const lock = join(state.beside, 'minimal.lock.json');
  t.is(await kiln.lockImage(name, lock), lock);
  t.truthy(JSON.parse(await readFile(lock, 'utf8')));
  const [made, known] = [await kiln.buildImage(lock), await kiln.buildImage(name)];
  t.is(made.id, known.id);
  await t.throwsAsync(kiln.lockImage('busybox', lock), { code: 'E_ARGUMENT' });
  t.true((await kiln.removeImage(made.id)) >= 0);
  t.false((await kiln.images()).some(({ id }) => id === made.id));
});
