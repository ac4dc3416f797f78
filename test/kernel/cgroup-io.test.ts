import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { backingOf, ioLimitLines, parseIoLimits } from '../../src/host/cgroup/cgroup-usage.ts';

test('cgroup v2 takes one line of io.max, and v1 a line of each throttle file', (t) => {
  // As the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/blkio-controller.rst have them.
  const both = { device: '8:16', read: 2097152, write: 1048576 };
  t.deepEqual(ioLimitLines(2, both), [{ file: 'io.max', line: '8:16 rbps=2097152 wbps=1048576' }]);
  t.deepEqual(ioLimitLines(2, { device: '8:16', write: 5 }), [
    { file: 'io.max', line: '8:16 wbps=5' },
  ]);
  t.deepEqual(ioLimitLines(1, both), [
    { file: 'blkio.throttle.read_bps_device', line: '8:16 2097152' },
    { file: 'blkio.throttle.write_bps_device', line: '8:16 1048576' },
  ]);
  t.deepEqual(ioLimitLines(1, { device: '8:16', read: 5 }), [
    { file: 'blkio.throttle.read_bps_device', line: '8:16 5' },
  ]);
  t.deepEqual(ioLimitLines(2, { device: '8:16' }), []);
});

test('the limits that a kernel shows are parsed', (t) => {
  // The example of cgroup-v2.rst, and a disk that is not limited in bytes.
  const max =
    '8:16 rbps=2097152 wbps=max riops=max wiops=120\n8:0 rbps=max wbps=max riops=9 wiops=9\n';
  t.deepEqual(
    parseIoLimits(2, (file) => (file === 'io.max' ? max : undefined)),
    [{ device: '8:16', read: 2097152 }],
  );
  const v1: Record<string, string> = {
    'blkio.throttle.read_bps_device': '8:16 7\n',
    'blkio.throttle.write_bps_device': '8:16 8\n254:0 9\n',
  };
  t.deepEqual(
    parseIoLimits(1, (file) => v1[file]),
    [
      { device: '8:16', read: 7, write: 8 },
      { device: '254:0', write: 9 },
    ],
  );
  t.deepEqual(
    parseIoLimits(2, () => undefined),
    [],
  );
});

test('the disk below a path is the one that lsblk and findmnt report', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  t.deepEqual(backingOf('/proc'), { kind: 'memory' });
  t.throws(() => backingOf(join(folder, 'none')), { code: 'ENOENT' });
  const find = (column: string) =>
    spawnSync('findmnt', ['-nvo', column, '-T', folder], { encoding: 'utf8' }).stdout.trim();
  const backing = backingOf(folder);
  if (find('MAJ:MIN').startsWith('0:')) {
    t.not(backing.kind, 'disk');
    t.is(backing.kind === 'memory', find('FSTYPE') === 'tmpfs');
    return;
  }
  // lsblk: PKNAME is a partition's disk.
  const lsblk = (...args: string[]) =>
    spawnSync('lsblk', ['-ndo', ...args], { encoding: 'utf8' }).stdout.trim();
  const source = find('SOURCE');
  const disk = lsblk('TYPE', source) === 'part' ? `/dev/${lsblk('PKNAME', source)}` : source;
  t.deepEqual(backing, { kind: 'disk', device: lsblk('MAJ:MIN', disk) });
});

test('an overlay hides its disk, and a tmpfs has none', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-disk-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const module = join(import.meta.dirname, '../../src/host/cgroup/cgroup-usage.ts');
  const script = `set -e; cd "$1"; mkdir all over; mount -t tmpfs tmpfs all
    mkdir all/l all/u all/w; mount -t overlay -o lowerdir=all/l,upperdir=all/u,workdir=all/w o over
    exec "$2" -e "import('$3').then(({backingOf}) =>
      console.log(JSON.stringify([backingOf('all'), backingOf('over')])))"`;
  const args = ['--mount', 'sh', '-c', script, 'sh', folder, process.execPath, module];
  const { stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' });
  t.is(stdout, '[{"kind":"memory"},{"kind":"hidden","fileSystem":"overlay"}]\n', stderr);
});
