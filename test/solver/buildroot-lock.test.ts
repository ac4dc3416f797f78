import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import { exportBuildrootLock } from '../../src/jobs/rpmbuild/buildroot/root-files.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import { MirrorServer } from '../repository/mirror-server.ts';
import { lockOf, repository } from '../repository/open.ts';
import {
  buildPackages,
  createRepository,
  temporaryDirectory,
} from '../repository/rpm-repository.ts';

/** What mock's own query_packages() asks rpm for (installed_packages.py), with its field names. */
const FIELDS = ['name', 'arch', 'license', 'version', 'release', 'epoch', 'sigmd5'];

test('the lock of a build root says of each package what rpm says', async (t) => {
  const directory = await temporaryDirectory(t);
  const rpms = join(directory, 'rpms');
  await buildPackages(rpms, [
    { name: 'zebra', requires: ['apple', 'middle'] },
    { name: 'middle', epoch: 3, requires: ['apple'] },
    { name: 'apple', arch: 'x86_64' },
  ]);
  await createRepository(rpms);
  await using server = await MirrorServer.start(rpms);
  const paths = { cache: join(directory, 'cache') };
  const config = repository({ id: 'base', baseurl: server.url, gpgcheck: false });
  const lock = await lockOf([config], paths.cache, { install: ['zebra'] });
  const files = await fetchPackages(lock, { paths });
  const exported = await exportBuildrootLock(lock, files, { paths });

  const query = `${FIELDS.map((field) => `%{${field}}`).join('|/@')}\\n`;
  const { stdout } = await execa('rpm', ['-qp', '--qf', query, ...files.values()]);
  const expected = stdout.split('\n').map((line) => {
    const values = line.split('|/@').map((value) => (value === '(none)' ? null : value));
    return Object.fromEntries([
      ['signature', null],
      ...FIELDS.map((field, index) => [field, values[index]]),
    ]);
  });
  expected.sort((a, b) => (a.name < b.name ? -1 : 1));
  t.deepEqual(
    exported.buildroot.rpms.map(({ url: _, ...fields }) => fields),
    expected,
  );
  t.is(exported.buildroot.rpms[0]?.url, `${server.url}apple-1-1.x86_64.rpm`);

  const local = await lockOf([repository({ id: 'local', directory: rpms })], paths.cache, {
    install: ['apple'],
  });
  const { buildroot } = await exportBuildrootLock(
    local,
    await fetchPackages(local, { paths: { cache: join(directory, 'local') } }),
    { paths },
  );
  t.is(buildroot.rpms[0]?.url, pathToFileURL(join(rpms, 'apple-1-1.x86_64.rpm')).href);
});
