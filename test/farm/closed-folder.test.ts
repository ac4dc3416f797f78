import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
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
