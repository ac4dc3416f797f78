import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { ownPath } from '../../src/host/files/held.ts';
import { Records } from '../../src/jobs/chain/records.ts';

const PLANTED: Readonly<Record<string, (path: string) => unknown>> = {
  'a link': (path) => symlinkSync('/etc/passwd', path),
  'a fifo': (path) => execFileSync('mkfifo', [path]),
  'a device': (path) => execFileSync('mknod', [path, 'c', '1', '3']),
};

for (const [what, plant] of Object.entries(PLANTED)) {
  test(`${what} in place of the lock of a chain is reported under its own path`, async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'kiln-records-'));
    t.teardown(() => rmSync(directory, { recursive: true }));
    mkdirSync(join(directory, '.kiln'));
    plant(join(directory, '.kiln/lock'));
    using records = Records.open(ownPath(directory));
    await t.throwsAsync(records.lock(), {
      code: 'E_RESULTDIR',
      message: `${directory}/.kiln/lock cannot be locked: it is not a plain file`,
    });
  });
}

test('a result folder takes one chain at a time', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-records-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  using records = Records.open(ownPath(directory));
  const lock = await records.lock();
  using others = Records.open(ownPath(directory));
  await t.throwsAsync(others.lock(), { code: 'E_CHAIN_BUSY' });
  await lock.release();
  await using again = await others.lock();
  t.truthy(again);
});
