import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { closedFolder } from '../../scripts/farm/pool.ts';

test('closedFolder() names the folder that the pool’s user cannot enter', (t) => {
  const folder = mkdtempSync('/var/tmp/kiln-closed-');
  t.teardown(() => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755);
  const below = join(folder, 'home/kiln');
  mkdirSync(below, { recursive: true, mode: 0o755 });
  t.is(closedFolder(below), undefined);
  chmodSync(join(folder, 'home'), 0o700);
  t.is(closedFolder(below), join(folder, 'home'));
});

test('scripts/farm-demo names that folder before it installs or makes anything', async (t) => {
  const folder = mkdtempSync('/var/tmp/kiln-closed-');
  t.teardown(() => rmSync(folder, { recursive: true }));
  const scripts = join(folder, 'kiln/scripts');
  mkdirSync(scripts, { recursive: true });
  for (const name of ['farm-demo', 'bootstrap.sh'])
    copyFileSync(join(import.meta.dirname, '../../scripts', name), join(scripts, name));
  chmodSync(folder, 0o700);
  const { exitCode, stderr } = await execa(join(scripts, 'farm-demo'), { reject: false });
  t.is(exitCode, 1);
  t.regex(
    stderr,
    RegExp(`^kiln: other users cannot enter ${folder}, and HTCondor runs kiln as one`),
  );
});
