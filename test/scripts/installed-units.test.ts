/** What becomes of the units of `kiln service install` when a package of kiln goes: its own shell functions, on folders of the test. */
import { existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { ownPath } from '../../src/host/files/held.ts';
import { writeHostUnits } from '../../src/service/definition/host-units.ts';
import type { StoredService } from '../../src/service/lifecycle/store.ts';

const FUNCTIONS = join(import.meta.dirname, '../../packaging/functions.sh');

async function installed(t: ExecutionContext, program: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-units-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const web = { name: 'web', definition: { units: ['apache2'], description: '' } };
  const invocation = { command: [program], env: {} };
  await writeHostUnits([web as unknown as StoredService], invocation, ownPath(folder));
  const wants = join(folder, 'multi-user.target.wants');
  await execa('mkdir', [wants]);
  symlinkSync('../kiln@.service', join(wants, 'kiln@web.service'));
  writeFileSync(join(folder, 'kiln@web.service.d/mine.conf'), '[Service]\nNice=5\n');
  writeFileSync(join(folder, 'other.service'), '[Service]\nExecStart=/usr/bin/true\n');
  return folder;
}

async function call(what: string, folder: string): Promise<void> {
  const script = `set -eu; . '${FUNCTIONS}'; unit_folders='${folder} /nonexistent'; ${what}`;
  const { stderr } = await execa('sh', ['-c', script]);
  if (stderr !== '') throw new Error(stderr);
}

test('removing the package disables units, and purging removes those that kiln wrote', async (t) => {
  const folder = await installed(t, '/usr/lib/kiln/bin/kiln-node');
  await call('disable_units', folder);
  t.deepEqual(readdirSync(join(folder, 'multi-user.target.wants')), []);
  t.true(existsSync(join(folder, 'kiln@.service')));
  await call('remove_units', folder);
  t.deepEqual(readdirSync(folder).toSorted(), [
    ...['kiln@web.service.d', 'multi-user.target.wants', 'other.service'],
  ]);
  t.deepEqual(readdirSync(join(folder, 'kiln@web.service.d')), ['mine.conf']);
});

test('units of another installation of kiln stay', async (t) => {
  const folder = await installed(t, '/opt/kiln/bin/kiln-node');
  const before = readdirSync(folder, { recursive: true });
  await call('remove_units', folder);
  t.deepEqual(readdirSync(folder, { recursive: true }), before);
});
