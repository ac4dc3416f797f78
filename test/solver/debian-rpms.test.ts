import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { lockOf, nevras, repository } from '../repository/open.ts';
import { askDnf } from './dnf.ts';

test('dnf chooses the same packages for a whole build root, and the answer is kept', async (t) => {
  const { directory, keyPath } = await ensureDebianRpms();
  const cache = await mkdtemp(join(tmpdir(), 'kiln-debian-rpms-'));
  t.teardown(() => rm(cache, { recursive: true }));
  const config = repository({ id: 'debian', directory, gpgcheck: true, gpgkey: keyPath });
  const install = ['buildsys-build'];
  const lock = await lockOf([config], cache, { install });
  t.true(lock.packages.length > 150);
  t.deepEqual([nevras(lock)], await askDnf([{ directories: [directory], install }]));
  const order = lock.packages.map(({ name }) => name);
  t.true(order.indexOf('base-files') < order.indexOf('libc6'));
  t.true(order.indexOf('libc6') < order.indexOf('bash'));

  // Nothing that a solver would need is there any more.
  await rm(join(cache, 'solv'), { recursive: true });
  t.deepEqual(await lockOf([config], cache, { install }), lock);
  t.false((await readdir(cache)).includes('solv'));
});
