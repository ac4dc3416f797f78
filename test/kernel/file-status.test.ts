import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { O_PATH } from '../../src/kernel/at.ts';
import { closeDescriptor, closeWritten } from '../../src/kernel/descriptor.ts';
import { FileStatus, isWithoutDevices } from '../../src/kernel/file-status.ts';

test('a mount without devices is told from others', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-status-'));
  const bash = (script: string) => execFileSync('bash', ['-euc', script], { cwd: directory });
  t.teardown(() => {
    bash('umount -l bound mounted || true');
    rmSync(directory, { recursive: true, force: true });
  });
  bash(`mkdir mounted bound; mount -t tmpfs -o dev kiln-test mounted; mkdir mounted/in
    mount --bind mounted bound; mount -o remount,bind,nodev bound`);
  const ask = (path: string, flags: string | number) => {
    const fd = openSync(join(directory, path), flags);
    const answer = isWithoutDevices(fd);
    closeSync(fd);
    return answer;
  };
  for (const flags of ['r', O_PATH] as const) {
    t.false(ask('mounted/in', flags));
    // One file system, another mount.
    t.true(ask('bound/in', flags));
  }
  t.false(isWithoutDevices(-1));
});

test('what is known of a file is what stat(1) says', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-status-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const bash = (script: string) =>
    execFileSync('bash', ['-euc', script], { cwd: directory, encoding: 'utf8' });
  bash(`truncate -s 5G big; echo x >> big; ln big again; chmod 6751 big; touch -d '1960-01-01 00:00:00.0007 UTC' big
    touch -d '2040-01-01 00:00:00.999999999 UTC' late; touch same; mkdir dir`);
  const status = new FileStatus();
  for (const name of ['big', 'late', 'dir']) {
    const fd = openSync(join(directory, name), 'r');
    status.read(fd);
    closeSync(fd);
    const [kind, mode, links, size, blocks, seconds] = bash(
      `stat -c '%F,%a,%h,%s,%b,%Y' ${name}`,
    ).split(',');
    t.is(status.isFile, kind?.startsWith('regular') === true);
    t.is(status.permissions.toString(8), mode ?? '');
    t.deepEqual([status.links, status.size, status.blocks], [links, size, blocks].map(Number));
    t.is(Math.floor(status.mtimeMs / 1000), Number(seconds));
  }
  // All of a time crosses over, to the nanosecond.
  const [from, to] = [
    openSync(join(directory, 'late'), 'r'),
    openSync(join(directory, 'same'), 'r+'),
  ];
  const other = new FileStatus();
  status.read(from);
  other.read(to);
  t.false(other.isUnchangedFrom(status));
  status.setTimesOf(to);
  other.read(to);
  t.true(other.isUnchangedFrom(status));
  t.is(bash('stat -c %y same'), bash('stat -c %y late'));
  closeSync(from);
  closeSync(to);
});

test('an error of close(2) is told for what was written', (t) => {
  t.throws(() => closeWritten(-1), { message: 'close: EBADF' });
  t.notThrows(() => closeDescriptor(-1));
});
