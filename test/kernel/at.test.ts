import { execFileSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { dataExtents } from '../../src/host/calls/descriptor.ts';
import { hasErrno } from '../../src/host/calls/libc.ts';
import {
  linkat,
  mkdirat,
  O_PATH,
  openat2,
  openDirectory,
  openPath,
  RESOLVE_BENEATH,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  renameat,
  setTimes,
  symlinkat,
  unlinkat,
} from '../../src/host/files/at.ts';

/** A directory and a descriptor of it. */
function folder(t: ExecutionContext): { path: string; fd: number } {
  const path = mkdtempSync(join(tmpdir(), 'kiln-at-'));
  const fd = openSync(path, 'r');
  t.teardown(() => {
    closeSync(fd);
    rmSync(path, { recursive: true, force: true });
  });
  return { path, fd };
}

const sh = (cwd: string, script: string) =>
  execFileSync('sh', ['-ec', script], { cwd, encoding: 'latin1' });

function errnoOf(t: ExecutionContext, act: () => unknown, name: string): void {
  const error = t.throws(act, { any: true });
  t.true(hasErrno(error, name), `${error}`);
}

test('openat2 keeps a path inside its root, or below it', (t) => {
  const { path, fd } = folder(t);
  mkdirSync(join(path, 'etc'));
  writeFileSync(join(path, 'etc/passwd'), 'inside');
  symlinkSync('/etc/passwd', join(path, 'absolute'));
  symlinkSync('../../../../etc/passwd', join(path, 'climbing'));
  for (const name of ['absolute', 'climbing', '/etc/passwd', '../etc/passwd']) {
    const file = openat2(fd, name, { flags: 0, resolve: RESOLVE_IN_ROOT });
    t.is(readFileSync(file, 'utf8'), 'inside', name);
    closeSync(file);
    errnoOf(t, () => openat2(fd, name, { flags: 0, resolve: RESOLVE_BENEATH }), 'EXDEV');
  }
  const strict = { flags: 0, resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
  errnoOf(t, () => openat2(fd, 'absolute', strict), 'ELOOP');
  errnoOf(t, () => openat2(fd, 'nothing', strict), 'ENOENT');
});

test('file names are bytes, as coreutils show them', (t) => {
  const { path, fd } = folder(t);
  const name = Buffer.from('a\n\xff\xfe', 'latin1');
  mkdirat(fd, name, 0o755);
  const inner = openDirectory(fd, name);
  symlinkat(name, inner, 'to');
  t.deepEqual(readlinkat(inner, 'to'), name);
  linkat(inner, 'to', fd, 'twin');
  renameat(inner, 'to', fd, 'moved');
  closeSync(inner);
  const seen = sh(path, `find . -mindepth 1 -printf '%P %y %l|'`).split('|').sort();
  t.deepEqual(seen, ['', 'a\n\xff\xfe d ', 'moved l a\n\xff\xfe', 'twin l a\n\xff\xfe']);
  unlinkat(fd, name, { directory: true });
  unlinkat(fd, 'moved');
  unlinkat(fd, 'twin');
  t.is(sh(path, 'ls -A'), '');
  t.throws(() => mkdirat(fd, 'a\0b', 0o755), { instanceOf: TypeError });
});

test('openPath opens the entry itself, of any type, and never blocks', (t) => {
  const { path, fd } = folder(t);
  sh(path, 'mkfifo fifo; ln -s nowhere link; mknod zero c 1 5');
  for (const [name, check] of [
    ['fifo', 'isFIFO'],
    ['link', 'isSymbolicLink'],
    ['zero', 'isCharacterDevice'],
  ] as const) {
    const entry = openPath(fd, name);
    t.true(fstatSync(entry)[check](), name);
    closeSync(entry);
  }
  errnoOf(t, () => openDirectory(fd, 'link'), 'ENOTDIR');
  t.is(O_PATH & 0o10000000, O_PATH);
});

test('times keep their nanoseconds, also before 1970', (t) => {
  const { path, fd } = folder(t);
  writeFileSync(join(path, 'f'), '');
  symlinkSync('f', join(path, 'l'));
  setTimes(fd, { atimeNs: 1_000_000_001n, mtimeNs: -1n }, 'f');
  setTimes(fd, { atimeNs: 0n, mtimeNs: 1_234_567_890_987_654_321n }, 'l');
  t.is(
    sh(path, 'stat -c "%.9X %.9Y" f l'),
    '1.000000001 -0.000000001\n0.000000000 1234567890.987654321\n',
  );
});

test('data and holes are told apart as the file was written', (t) => {
  const { path } = folder(t);
  sh(
    path,
    `truncate -s 10M f; for at in 1 5; do
    dd if=/dev/urandom of=f bs=64k count=1 seek=$((at * 16)) conv=notrunc status=none; done; sync f`,
  );
  const fd = openSync(join(path, 'f'), 'r');
  const found = [...dataExtents(fd, 10 * 2 ** 20)];
  t.deepEqual(found, [
    { offset: 2 ** 20, length: 65536 },
    { offset: 5 * 2 ** 20, length: 65536 },
  ]);
  t.deepEqual([...dataExtents(fd, 2 ** 20 + 10)], [{ offset: 2 ** 20, length: 10 }]);
  t.deepEqual([...dataExtents(fd, 2 ** 20)], []);
  closeSync(fd);
});
